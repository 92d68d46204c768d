"""What a run is made of, as frozen dataclasses, and how they are read and written as TOML.

All that is known of a setting stands at its field: see `minitx.config.options`.
"""

from minitx.config.model_config import ModelConfig as ModelConfig
from minitx.config.requests import WEIGHT_FORMATS as WEIGHT_FORMATS
from minitx.config.requests import AttentionRequest as AttentionRequest
from minitx.config.requests import EvaluationSettings as EvaluationSettings
from minitx.config.requests import ExploreRequest as ExploreRequest
from minitx.config.requests import ExportRequest as ExportRequest
from minitx.config.requests import Index as Index
from minitx.config.requests import Limits as Limits
from minitx.config.requests import LoadConfig as LoadConfig
from minitx.config.requests import MapKind as MapKind
from minitx.config.requests import PlanSettings as PlanSettings
from minitx.config.requests import ReportSettings as ReportSettings
from minitx.config.requests import ServeRequest as ServeRequest
from minitx.config.requests import TokenizeRequest as TokenizeRequest
from minitx.config.requests import WeightFormat as WeightFormat
from minitx.config.run_config import DataConfig as DataConfig
from minitx.config.run_config import RunConfig as RunConfig
from minitx.config.run_config import TokenizerConfig as TokenizerConfig
from minitx.config.sampling_config import GenerationRequest as GenerationRequest
from minitx.config.sampling_config import SamplingConfig as SamplingConfig
from minitx.config.train_config import TrainConfig as TrainConfig
