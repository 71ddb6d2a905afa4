"""Files of a run: checkpoints, those of other code, and folders at URLs."""
