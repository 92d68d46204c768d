"""What a run is made of, as frozen dataclasses, and how they are read and written as TOML.

All that is known of a setting stands at its field: see `minitx.config.options`.
"""

from minitx.config.model_config import ModelConfig
from minitx.config.requests import (
    WEIGHT_FORMATS,
    AttentionRequest,
    EvaluationSettings,
    Index,
    Limits,
    LoadConfig,
    MapKind,
    ReportSettings,
    ServeRequest,
    TokenizeRequest,
    WeightFormat,
)
from minitx.config.run_config import DataConfig, RunConfig, TokenizerConfig
from minitx.config.sampling_config import GenerationRequest, SamplingConfig
from minitx.config.train_config import TrainConfig

__all__ = [
    "WEIGHT_FORMATS",
    "AttentionRequest",
    "DataConfig",
    "EvaluationSettings",
    "GenerationRequest",
    "Index",
    "Limits",
    "LoadConfig",
    "MapKind",
    "ModelConfig",
    "ReportSettings",
    "RunConfig",
    "SamplingConfig",
    "ServeRequest",
    "TokenizeRequest",
    "TokenizerConfig",
    "TrainConfig",
    "WeightFormat",
]
