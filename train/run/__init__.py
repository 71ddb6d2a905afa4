"""A run on the disk: its folder, its log and its state, and the loop over its updates."""
