"""The files of a run's folder."""

from hrm_fast.checkpoint import WEIGHTS

CONFIG = "config.json"
METRICS = "metrics.csv"
BEST, LAST, SHARED = WEIGHTS  # SHARED: in a folder for a model hub
STATE, PREVIOUS = "state.safetensors", "state.previous.safetensors"  # all that --resume needs
CURVE = "learning_curve.png"
WANDB_ID = "wandb.id"
OF_A_RUN = (CONFIG, METRICS, BEST, LAST, SHARED, STATE, PREVIOUS)
