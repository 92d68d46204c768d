"""What commands are asked for, beside the config of a run: a frozen dataclass each."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from minitx.config.checks import parse_duration, require
from minitx.config.options import (
    ACCESS,
    COUNT_OR_NONE,
    LENGTH,
    LIMITS,
    LOADED,
    MACHINE,
    SHOWN,
    Config,
    option,
)
from minitx.config.train_config import DeviceName, DTypeName
from minitx.errors import BadInputError

CheckpointName = Literal["best", "last"]
WeightFormat = Literal["int8", "bfloat16"]
GGUFType = Literal["f32", "f16", "q8_0"]
WEIGHT_FORMATS: tuple[WeightFormat, ...] = get_args(WeightFormat)
"""Formats with fewer bits that weights can be kept in."""
UnknownPolicy = Literal["error", "replace"]
Index = int | Literal["all"] | None
MapKind = Literal["weight", "norm", "average", "rollout"]
_MOST_TOKENS = 10**15


@dataclass(frozen=True)
class LoadConfig(Config, named_by_flags=True):
    """Which checkpoint of a run is loaded, and how."""

    checkpoint: CheckpointName = option("best", "Which checkpoint of a run.", LOADED)
    device: DeviceName = option("auto", "Where to compute.", LOADED)
    dtype: DTypeName = option("auto", "Number format of the weights.", LOADED)
    quantize: WeightFormat | None = option(
        None, "Keep the weights in fewer bits; eval --quantize says what it costs.", LOADED
    )


@dataclass(frozen=True)
class ExportRequest(Config, named_by_flags=True):
    """Which files are written for other programs."""

    gguf: Path | None = option(
        None, "Write a file for llama.cpp, and a Modelfile for Ollama beside it."
    )
    type: GGUFType = option("f32", "Number format of the matrices in it.")
    onnx: Path | None = option(None, "Write the graph from ids to logits, for onnxruntime.")

    def check(self) -> None:
        """Refuse to write nothing."""
        require(
            self.gguf is not None or self.onnx is not None,
            "there is nothing to write", "Give --gguf FILE or --onnx FILE",
        )  # fmt: skip


@dataclass(frozen=True)
class EvaluationSettings(Config, named_by_flags=True):
    """How a text is scored, and what else is measured."""

    context_length: int | None = option(
        None, "Largest number of tokens a prediction sees; the model's if left out.", flag="context"
    )
    stride: int | None = option(
        None,
        "Tokens that each overlapping window scores, for the figure with fuller contexts; half "
        "the context if left out.",
        details="Equal to the context length, there is no such figure.",
    )
    max_tokens: int = option(
        0, "Score about this many tokens, evenly spaced; 0 is all.", within=(0, _MOST_TOKENS)
    )
    baselines: bool = option(True, "Measure n-grams and compressors on the same text, too.")
    quick: bool = option(False, "The loss alone, without baselines and details.")
    device: DeviceName = option("auto", "Where to compute.", LOADED)
    dtype: DTypeName = option(
        "auto", "Number format of the matrix products; auto is float32, exact.", LOADED
    )
    unknown: UnknownPolicy = option(
        "replace",
        "Refuse characters that a char tokenizer lacks, or score them as the unknown token.",
        details="The latter makes bits per byte too low. In a run's own holdout they are always "
        "scored so, as are words that a `word` tokenizer lacks; and counted.",
    )
    text_field: str | None = option(
        None,
        "Key or column that holds the text of a record in a file; that of the run if left out.",
    )
    quantize: WeightFormat | None = option(
        None, "Round the weights, and show what it costs beside the model as it is.", LOADED
    )


@dataclass(frozen=True)
class PlanSettings(Config, named_by_flags=True):
    """Where a run is planned for, and what may be tried for it."""

    device: str = option(
        "here", "Device to plan for: here, or one of the table in docs/scaling.md, or any name.",
        MACHINE, metavar="here|h100|NAME",
    )  # fmt: skip
    gpus: int = option(1, "How many of these.", MACHINE, within=(1, 4096))
    memory: float | None = option(
        None, "GB of memory of each; that of the table if left out.", MACHINE, within=(1e-3, 1e6)
    )
    tflops: float | None = option(
        None, "Matrix products of each, in 10^12 dense operations of 16 bits a second.", MACHINE,
        within=(1e-3, 1e9),
    )  # fmt: skip
    shard: bool = option(False, "Share out weights, gradients and moments (FSDP).", MACHINE)
    pilots: float = option(
        20.0,
        "Seconds for short runs from which the loss is predicted; 0 is none.",
        LENGTH,
        (0, 1e6),
    )


@dataclass(frozen=True)
class ReportSettings(Config, named_by_flags=True):
    """What a report has beside what training recorded."""

    eval: bool = option(True, "Measure the holdout anew, with baselines and details.")
    attn: bool = option(True, "Show what the model looks at.")
    prompt: str | None = option(None, "Text it looks at; the beginning of the holdout if left out.")
    max_tokens: int = option(
        0, "Score about this many holdout tokens; 0 is all.", within=(0, _MOST_TOKENS)
    )
    checkpoint: CheckpointName = option("best", "Which checkpoint of a run is measured.", LOADED)
    device: DeviceName = option("auto", "Where to compute.", LOADED)


def parse_index(name: str, text: str) -> Index:
    """A number from 0, or `all`; else a BadInputError."""
    if text == "all":
        return "all"
    if not text.isdecimal():
        raise BadInputError(f"{name} is {text!r}", "Give a number from 0, or all")
    return int(text)


@dataclass(frozen=True)
class AttentionRequest(Config, named_by_flags=True):
    """What to show of a study; with nothing asked for, the most telling head and all roles."""

    layer: Index = option(
        None, "Which layer, from 0; all draws a grid.", metavar="N|all", parse=parse_index
    )
    head: Index = option(
        None, "Which head, from 0; all draws a grid.", metavar="N|all", parse=parse_index
    )
    average: bool = option(False, "Mean over heads: of --layer, or of all layers.")
    rollout: bool = option(False, "Attention multiplied through the layers.")
    norms: bool = option(False, "Weight times the norm of the value it fetches.")
    token: int | None = option(None, "List what this token looked at (-1 is the last).")
    top: int | None = option(
        None, "How many to list; without --token, for every token.", within=(1, 2**24)
    )
    roles: bool = option(False, "Table of all heads: roles, scores and controls.")
    lens: bool = option(False, "Logit lens: what each layer would predict next.")
    ablate: bool = option(False, "What the loss gains when each head is off.")
    check_mask: bool = option(False, "Change future tokens; check that no past logit changes.")
    attribute: bool = option(
        False, "What each head and MLP adds to the logit of the next token (after --token)."
    )
    film: bool = option(
        False, "How roles, maps, losses and samples changed in training; of --layer and --head."
    )
    moment: int | None = option(
        None, "With --film: the moment nearest to this step.", within=COUNT_OR_NONE
    )
    corrupted: str | None = option(None, "A prompt to patch parts of the first into.", flag=None)
    answer: str | None = option(
        None, "The token that --attribute and --patch follow; the likeliest if left out."
    )

    def check(self) -> None:
        """Refuse two kinds of map at once, and an answer to nothing."""
        require(
            self.answer is None or self.attribute or self.corrupted is not None,
            "--answer names the token that --attribute and --patch follow",
            "Give one of them too",
        )
        require(self.film or self.moment is None, "--moment is one of a film", "Give --film too")
        require(
            self.average + self.rollout + self.norms <= 1,
            "--average, --rollout and --norms each name a kind of map",
            "Give one of them",
        )

    @property
    def kind(self) -> MapKind:
        """Of which kind the map is."""
        if self.average:
            return "average"
        return "rollout" if self.rollout else "norm" if self.norms else "weight"

    @property
    def wants_map(self) -> bool:
        """Whether a map is shown: by default, or because one is named."""
        named = self.layer is not None or self.head is not None or self.kind != "weight"
        causes = self.attribute or self.corrupted is not None
        if causes or self.film:
            return self.kind != "weight"  # --layer and --head choose a head to patch.
        tables = self.roles or self.lens or self.ablate or self.check_mask
        return named or not tables

    @property
    def is_default(self) -> bool:
        """Whether nothing in particular was asked for."""
        return self == AttentionRequest()


@dataclass(frozen=True)
class TokenizeRequest(Config, named_by_flags=True):
    """Which tokenizer, what it does to which text, and how much of that is shown.

    A new tokenizer has what is `fixed` of the keys of `TokenizerConfig`.

    Raises:
        BadInputError: a finished tokenizer is named, and something is fixed of a new one.
    """

    corpus: tuple[str, ...] = option(
        (),
        "Text to train a tokenizer on: files, directories, globs, or - for standard input. With "
        "--tokenizer, text to encode.",
        is_argument=True,
    )
    tokenizer: Path | None = option(None, "Use the tokenizer of this directory, run or checkpoint.")
    text: str | None = option(None, "Encode this text.")
    decode: str | None = option(None, 'Decode these ids, like "18 47 56"; - reads them.')
    out: Path | None = option(None, "Save the tokenizer to this directory.")
    show: int = option(120, "How many tokens are shown.", within=COUNT_OR_NONE)
    json: bool = option(False, "Print one JSON object, with all ids.")
    fixed: dict[str, Any] = field(default_factory=dict)

    def check(self) -> None:
        """Refuse two tokenizers."""
        require(
            self.tokenizer is None or not self.fixed,
            "--tokenizer names a finished tokenizer, and --kind or --vocab-size a new one",
            "Give one or the other",
        )


@dataclass(frozen=True)
class Limits(Config, named_by_flags=True):
    """Bounds that keep one client from taking the server from the others."""

    # fmt: off
    max_concurrent: int = option(64, "Continuations generated at once.", LIMITS, (1, 4096))
    max_queue: int = option(
        256, "Continuations that may wait for their turn.", LIMITS, (0, 100_000)
    )
    max_tokens: int = option(4096, "Longest continuation, in tokens.", LIMITS, (1, 10**7))
    max_prompt_tokens: int | None = option(
        None, "Longest prompt, in tokens; the context if left out.", LIMITS, (1, 10**7)
    )
    max_body_bytes: int = option(1 << 20, "Largest request, in bytes.", LIMITS, (256, 1 << 30))
    request_timeout: float = option(
        600.0, "Longest that an answer may take.", LIMITS, (0.01, 1e6),
        details="Seconds from the request's last byte to the answer's last.", parse=parse_duration,
    )
    client_timeout: float = option(
        30.0, "Longest that a client may take to send a request, or to take in what is sent to it.",
        LIMITS, (0.01, 1e6), parse=parse_duration,
    )
    max_unsent: int = option(
        2048, "Tokens of a stream that may wait for a client who reads slowly.", within=(1, 10**7),
        flag=None,
    )
    grace: float = option(
        30.0, "Time that running requests have to end after Ctrl-C.", LIMITS, (0.0, 1e6),
        parse=parse_duration,
    )
    # fmt: on

    @property
    def max_connections(self) -> int:
        """Connections that may be open: one for each continuation, and some to ask how it goes."""
        return self.max_concurrent + self.max_queue + 64


@dataclass(frozen=True)
class ServeRequest(Config, named_by_flags=True):
    """What to serve (a run or a checkpoint, the newest run if None), where, and to whom."""

    run: Path | None = None
    host: str = option(
        "127.0.0.1", "Address to listen at; any but this machine's own needs a token."
    )
    port: int = option(8000, "Port to listen at; 0 for any that is free.", within=(0, 65535))
    token_file: Path | None = option(
        None, "Has the token that clients must show; or set MINITX_SERVE_TOKEN.", ACCESS
    )
    quiet: bool = option(False, "No line for each request.", SHOWN)
    model_name: str | None = option(None, "As clients know it; the run's if left out.", LOADED)
    limits: Limits = field(default_factory=Limits)
    load: LoadConfig = field(default_factory=LoadConfig)


@dataclass(frozen=True)
class ExploreRequest(Config, named_by_flags=True):
    """Which model the page of `minitx explore` shows (the newest run if None), and where."""

    run: Path | None = None
    prompt: str | None = option(
        None, "Text to begin with; the beginning of the holdout if left out."
    )
    port: int = option(8001, "Port to listen at; 0 for any that is free.", within=(0, 65535))
    load: LoadConfig = field(default_factory=LoadConfig)
