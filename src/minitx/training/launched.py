"""Whether torchrun started this process, and which one it is: known without torch."""

from __future__ import annotations

import os
from pathlib import Path

RUN_NOTE = "MINITX_RUN_NOTE"
"""Names in the environment a file for the run's directory, which the launcher then tells."""


def is_launched() -> bool:
    """Whether torchrun, or `minitx train --processes`, started this process."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def is_follower() -> bool:
    """Whether it did, and another process than this has the run."""
    return is_launched() and os.environ["RANK"] != "0"


def told_beside(note: str | Path) -> Path:
    """A file beside that of `RUN_NOTE`: it is there if a process has told which other one hung."""
    return Path(note).with_suffix(".told")
