"""What survives: model directories, run directories, checkpoints and their digests."""

from minitx.checkpoint.huggingface import LoadedModel, load_model, save_model

__all__ = ["LoadedModel", "load_model", "save_model"]
