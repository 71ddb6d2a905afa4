"""Trained agents at work: in the terminal, on a page, in a GIF."""
