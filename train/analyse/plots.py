"""The parts of matplotlib that figures are made of, drawn into files and never shown.

A notebook that starts this process hands on its MPLBACKEND, and importing matplotlib may fail
where that back end is not installed. So it is taken away for the import, and set afterwards if
matplotlib knows it: other code in this process may want to show figures.
"""

import contextlib
import os
import sys

_is_first = "matplotlib" not in sys.modules
_asked = os.environ.pop("MPLBACKEND", None)
try:
    from matplotlib import rc_context, rcParams, style
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, MaxNLocator
finally:
    if _asked is not None:
        os.environ["MPLBACKEND"] = _asked
if _asked and _is_first:
    with contextlib.suppress(ValueError):
        rcParams["backend"] = _asked

# decorates what draws: a reader's matplotlibrc may ask for LaTeX, other sizes, other colours
by_the_defaults = style.context("default", after_reset=True)

__all__ = ["Axes", "Figure", "LogLocator", "MaxNLocator", "by_the_defaults", "rc_context"]
