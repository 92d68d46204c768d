"""minitx: build, train, resume, run, measure and look inside a small transformer."""

from minitx.shown import Views as _Views
from minitx.shown import show_with as _show_with

__version__ = "0.1.0"


def _views() -> _Views:
    from minitx.report import notebook

    return notebook


# The package is the top floor: it tells results, which know no view, how they are shown.
_show_with(_views)
