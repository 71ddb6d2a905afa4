"""The HRM model: its shape, segments and decisions, and checkpoints of the published code.

Importing it registers the mazes with Gymnasium, by name: `gymnasium.make` imports them.
"""

import gymnasium

from hrm_fast import beside as beside  # first: it checks whose `kernels` the others get
from hrm_fast.checkpoint import from_reference, load, to_reference
from hrm_fast.config import HRMConfig
from hrm_fast.halting import halting_loss
from hrm_fast.model import HRM, Carry

__all__ = ["HRM", "Carry", "HRMConfig", "from_reference", "halting_loss", "load", "to_reference"]

for _map in ("four-rooms", "corridors", "room"):  # envs.spec.NAMED_MAPS, which is not imported here
    _name = _map.title().replace("-", "")
    if f"hrm_fast/{_name}-v0" not in gymnasium.registry:  # as `import envs` does
        gymnasium.register(
            id=f"hrm_fast/{_name}-v0",
            entry_point="envs.gymnasium_env:MazeEnv",
            vector_entry_point="envs.gymnasium_env:MazeVectorEnv",
            kwargs={"map": _map},
        )
