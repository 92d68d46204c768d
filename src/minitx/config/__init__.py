"""What a run is made of, as frozen dataclasses, and how they are read and written as TOML."""

from minitx.config.model_config import ModelConfig
from minitx.config.run_config import DataConfig, RunConfig, TokenizerConfig
from minitx.config.sampling_config import SamplingConfig
from minitx.config.train_config import TrainConfig

__all__ = [
    "DataConfig",
    "ModelConfig",
    "RunConfig",
    "SamplingConfig",
    "TokenizerConfig",
    "TrainConfig",
]
