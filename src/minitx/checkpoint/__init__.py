"""What survives: model directories, run directories, checkpoints and their digests."""

from minitx.checkpoint.huggingface import SavedModel, load_model, save_model

__all__ = ["SavedModel", "load_model", "save_model"]
