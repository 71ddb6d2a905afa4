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
    """Walk so many mazes side by side."""
    batch_size: int = 256
    """Draw so many transitions a batch; each segment trains on it once."""
    replay_size: int = 1_048_576
    """Keep the last so many transitions in the replay."""
    learning_starts: int = 1_024
    """Collect so many transitions before the first update."""
    n_step: int = 1
    """Sum so many rewards before the target bootstraps."""
    hindsight: int = 0
    """With hrm.q-token goal: bound a cell's value from below if the agent reached that cell within
    so many steps after the transition (0: never)."""
    max_abs_reward: float = 1.0
    """Clip rewards to at most this far from 0, as Mnih et al. do."""
    gamma: float = 0.95
    """Discount a reward by this for every environment step."""
    epsilon_start: float = 1.0
    """Take this share of actions at random at first."""
    epsilon_end: float = 0.33
    """Take this share of actions at random after `epsilon_updates` updates."""
    epsilon_updates: int = 300_000
    """Lower that share linearly over so many updates."""
    target_decay: float = 0.999
    """Decay of the target network: the moving average of the weights."""
    learning_rate: float = 1e-4
    """Learning rate of AdamATan2, after the warm-up."""
    warmup_updates: int = 10_000
    """Raise all learning rates linearly over so many updates."""
    final_learning_rate: float = 1.0
    """Lower all learning rates linearly to this share at the last update (1: keep them)."""
    beta1: float = 0.9
    """Decay of the gradient's mean."""
    beta2: float = 0.999
    """Decay of the gradient's mean square."""
    weight_decay: float = 0.0
    """Decoupled weight decay of all but the puzzle token."""
    muon_learning_rate: float = 0.0
    """Learning rate of Muon, for the blocks' matrices (0: leave them to AdamATan2)."""
    muon_momentum: float = 0.95
    """Momentum of Muon."""
    max_grad_norm: float = 0.0
    """Clip the norm of the whole gradient to this (0: never)."""
    puzzle_learning_rate: float = 1e-2
    """Learning rate of the puzzle token's sign-SGD."""
    puzzle_weight_decay: float = 0.1
    """Decoupled weight decay of the puzzle token."""
    averaged: bool = False
    """Evaluate and save the moving average of the weights, not the latest."""
    timeout_is_terminal: bool = False
    """Treat the time limit as an end without future value, as the published code does."""

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
