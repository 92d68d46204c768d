"""What a run is made of, as frozen dataclasses, and how they are read and written as TOML.

All that is known of a setting stands at its field: see `minitx.config.options`.
"""

from minitx.config.attention_config import AttentionRequest, Index, MapKind
from minitx.config.load_config import (
    WEIGHT_FORMATS,
    EvaluationSettings,
    LoadConfig,
    ReportSettings,
    WeightFormat,
)
from minitx.config.model_config import ModelConfig
from minitx.config.run_config import DataConfig, RunConfig, TokenizerConfig
from minitx.config.sampling_config import GenerationRequest, SamplingConfig
from minitx.config.serving_config import Limits, ServeRequest
from minitx.config.tokenize_config import TokenizeRequest
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
