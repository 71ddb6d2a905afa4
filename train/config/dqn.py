"""The settings of deep Q-learning, each with its limits."""

from dataclasses import dataclass

from hrm_fast.config import make_plain


def require(name: str, value: object, good: bool, expected: str) -> None:
    if not good:
        raise ValueError(f"{name} is {value!r}: expected {expected}")


MOST = 10**12  # of what is counted
DQN_RANGES: dict[str, tuple[float, float]] = {  # those not named here: 0 to 1
    **dict.fromkeys(("num_mazes", "batch_size"), (1, 2**20)),
    **dict.fromkeys(("replay_size", "learning_starts"), (1, MOST)),
    "n_step": (1, 1_000),
    "hindsight": (0, 1_000),
    "max_abs_reward": (0, MOST),
    "max_grad_norm": (0, MOST),
    **dict.fromkeys(("epsilon_updates", "warmup_updates"), (0, MOST)),
    **dict.fromkeys(("beta1", "beta2", "muon_momentum"), (0, 0.999999)),
}


@dataclass(frozen=True)
class DQNConfig:
    """Deep Q-learning (Mnih et al. 2015) as HRM-Agent uses it; defaults as published."""

    num_mazes: int = 256
    """Mazes that are walked side by side."""
    batch_size: int = 256
    """Transitions in a sampled batch, trained on once per segment."""
    replay_size: int = 1_048_576
    """Transitions that the replay keeps."""
    learning_starts: int = 1_024
    """Transitions that are collected before the first update."""
    n_step: int = 1
    """Rewards summed before the target bootstraps."""
    hindsight: int = 0
    """With hrm.q-token goal: the cells that the agent reaches within so many steps after a
    transition bound the values of these goals from below (0: none do)."""
    max_abs_reward: float = 1.0
    """Rewards are learned from as if they were at most this far from 0 (Mnih et al. clip them)."""
    gamma: float = 0.95
    """Discount of one environment step."""
    epsilon_start: float = 1.0
    """Share of random actions at the first update."""
    epsilon_end: float = 0.33
    """Share of random actions once `epsilon_updates` updates are done."""
    epsilon_updates: int = 300_000
    """Updates over which epsilon falls linearly."""
    target_decay: float = 0.999
    """Decay of the target network, a moving average of the weights after every update."""
    learning_rate: float = 1e-4
    """AdamATan2's learning rate after the warm-up."""
    warmup_updates: int = 10_000
    """Updates over which the learning rates rise linearly, Muon's and the puzzle token's too."""
    final_learning_rate: float = 1.0
    """Share of all learning rates that is left at the last update (linear fall; 1 is constant)."""
    beta1: float = 0.9
    """Decay of the gradient's mean."""
    beta2: float = 0.999
    """Decay of the gradient's mean square."""
    weight_decay: float = 0.0
    """Decoupled weight decay of all but the puzzle token."""
    muon_learning_rate: float = 0.0
    """Learning rate of Muon for the matrices of the blocks; 0 leaves them to AdamATan2."""
    muon_momentum: float = 0.95
    """Decay of Muon's mean gradient."""
    max_grad_norm: float = 0.0
    """Scale the gradient of all weights down to this norm where it is longer; 0 never does."""
    puzzle_learning_rate: float = 1e-2
    """Learning rate of the puzzle token's sign-SGD."""
    puzzle_weight_decay: float = 0.1
    """Decoupled weight decay of the puzzle token."""
    averaged: bool = False
    """Evaluate and save the moving average of the weights (the target network), not the latest."""
    timeout_is_terminal: bool = False
    """Treat the time limit as an end without future, as the published code does."""

    def __post_init__(self) -> None:
        make_plain(self)
        for name, value in vars(self).items():
            (low, high), kind = DQN_RANGES.get(name, (0, 1)), type(getattr(DQNConfig, name))
            limits = f"{low} to {high}" if kind is not bool else "True or False"
            kinds = (int, float) if kind is float else kind
            fits = isinstance(value, kinds) and isinstance(value, bool) == (kind is bool)
            good = fits and low <= value <= high
            require(f"dqn.{name.replace('_', '-')}", value, good, limits)
        rows = self.replay_size // self.num_mazes
        why = f"at least {self.num_mazes * (self.n_step + 1)}, that is num-mazes * (n-step + 1)"
        require("dqn.replay-size", self.replay_size, rows > self.n_step, why)
        most, starts = rows * self.num_mazes, self.learning_starts
        why = f"at most {most}, what the replay holds"
        require("dqn.learning-starts", starts, starts <= most, why)
