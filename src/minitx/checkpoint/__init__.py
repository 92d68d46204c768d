"""What survives: model directories, run directories, checkpoints and their digests.

Run directories are listed and removed without torch, which takes a second or two to load.
"""

from typing import TYPE_CHECKING

__all__ = ["SavedModel", "load_model", "save_model"]

if TYPE_CHECKING:
    from minitx.checkpoint.huggingface import SavedModel, load_model, save_model
else:

    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from minitx.checkpoint import huggingface

        return getattr(huggingface, name)
