"""`minitx train`: plan a run from a corpus and train it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from minitx.workflows.train import TrainRequest

_LENGTH, _TEXT, _MODEL = "How long", "Text and tokenizer", "Model (planned if left out)"
_LEARNING, _WATCHING = "Learning (planned if left out)", "Watching and saving"
_MACHINE = "Machine"


def train(
    corpus: Annotated[
        list[str] | None,
        typer.Argument(
            help="Files, directories, globs, or - for standard input; the Python reference that "
            "comes with Python if left out.",
            show_default=False,
        ),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(help="Time to plan for, like 90s, 3m, 1h.", rich_help_panel=_LENGTH),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Optimizer steps.", rich_help_panel=_LENGTH)
    ] = None,
    max_steps: Annotated[
        int | None,
        typer.Option(help="End after so many even if time is left.", rich_help_panel=_LENGTH),
    ] = None,
    early_stopping: Annotated[
        int | None,
        typer.Option(
            help="Stop after so many evaluations without a better holdout loss.",
            rich_help_panel=_LENGTH,
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(help="Of weights, data order, dropout.", rich_help_panel=_LENGTH),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            help="TOML file with the tables of run.toml; flags win.", rich_help_panel=_LENGTH
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Run directory to make; runs/CORPUS-NNN if left out.", rich_help_panel=_LENGTH
        ),
    ] = None,
    holdout_fraction: Annotated[
        float | None,
        typer.Option(help="Tail of the text never trained on.", rich_help_panel=_TEXT),
    ] = None,
    holdout: Annotated[
        str | None,
        typer.Option(help="File to hold out instead.", metavar="FILE", rich_help_panel=_TEXT),
    ] = None,
    kind: Annotated[
        str | None,
        typer.Option(help="Tokenizer.", metavar="bpe|char|word", rich_help_panel=_TEXT),
    ] = None,
    vocab_size: Annotated[
        int | None, typer.Option(help="Most token ids.", rich_help_panel=_TEXT)
    ] = None,
    tokenizer: Annotated[
        Path | None,
        typer.Option(help="Use the tokenizer in this directory.", rich_help_panel=_TEXT),
    ] = None,
    architecture: Annotated[
        str | None,
        typer.Option(help="Family of shapes.", metavar="qwen3|gpt2", rich_help_panel=_MODEL),
    ] = None,
    layers: Annotated[int | None, typer.Option(help="Blocks.", rich_help_panel=_MODEL)] = None,
    heads: Annotated[int | None, typer.Option(help="Query heads.", rich_help_panel=_MODEL)] = None,
    kv_heads: Annotated[
        int | None, typer.Option(help="Key/value heads.", rich_help_panel=_MODEL)
    ] = None,
    d_model: Annotated[
        int | None, typer.Option(help="Residual stream width.", rich_help_panel=_MODEL)
    ] = None,
    d_ff: Annotated[
        int | None, typer.Option(help="MLP hidden width.", rich_help_panel=_MODEL)
    ] = None,
    head_dim: Annotated[
        int | None, typer.Option(help="Width of one head.", rich_help_panel=_MODEL)
    ] = None,
    context: Annotated[
        int | None, typer.Option(help="Context length, in tokens.", rich_help_panel=_MODEL)
    ] = None,
    dropout: Annotated[
        float | None,
        typer.Option(
            help="Part of the activations zeroed, in training only.", rich_help_panel=_MODEL
        ),
    ] = None,
    tie_embeddings: Annotated[
        bool | None,
        typer.Option(
            "--tie-embeddings/--untie-embeddings",
            help="One matrix for embedding and head.",
            rich_help_panel=_MODEL,
        ),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Sequences in a pass.", rich_help_panel=_LEARNING)
    ] = None,
    accumulation: Annotated[
        int | None, typer.Option(help="Passes in a step.", rich_help_panel=_LEARNING)
    ] = None,
    optimizer: Annotated[
        str | None,
        typer.Option(
            help="Of the matrices; AdamW has the rest.",
            metavar="muon|adamw",
            rich_help_panel=_LEARNING,
        ),
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Peak rate of AdamW.", rich_help_panel=_LEARNING)
    ] = None,
    muon_learning_rate: Annotated[
        float | None, typer.Option(help="Peak rate of Muon.", rich_help_panel=_LEARNING)
    ] = None,
    weight_decay: Annotated[
        float | None, typer.Option(help="Decoupled, on matrices alone.", rich_help_panel=_LEARNING)
    ] = None,
    beta1: Annotated[
        float | None,
        typer.Option(help="AdamW's decay of the first moment.", rich_help_panel=_LEARNING),
    ] = None,
    beta2: Annotated[
        float | None,
        typer.Option(help="AdamW's decay of the second moment.", rich_help_panel=_LEARNING),
    ] = None,
    momentum: Annotated[
        float | None, typer.Option(help="Muon's momentum.", rich_help_panel=_LEARNING)
    ] = None,
    warmup_steps: Annotated[
        int | None, typer.Option(help="Steps over which the rate rises.", rich_help_panel=_LEARNING)
    ] = None,
    decay: Annotated[
        str | None,
        typer.Option(
            help="How the rate falls in the end.",
            metavar="linear|cosine|constant",
            rich_help_panel=_LEARNING,
        ),
    ] = None,
    decay_fraction: Annotated[
        float | None,
        typer.Option(
            help="Last part of the run, in which the rate falls.", rich_help_panel=_LEARNING
        ),
    ] = None,
    final_rate_fraction: Annotated[
        float | None,
        typer.Option(help="Last rate as a part of the peak.", rich_help_panel=_LEARNING),
    ] = None,
    grad_clip: Annotated[
        float | None,
        typer.Option(help="Largest gradient norm; 0 is off.", rich_help_panel=_LEARNING),
    ] = None,
    evaluate_every: Annotated[
        int | None, typer.Option(help="Steps between holdout losses.", rich_help_panel=_WATCHING)
    ] = None,
    evaluation_tokens: Annotated[
        int | None,
        typer.Option(help="Holdout tokens scored each time; 0 is all.", rich_help_panel=_WATCHING),
    ] = None,
    closing_tokens: Annotated[
        int | None,
        typer.Option(
            help="Holdout tokens scored after the last step; 0 is all.", rich_help_panel=_WATCHING
        ),
    ] = None,
    checkpoint_every: Annotated[
        int | None, typer.Option(help="Steps between checkpoints.", rich_help_panel=_WATCHING)
    ] = None,
    keep_checkpoints: Annotated[
        int | None,
        typer.Option(help="How many of the newest stay.", rich_help_panel=_WATCHING),
    ] = None,
    on_spike: Annotated[
        str | None,
        typer.Option(
            metavar="warn|rollback|stop",
            help="After a loss spike or divergence: go on, go back and skip, or stop.",
            rich_help_panel=_WATCHING,
        ),
    ] = None,
    max_rollbacks: Annotated[
        int | None, typer.Option(help="Stop after so many rollbacks.", rich_help_panel=_WATCHING)
    ] = None,
    log_every: Annotated[
        int | None,
        typer.Option(help="Steps between lines of metrics.jsonl.", rich_help_panel=_WATCHING),
    ] = None,
    tensorboard: Annotated[
        bool,
        typer.Option(
            "--tensorboard", help="Also write TensorBoard files.", rich_help_panel=_WATCHING
        ),
    ] = False,
    device: Annotated[
        str | None,
        typer.Option(
            help="Where to compute.", metavar="auto|cpu|cuda|mps", rich_help_panel=_MACHINE
        ),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            help="Format of the matrix products; auto is measured.",
            metavar="auto|float32|bfloat16",
            rich_help_panel=_MACHINE,
        ),
    ] = None,
    attention: Annotated[
        str | None,
        typer.Option(
            help="Which of three equal forms; auto is the fastest.",
            metavar="auto|explicit|fused|compiled",
            rich_help_panel=_MACHINE,
        ),
    ] = None,
    compile_: Annotated[
        bool | None,
        typer.Option("--compile/--no-compile", help="Use torch.compile.", rich_help_panel=_MACHINE),
    ] = None,
    cuda_graph: Annotated[
        bool | None,
        typer.Option(
            "--cuda-graph/--no-cuda-graph",
            help="Record a pass on a GPU once and replay it.",
            rich_help_panel=_MACHINE,
        ),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="CPU threads; 0 for all.", rich_help_panel=_MACHINE)
    ] = None,
) -> None:
    """Train a transformer on a text; sizes, rates and steps are planned unless given.

    minitx train                           the Python reference, about 5 minutes

    minitx train corpus.txt --budget 3m    your text, in 3 minutes
    """
    from minitx.config.duration import parse_duration

    given: dict[str, dict[str, Any]] = {
        "data": {
            "corpus": tuple(corpus) if corpus else None,
            "holdout_fraction": holdout_fraction,
            "holdout": holdout,
        },
        "tokenizer": {"kind": kind, "vocab_size": vocab_size},
        "model": {
            "architecture": architecture,
            "n_layers": layers,
            "n_heads": heads,
            "n_kv_heads": kv_heads,
            "d_model": d_model,
            "d_ff": d_ff,
            "head_dim": head_dim,
            "context_length": context,
            "dropout": dropout,
            "tie_embeddings": tie_embeddings,
        },
        "train": {
            "budget_seconds": parse_duration("--budget", budget) if budget else None,
            "steps": steps,
            "max_steps": max_steps,
            "early_stopping": early_stopping,
            "seed": seed,
            "batch_size": batch_size,
            "accumulation": accumulation,
            "optimizer": optimizer,
            "learning_rate": learning_rate,
            "muon_learning_rate": muon_learning_rate,
            "weight_decay": weight_decay,
            "beta1": beta1,
            "beta2": beta2,
            "momentum": momentum,
            "warmup_steps": warmup_steps,
            "decay": decay,
            "decay_fraction": decay_fraction,
            "final_rate_fraction": final_rate_fraction,
            "grad_clip": grad_clip,
            "evaluate_every": evaluate_every,
            "evaluation_tokens": evaluation_tokens,
            "closing_tokens": closing_tokens,
            "checkpoint_every": checkpoint_every,
            "keep_checkpoints": keep_checkpoints,
            "on_spike": on_spike,
            "max_rollbacks": max_rollbacks,
            "log_every": log_every,
            "device": device,
            "dtype": dtype,
            "attention": attention,
            "compile": compile_,
            "cuda_graph": cuda_graph,
            "threads": threads,
        },
    }
    from minitx.config.overrides import merged
    from minitx.report.training.training_view import choose_view

    view = choose_view(sys.stdout)
    try:
        # Something to see before torch is loaded, which takes a second or two.
        view.on_phase("loading torch")
        tables = merged(config, given)
        from minitx.training.memory import refuse_too_large

        refuse_too_large(tables["model"])
        from minitx.workflows.train import TrainRequest
        from minitx.workflows.train import train as train_run

        request: TrainRequest = TrainRequest(
            data=tables["data"],
            tokenizer=tables["tokenizer"],
            model=tables["model"],
            train=tables["train"],
            tokenizer_directory=tokenizer,
            out=out,
            tensorboard=tensorboard,
        )
        train_run(request, [view], sys.stdin.buffer)
    finally:
        view.close()
