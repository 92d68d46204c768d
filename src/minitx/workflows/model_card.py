"""What a checkpoint says of itself to people: its `README.md`, from the facts of its run.

The block at the top is what the Hugging Face Hub reads. Files are named without their folders, and
what only a person can say, the licence, is left to one.
"""

from __future__ import annotations

import json
import math
from pathlib import PureWindowsPath
from typing import Any

from minitx.config import RunConfig
from minitx.corpus import EncodedCorpus
from minitx.evaluation.arrays import bits_per
from minitx.training.state import TrainingState

_MARKS = "`|<>#*[]"  # which Markdown would take as its own


def model_card(
    name: str,
    config: RunConfig,
    corpus: EncodedCorpus,
    bytes_per_token: float,
    state: TrainingState,
    made_with: dict[str, str],
    has_chats: bool = False,
) -> bytes:
    """The file, where a run stands.

    Args:
        name: of the run.
        bytes_per_token: of the holdout.
        made_with: versions and machine, as in `made_with.json`.
        has_chats: whether it learned the answers of conversations.
    """
    data, model, train = config.data, config.model, config.train
    files = list(dict.fromkeys(_name(file) for file in data.names)) or ["(none named)"]
    sizes = f"{model.n_layers} layers, {model.n_heads} heads, width {model.d_model}"
    rows = {
        "architecture": f"`{model.architecture}`, {model.n_parameters:,} parameters: {sizes}, "
        f"context {model.context_length:,}",
        "tokenizer": f"{config.tokenizer.kind}, {model.vocab_size:,} ids",
        "corpus": ", ".join(f"`{file}`" for file in files),
        "SHA-256 of the corpus": f"`{corpus.digest}`",
        "train part": f"{corpus.train.tokens:,} tokens, {corpus.train.bytes:,} bytes",
        "holdout": f"{corpus.holdout.tokens:,} tokens, {corpus.holdout.bytes:,} bytes; "
        + _split(config),
        "audit": "not made"
        if data.leaked is None
        else f"{100 * data.leaked:.1f} % of the holdout also stands in the train part",
        "steps": f"{state.step:,} of {state.steps:,}, with {state.tokens:,} tokens: "
        f"{state.tokens / max(1, corpus.train.tokens):.2f} passes over the train part",
        "optimizer": f"{train.optimizer}, learning rate {train.learning_rate:g}, weight decay "
        f"{train.weight_decay:g}, batch {train.batch_size}, seed {train.seed}",
        "made with": ", ".join(
            f"{key} {made_with[key]}" for key in ("minitx", "torch", "numpy", "python")
        )
        + f"; {made_with['device']}, {made_with['dtype']}",
    }
    if has_chats:
        rows["conversations"] = (
            "their answers alone are learned and scored; `chat_template` says how they are written"
        )
    figures = _figures(state, bytes_per_token)
    if model.code_file is not None:
        rows["architecture"] = f"a model of its own, {model.n_parameters:,} parameters"
    if train.start is not None:
        rows["began with"] = f"`{_name(train.start)}`, weights of SHA-256 `{train.start_digest}`"
    lines = [
        "---", *_metadata(name, files[0], figures, model.code_file is None), "---", "",
        f"# {_name(name)}", "",
        "A decoder-only language model, trained with minitx, which wrote this page.", "",
        "## Measured", "", *_measured(state, bytes_per_token, figures), "",
        "## Made from", "", "| | |", "| --- | --- |",
        *(f"| {key} | {value} |" for key, value in rows.items()), "",
        "## Made again", "",
        "`run_copy.toml`, beside this page, has every setting. With the same corpus, versions and "
        "kind of processor, this gives the same numbers:", "",
        "    minitx train CORPUS --config run_copy.toml", "",
        "## Licence", "",
        "None is given yet. Whoever publishes this model adds `license:` to the block at the top, "
        "with regard to the licences of the corpus and of what it began with.", "",
    ]  # fmt: skip
    return "\n".join(lines).encode("utf-8")


def _name(path: str) -> str:
    """The last part of a path, as text that Markdown shows as it is."""
    text = PureWindowsPath(path).name or path  # It knows the separators of all systems.
    text = text.encode("utf-8", "replace").decode("utf-8")
    return "".join(c if c.isprintable() and c not in _MARKS else "?" for c in text)


def _split(config: RunConfig) -> str:
    data = config.data
    if data.held_file is not None:
        return f"the file `{_name(data.held_file)}`"
    how = {"hash": f"documents by a hash, seed {data.split_seed}"}.get(
        data.split or "", "the tail of the text"
    )
    return f"{100 * data.holdout_fraction:g} % of the corpus, {how}"


def _figures(state: TrainingState, bytes_per_token: float) -> dict[str, float]:
    """By name; empty if nothing was scored yet."""
    if not math.isfinite(state.holdout_loss):
        return {}
    loss = state.holdout_loss
    return {"loss": round(loss, 4), "bits_per_byte": round(bits_per(loss, bytes_per_token), 4)}


def _measured(state: TrainingState, bytes_per_token: float, figures: dict[str, float]) -> list[str]:
    if not figures:
        return ["Nothing yet."]
    loss, margin = state.holdout_loss, state.holdout_margin

    def row(what: str, of: Any) -> str:
        known = math.isfinite(margin)
        interval = f"{of(loss - margin):.4g} to {of(loss + margin):.4g}" if known else "unknown"
        return f"| {what} | {of(loss):.4g} | {interval} |"

    return [
        f"On {state.holdout_tokens:,} tokens of the holdout, after step {state.scored_step:,}:", "",
        "| | value | 95 % interval |", "| --- | --- | --- |",
        row("loss, nats a token", lambda nats: nats),
        row("bits per byte", lambda nats: bits_per(nats, bytes_per_token)),
        row("perplexity, a token", lambda nats: math.exp(min(nats, 700.0))),
    ]  # fmt: skip


def _metadata(
    name: str, corpus: str, figures: dict[str, float], is_transformers: bool
) -> list[str]:
    # What JSON writes as a text, YAML reads.
    lines = [
        *(["library_name: transformers"] if is_transformers else []),
        "pipeline_tag: text-generation",
        "tags: [minitx]",
    ]
    if figures:
        lines += [
            "model-index:",
            f"- name: {json.dumps(_name(name))}",
            "  results:",
            "  - task: {type: text-generation}",
            f"    dataset: {{type: text, name: {json.dumps(f'holdout of {corpus}')}}}",
            "    metrics:",
            *(f"    - {{type: {key}, value: {value}}}" for key, value in figures.items()),
        ]
    return lines
