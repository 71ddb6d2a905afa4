"""The parameters of an HRM, the tokens that it sees, and the values that its states mean."""

import torch
from torch import Tensor, nn

from hrm_fast.backends.plain import head_of
from hrm_fast.config import MARKS, HRMConfig
from hrm_fast.layers import Block, learned_positions, truncated_normal, weight

GOAL, START, FLOOR = (ord(mark) for mark in "><.")


class Weights(nn.Module):
    """The parameters; the puzzle token's, `puzzle` [D], is trained by sign-SGD as published.

    `start_H` and `start_L` [D] are the fixed random states that a first decision starts from.
    """

    start_H: Tensor
    start_L: Tensor
    seen: Tensor | None  # int64 [T - 1]: the cells that have a token; None: all of them

    def __init__(self, config: HRMConfig) -> None:
        """Initialise them at random, float32 on the CPU whatever torch's defaults are."""
        super().__init__()
        self.config = config
        width = config.width
        self.embed = nn.Parameter(truncated_normal(config.vocab_size, width, std=width**-0.5))
        self.position: nn.Parameter | None = None
        if "learned" in config.positions:
            self.position = nn.Parameter(learned_positions(config))
        self.puzzle = nn.Parameter(torch.zeros(width, dtype=torch.float32, device="cpu"))
        self.L = nn.ModuleList(Block(config) for _ in range(config.l_layers))
        self.H = nn.ModuleList(Block(config) for _ in range(config.h_layers))
        self.q_head = weight(config.actions, width)
        if config.zero_head:
            nn.init.zeros_(self.q_head)
        if config.halting:
            self.halt_head = nn.Linear(width, 2, dtype=torch.float32, device="cpu")
            nn.init.zeros_(self.halt_head.weight)
            nn.init.constant_(self.halt_head.bias, -5.0)
        self.register_buffer("start_H", truncated_normal(width, std=1.0))
        self.register_buffer("start_L", truncated_normal(width, std=1.0))
        seen = torch.tensor(config.seen, dtype=torch.int64, device="cpu") if config.walls else None
        self.register_buffer("seen", seen, persistent=False)

    @property
    def dtype(self) -> torch.dtype:
        """dtype of the states: bfloat16, or that of the weights."""
        return torch.bfloat16 if self.config.dtype == "bfloat16" else self.embed.dtype

    def in_order(self) -> list[nn.Parameter]:
        """The parameters as back ends want them: embed, position (where learned), puzzle, then
        qkv, out, gate_up, down of each block of L, then of H, and the Q head."""
        position = [] if self.position is None else [self.position]
        blocks = [*self.L.parameters(), *self.H.parameters()]
        return [self.embed, *position, self.puzzle, *blocks, self.q_head]

    def shown(self, tokens: Tensor) -> Tensor:
        """The cells as the model sees them, uint8 [B, T - 1]: those that have a token.

        With q_token "goal", floor replaces the goal and the start mark.
        """
        tokens = tokens if self.seen is None else tokens[:, self.seen]
        if self.config.q_token != "goal":
            return tokens
        return tokens.masked_fill((tokens == GOAL) | (tokens == START), FLOOR)

    def token_of(self, cell: Tensor) -> Tensor:
        """Index of each cell's token, int64 [...] -> int64 [...]; token 0 is the puzzle token.

        The cells must have a token.
        """
        before = cell if self.seen is None else torch.searchsorted(self.seen, cell)
        return before + 1

    def read_at(self, tokens: Tensor) -> Tensor | None:
        """int64 [B]: the token that Q is read from; None: the mean of all."""
        if self.config.q_token == "mean":
            return None
        if code := MARKS.get(self.config.q_token):
            return self.token_of((tokens == code).to(torch.uint8).argmax(1))
        last = self.config.tokens - 1
        return torch.full((len(tokens),), last, dtype=torch.int64, device=tokens.device)

    def q_values(self, z_H: Tensor, tokens: Tensor) -> Tensor:
        """q float32 [B, A] of the states z_H [B, T, D], read at the token that the config names."""
        read = self.read_at(tokens)
        board = torch.arange(len(tokens), dtype=torch.int64, device=tokens.device)
        z = z_H.mean(1) if read is None else z_H[board, read]
        return self.activated(head_of(z, self.q_head))

    def values_of_cells(self, z_H: Tensor) -> Tensor:
        """Q values float32 [B, cells, A] of every cell as the goal, given z_H [B, T, D].

        0 for a wall that has no token.
        """
        q = self.activated(head_of(z_H[:, 1:], self.q_head))
        if self.seen is None:
            return q
        return q.new_zeros(len(q), self.config.cells, q.shape[-1]).index_copy(1, self.seen, q)

    def activated(self, logits: Tensor) -> Tensor:
        """Q values of the head's logits: the logits themselves, but their sigmoid with q_token
        "goal", where a value is the discounted probability of reaching the goal."""
        return logits.sigmoid() if self.config.q_token == "goal" else logits
