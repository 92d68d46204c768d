"""What a run is made of, as frozen dataclasses, and how they are read and written as TOML."""

from minitx.config.model import ModelConfig
from minitx.config.run import DataConfig, RunConfig, TokenizerConfig
from minitx.config.sampling import SamplingConfig
from minitx.config.training import TrainConfig

__all__ = [
    "DataConfig",
    "ModelConfig",
    "RunConfig",
    "SamplingConfig",
    "TokenizerConfig",
    "TrainConfig",
]
