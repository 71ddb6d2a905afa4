"""The parts of matplotlib that figures are made of, drawn into files and never shown.

MPLBACKEND, which matplotlib reads when it is first imported, may name what is installed only where
the notebook runs that started this process. So it is taken away for the import, and set afterwards
where matplotlib knows it: somebody else here may want to show figures.
"""

import contextlib
import os
import sys

_is_first = "matplotlib" not in sys.modules
_asked = os.environ.pop("MPLBACKEND", None)
try:
    from matplotlib import rc_context, rcParams
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, MaxNLocator
finally:
    if _asked is not None:
        os.environ["MPLBACKEND"] = _asked
if _asked and _is_first:
    with contextlib.suppress(ValueError):
        rcParams["backend"] = _asked

__all__ = ["Axes", "Figure", "LogLocator", "MaxNLocator", "rc_context"]
