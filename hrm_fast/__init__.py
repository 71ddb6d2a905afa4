"""The HRM model: its shape, segments and decisions, and checkpoints of the published code."""

from hrm_fast import beside as beside  # first: it checks whose `kernels` the others get
from hrm_fast.checkpoint import from_reference, to_reference
from hrm_fast.config import HRMConfig
from hrm_fast.halting import halting_loss
from hrm_fast.model import HRM, Carry

__all__ = ["HRM", "Carry", "HRMConfig", "from_reference", "halting_loss", "to_reference"]
