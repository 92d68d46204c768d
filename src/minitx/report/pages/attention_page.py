"""The self-contained page of `minitx attn --html`: everything in one file, nothing fetched.

The page's HTML, CSS and JavaScript are files in this folder; this module fills in the data. Weights
travel as 8 bits each: the square root in 255 steps, which keeps small weights apart, and of each
map only the triangle that can be other than 0.
"""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import numpy.typing as npt

from minitx.checkpoint.own_model import refuse_own
from minitx.config import Index
from minitx.errors import BadInputError
from minitx.inspection.ablation import Ablation
from minitx.inspection.attention_maps import quantise
from minitx.inspection.head_roles import HeadRole
from minitx.inspection.logit_lens import LogitLens
from minitx.report.pages.templates import render
from minitx.report.terminal.units import count
from minitx.workflows.attend import AttentionStudy

MAX_PAGE_BYTES = 5_000_000
# What the page holds besides the maps: its own code, and per token the lens and the text.
_FRAME_BYTES = 60_000


def attention_page(study: AttentionStudy, title: str, about: str, layer: int, head: int) -> str:
    """The page as one HTML document; `layer` and `head` are shown first.

    Raises:
        BadInputError: when it would be larger than `MAX_PAGE_BYTES`.
    """
    maps, roles, ablation = study.maps, study.roles, study.ablation
    averages = np.stack([maps.average(layer) for layer in range(maps.n_layers)])
    stack = np.concatenate([maps.weights.reshape(-1, maps.seq, maps.seq), averages, maps.rollout()])
    data = {
        "about": about,
        "tokens": list(maps.tokens),
        "n_layers": maps.n_layers,
        "n_heads": maps.n_heads,
        "chosen": {"layer": layer, "head": head},
        "roles": {
            "names": roles.measured,
            "measured_on": roles.measured_on,
            "ablated_on": ablation.measured_on if ablation else "",
            "heads": [_head(head_role, ablation) for head_role in roles.heads],
        },
        "lens": _lens(study.lens),
    }
    page = render(
        "attention.html",
        title=title,
        data=data,
        weights=_base64(quantise(stack)),
        lengths=_base64(maps.value_lengths.astype("<f4")),
    )
    size = len(page.encode())
    if size > MAX_PAGE_BYTES:
        raise _too_large(size, maps.seq * 3 // 4)
    return page


def study_page(study: AttentionStudy, layer: Index = None, head: Index = None) -> str:
    """Measure everything the page shows of a study, and lay it out as one HTML document.

    Raises:
        BadInputError: when the page would be too large, or when there is no such layer or head.
    """
    refuse_own(study.model, "a page of attention")
    config = study.model.config
    require_page_fits(len(study.ids), config.n_layers, config.n_heads)
    first_layer, first_head, _ = study.choose(layer, head)
    about = (
        f"{study.checkpoint}: {config.family}, {config.n_layers} layers of "
        f"{config.n_heads} heads, {count(config.n_parameters)} parameters; "
        f"a text of {len(study.ids)} tokens"
    )
    if study.prompt_from:
        about += f", {study.prompt_from}"
    title = f"Attention of {study.checkpoint.name}"
    return attention_page(study, title, about, first_layer, first_head)


def require_page_fits(seq: int, n_layers: int, n_heads: int) -> None:
    """Refuse, before any work, a text whose maps alone would make the page too large."""

    def size(seq: int) -> int:
        return n_layers * (n_heads + 2) * (seq * (seq + 1) // 2) * 4 // 3 + _FRAME_BYTES

    if size(seq) > MAX_PAGE_BYTES:
        fitting = (n for n in range(seq, 1, -1) if size(n) <= MAX_PAGE_BYTES)
        raise _too_large(size(seq), next(fitting, 1))


def _head(measured: HeadRole, ablation: Ablation | None) -> dict[str, Any]:
    off = ablation.of(measured.layer, measured.head) if ablation else None
    scores = measured.scores.items()
    return {
        "layer": measured.layer,
        "head": measured.head,
        "role": measured.role,
        "scores": {role: [round(of.score, 4), round(of.control, 4)] for role, of in scores},
        "loss_change": round(off.loss_change, 6) if off else None,
        "loss_error": round(off.standard_error, 6) if off and off.standard_error else None,
    }


def _lens(lens: LogitLens) -> dict[str, Any]:
    place = {token: number for number, token in enumerate(lens.pieces)}
    layers = []
    for layer, name in enumerate(lens.names):
        top = [
            [(place[int(token)], round(float(p), 3)) for token, p in zip(*of_token, strict=True)]
            for of_token in zip(lens.top_ids[layer], lens.top_probabilities[layer], strict=True)
        ]
        following = [round(float(p), 4) for p in lens.next_probability[layer]]
        layers.append({"name": name, "top": top, "next": following})
    return {"pieces": list(lens.pieces.values()), "layers": layers}


def _too_large(size: int, longest: int) -> BadInputError:
    return BadInputError(
        f"the page would be {size / 1e6:.1f} MB, over its limit of {MAX_PAGE_BYTES / 1e6:.0f} MB",
        f"Shorten the prompt to {longest} tokens or fewer, or use --npz",
    )


def _base64(array: npt.NDArray[Any]) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode("ascii")
