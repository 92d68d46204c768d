"""minitx: build, train, resume, run, measure and look inside a small transformer.

    import minitx

    run = minitx.train("corpus.txt", steps=200, layers=2, d_model=64)
    model = minitx.load(run.run)
    print(model.generate("To be", max_new_tokens=40, temperature=0.8))

The names of `__all__`, and what their docstrings promise, stay as they are from version to
version. All else in the package is private: it may change in any version.
"""

import os as _os
from typing import TYPE_CHECKING

from minitx.errors import (
    BadInputError,
    DamagedFileError,
    InstabilityError,
    InterruptedRunError,
    MinitxError,
    RunLockedError,
)
from minitx.shown import Shown as _Shown

__all__ = [
    "BadInputError",
    "DamagedFileError",
    "FinishedRun",
    "InstabilityError",
    "InterruptedRunError",
    "MinitxError",
    "Model",
    "RunLockedError",
    "load",
    "resume",
    "train",
]
__version__ = "0.1.0"

# Read when torch is loaded: a thread that waits for another sleeps instead of looking for it over
# and over. Alone on a machine that costs nothing; where others are busy, it would keep the very
# processor that the other thread waits for, and a step took up to three times as long.
_os.environ.setdefault("OMP_WAIT_POLICY", "passive")

if TYPE_CHECKING:
    from minitx.public import FinishedRun, Model, load, resume, train
else:

    def __getattr__(name: str) -> object:
        # These import torch, which takes a second or two: only when one is first used.
        if name not in __all__:
            raise AttributeError(f"module 'minitx' has no attribute {name!r}")
        from minitx import public

        return getattr(public, name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})


# The package is the top floor: it tells results, which know no view, how they are shown.
_Shown.views = "minitx.report.notebook"
