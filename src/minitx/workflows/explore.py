"""What `minitx explore` answers its page: a model's numbers, part by part, as it asks for them."""

from __future__ import annotations

import base64
from collections.abc import Callable
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from minitx.checkpoint.rundir import find_run, resolve_checkpoint, use_checkpoint
from minitx.config import ExploreRequest
from minitx.corpus import load_encoded
from minitx.errors import BadInputError
from minitx.evaluation.arrays import IdArray, IntArray
from minitx.files import as_plain
from minitx.inspection.ablation import ablate_for_token
from minitx.inspection.attention_maps import read_attention, require_existing, require_fits
from minitx.inspection.attribution import attribute
from minitx.inspection.forward_steps import Step, forward_steps, source
from minitx.inspection.logit_lens import read_logit_lens
from minitx.inspection.passages import MOST_SEARCHED, find_passages
from minitx.inspection.patching import BY_POSITION, Patcher
from minitx.model import evaluating
from minitx.serving.page_app import PageApp
from minitx.serving.server import ServerStop, listen, run_page
from minitx.workflows.attend import AttentionStudy, study_model
from minitx.workflows.load import open_checkpoint

_MOST_NUMBERS = 1 << 16  # In one answer.
_REMEMBERED = 4

Given = dict[str, Any]


class Explorer:
    """Answers questions about a model. Each is a method of one JSON object, and gives another.

    Raises:
        BadInputError: from each of them, for what the model or its tokenizer can't take.
    """

    def __init__(self, study: AttentionStudy) -> None:
        self.study, self.model, self.tokenizer = study, study.model, study.tokenizer
        # The steps of a text are kept: a page asks for the numbers of one after the other.
        self._steps = lru_cache(_REMEMBERED)(lambda ids: forward_steps(self.model, np.array(ids)))

    @property
    def name(self) -> str:
        """Of the run, or else of the model's directory."""
        run = find_run(self.study.checkpoint.resolve())
        return (self.study.checkpoint if run is None else run.path).absolute().name

    @property
    def answers(self) -> dict[str, Callable[[Given], Any]]:
        """The questions by name."""
        names = ("read", "vocabulary", "distribution", "steps", "numbers", "source", "attention",
                 "lens", "attribution", "ablation", "patching", "passages", "film")  # fmt: skip
        return {name: getattr(self, name) for name in names}

    def read(self, given: Given) -> Given:
        """Of a `text`, or `ids`: each token, and how likely it was after those before it."""
        if isinstance(text := given.get("text"), str):
            ids = self.tokenizer.encode(text).astype(np.int64)
            require_fits(len(ids), self.model.config)
        else:
            ids = self._ids(given)
        logits = self._logits(ids).log_softmax(dim=-1).cpu().numpy()
        chances = np.exp(logits[np.arange(len(ids) - 1), ids[1:]])
        return {
            "ids": ids.tolist(),
            "pieces": [self.tokenizer.piece(int(i)) for i in ids],
            "chances": [None, *chances.tolist()],
        }

    def vocabulary(self, given: Given) -> list[str]:
        """The text of every id."""
        return [self.tokenizer.piece(i) for i in range(self.model.config.vocab_size)]

    def distribution(self, given: Given) -> str:
        """Logits of the token that follows `ids`, all of the vocabulary."""
        return _packed(_array(self._logits(self._ids(given))[-1]))

    def steps(self, given: Given) -> list[Given]:
        """What happens in one pass over `ids`, in order, without the numbers."""
        return [
            {"where": step.where, "name": step.name, "formula": step.formula, "line": step.line,
             "code": source().splitlines()[step.line - 1].strip(), "columns": step.columns,
             "heads": step.n_heads, "shape": step.shape}
            for step in self._steps(tuple(self._ids(given).tolist()))
        ]  # fmt: skip

    def numbers(self, given: Given) -> Given:
        """Of a `step` and a `head`, a part of the matrix: from `row` and `column` on."""
        steps: list[Step] = self._steps(tuple(self._ids(given).tolist()))
        step = steps[_number(given, "step", len(steps))]
        n_rows, n_columns = step.shape
        values = step.values(_number(given, "head", max(1, step.n_heads)))
        row, column = _number(given, "row", n_rows), _number(given, "column", n_columns)
        width = min(n_columns - column, 512)
        part = values[row : row + max(1, _MOST_NUMBERS // width), column : column + width]
        return {"row": row, "column": column, "shape": part.shape, "values": _packed(_array(part))}

    def source(self, given: Given) -> list[str]:
        """The lines of the model's file."""
        return source().splitlines()

    def attention(self, given: Given) -> Given:
        """What the last of `ids` looks at in each head, and its rollout up to each layer."""
        maps = read_attention(self.model, self.tokenizer, self._ids(given))
        rows = maps.weights[:, :, -1].reshape(-1, maps.seq)
        return {"weights": _packed(rows), "rollout": _packed(maps.rollout()[:, -1])}

    def lens(self, given: Given) -> list[Given]:
        """What each layer would say after `ids`, and how likely it finds `token`."""
        token, ids = self._token(given), self._ids(given)
        lens = read_logit_lens(self.model, ids, self.model.config.vocab_size)
        readings = []
        for name, order, chances in zip(
            lens.names, lens.top_ids[:, -1], lens.top_probabilities[:, -1], strict=True
        ):
            rank = int(np.flatnonzero(order == token)[0])
            top = [[int(i), float(p)] for i, p in zip(order[:5], chances[:5], strict=False)]
            readings.append(
                {"after": name, "top": top, "rank": rank + 1, "chance": float(chances[rank])}
            )
        return readings

    def attribution(self, given: Given) -> Given:
        """What each part adds to the logit of `token` after `ids`."""
        found = attribute(self.model, self._ids(given), self._token(given))
        parts = [[each.name, each.layer, each.head, each.logit] for each in found.contributions]
        return {"logit": found.logit, "total": found.total, "parts": parts}

    def ablation(self, given: Given) -> Given:
        """What the logit of `token` after `ids` gains without each head and each MLP."""
        heads, mlps = ablate_for_token(self.model, self._ids(given), self._token(given))
        return {"heads": heads.tolist(), "mlp": mlps.tolist()}

    def patching(self, given: Given) -> Given:
        """The run over `ids` put part by part into that over a `text` of as many tokens."""
        text = given.get("text")
        if not isinstance(text, str):
            raise BadInputError("there is no corrupted prompt", "Give a text")
        other = self.tokenizer.encode(text).astype(np.int64)
        require_fits(len(other), self.model.config)
        patcher = Patcher(self.model, self._ids(given), other, self._token(given))
        if "head" in given:
            layer = _number(given, "layer", self.model.config.n_layers)
            head = _number(given, "head", self.model.config.n_heads)
            return {"by_position": patcher.head_by_position(layer, head).tolist()}
        found = patcher.everywhere(self.tokenizer.piece)
        parts: Given = {part: getattr(found, part).tolist() for part in (*BY_POSITION, "heads")}
        whole = {"clean": found.clean, "corrupted": found.corrupted, "tokens": found.tokens}
        return {**whole, **parts}

    def passages(self, given: Given) -> Given:
        """Passages of the training text that end as `ids` do."""
        ids = self._ids(given)
        if self._train_ids is None:
            return {"missing": "This model is in no run, so its training text is not known."}
        found = find_passages(self._train_ids, ids)
        piece, text = self.tokenizer.piece, self.tokenizer.decode
        excerpts = [
            {"before": text(before[: len(before) - found.length]),
             "same": text(before[len(before) - found.length :]), "after": text(after)}
            for before, after in found.excerpts
        ]  # fmt: skip
        return {
            "length": found.length, "count": found.count, "excerpts": excerpts,
            "following": [[i, piece(i), n] for i, n in found.following[:8]],
            "searched": min(len(self._train_ids), MOST_SEARCHED),
        }  # fmt: skip

    def film(self, given: Given) -> list[Given]:
        """The moments of the run's training, as film.jsonl has them, with None for NaN."""
        return [as_plain(moment.to_line()) for moment in self.study.film.moments]

    @cached_property
    def _train_ids(self) -> IdArray | None:
        run = find_run(self.study.checkpoint.resolve())
        return None if run is None or not run.data.is_dir() else load_encoded(run.data).train_ids

    @torch.inference_mode()
    def _logits(self, ids: IntArray) -> Tensor:
        text = torch.from_numpy(ids).to(self.model.embedding.weight.device)
        with evaluating(self.model):
            logits: Tensor = self.model(text[None])[0].float()
        return logits

    def _ids(self, given: Given) -> IntArray:
        ids, size = given.get("ids"), self.model.config.vocab_size
        if not isinstance(ids, list) or not all(type(i) is int and 0 <= i < size for i in ids):
            raise BadInputError(
                "ids are no list of token ids", f"Give numbers from 0 to {size - 1}"
            )
        require_fits(len(ids), self.model.config)
        return np.array(ids, np.int64)

    def _token(self, given: Given) -> int:
        return _number(given, "token", self.model.config.vocab_size)


def _number(given: Given, name: str, below: int) -> int:
    value = given.get(name, 0)
    if type(value) is not int:
        raise BadInputError(f"{name} is {value!r}, not a whole number", "Give one")
    require_existing(name, value, below)
    return value


def _array(values: Tensor) -> Any:
    return values.float().cpu().numpy()


def _packed(values: Any) -> str:
    """Numbers as float32, little-endian, in base64: minus infinity and all."""
    return base64.b64encode(np.ascontiguousarray(values, "<f4").tobytes()).decode("ascii")


def explore(
    request: ExploreRequest,
    page_of: Callable[[Explorer], str],
    ready: Callable[[Explorer, str], None],
) -> int:
    """Serve the page of a model to this machine alone, until a signal to stop; its exit code.

    Raises:
        BadInputError: the run, the prompt or the port can't be used.
        DamagedFileError: the checkpoint is damaged.
    """
    with listen("127.0.0.1", request.port) as opened:
        loaded = use_checkpoint(
            lambda: resolve_checkpoint(request.run, request.load.checkpoint),
            lambda directory: open_checkpoint(directory, request.load.device),
        )
        explorer = Explorer(study_model(loaded, request.prompt, stand_in="The"))
        url = f"http://127.0.0.1:{opened.getsockname()[1]}"
        stop = ServerStop()
        with stop:
            stop.defer()
            app = PageApp(page_of(explorer), explorer.answers)
            return run_page(opened, app, stop, lambda: ready(explorer, url))
