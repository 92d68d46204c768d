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

from minitx.config import AttentionRequest
from minitx.errors import BadInputError
from minitx.inspection.ablation import Ablation
from minitx.inspection.attention_maps import AttentionMaps
from minitx.inspection.head_roles import HeadRole, HeadRoles
from minitx.inspection.logit_lens import LogitLens
from minitx.report.pages.templates import render
from minitx.report.terminal.units import count
from minitx.workflows.attend import AttentionStudy

FloatArray = npt.NDArray[np.float32]

MAX_PAGE_BYTES = 5_000_000
# What the page holds besides the maps: its own code, and per token the lens and the text.
_FRAME_BYTES = 60_000


def attention_page(
    *, title: str, about: str, maps: AttentionMaps, layer: int, head: int, roles: HeadRoles,
    lens: LogitLens, ablation: Ablation | None,
) -> str:  # fmt: skip
    """The page as one HTML document; `layer` and `head` are shown first.

    The lens has the text of its ids; it has no ablation where that is None.

    Raises:
        BadInputError: when it would be larger than `MAX_PAGE_BYTES`.
    """
    stack = np.concatenate(
        [
            maps.weights.reshape(-1, maps.seq, maps.seq),
            np.stack([maps.average(layer) for layer in range(maps.n_layers)]),
            maps.rollout(),
        ]
    )
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
            "heads": [_head(one, ablation) for one in roles.heads],
        },
        "lens": _lens(lens),
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


def study_page(study: AttentionStudy, request: AttentionRequest) -> str:
    """Measure everything the page shows of a study, and lay it out as one HTML document.

    Raises:
        BadInputError: when the page would be too large, or when there is no such layer or head.
    """
    config = study.model.config
    require_page_fits(len(study.ids), config.n_layers, config.n_heads)
    layer, head, _ = study.choose(request.layer, request.head)
    about = (
        f"{study.checkpoint}: {config.architecture}, {config.n_layers} layers of "
        f"{config.n_heads} heads, {count(config.n_parameters)} parameters; "
        f"a text of {len(study.ids)} tokens"
    )
    return attention_page(
        title=f"Attention of {study.checkpoint.name}",
        about=f"{about}, {study.prompt_from}" if study.prompt_from else about,
        maps=study.maps, layer=layer, head=head, roles=study.roles,
        lens=study.lens, ablation=study.ablation,
    )  # fmt: skip


def require_page_fits(seq: int, n_layers: int, n_heads: int) -> None:
    """Refuse, before any work, a text whose maps alone would make the page too large."""

    def size(seq: int) -> int:
        return n_layers * (n_heads + 2) * (seq * (seq + 1) // 2) * 4 // 3 + _FRAME_BYTES

    longest = seq
    while longest > 1 and size(longest) > MAX_PAGE_BYTES:
        longest -= 1
    if size(seq) > MAX_PAGE_BYTES:
        raise _too_large(size(seq), longest)


def quantise(maps: FloatArray) -> npt.NDArray[np.uint8]:
    """Lower triangles of maps, row by row, as the square root of the weight in 255 steps.

    Of (n, seq, seq) weights from 0 to 1, (n, seq * (seq + 1) / 2) bytes; a byte b stands for
    (b / 255)^2.
    """
    rows, columns = np.tril_indices(maps.shape[1])
    clipped = np.clip(maps[:, rows, columns], 0.0, 1.0)
    return np.round(255 * np.sqrt(clipped)).astype(np.uint8)


def _head(one: HeadRole, ablation: Ablation | None) -> dict[str, Any]:
    off = ablation.of(one.layer, one.head) if ablation else None
    return {
        "layer": one.layer,
        "head": one.head,
        "role": one.role,
        "scores": {
            role: [round(found.score, 4), round(found.control, 4)]
            for role, found in one.scores.items()
        },
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
