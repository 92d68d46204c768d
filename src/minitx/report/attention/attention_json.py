"""What `minitx attn --json` prints: the same findings as on the screen, as one JSON object."""

from __future__ import annotations

from typing import Any

from minitx.config import AttentionRequest
from minitx.inspection.ablation import Ablation
from minitx.inspection.attention_maps import Looked, most_looked_at
from minitx.inspection.head_roles import HeadRole
from minitx.inspection.logit_lens import LogitLens
from minitx.inspection.mask_check import MaskCheck
from minitx.report.attention.attention_screen import position_of, quantity_of
from minitx.report.terminal.printable import json_line
from minitx.workflows.attend import AttentionStudy, ChosenMap, choose_maps


def attention_json(study: AttentionStudy, request: AttentionRequest) -> str:
    """One JSON object; numbers to 6 digits after the point.

    Raises:
        BadInputError: when there is no such layer, head or token.
    """
    found: dict[str, Any] = {
        "checkpoint": str(study.checkpoint),
        "prompt": study.prompt,
        "prompt_from": study.prompt_from or "--prompt",
        "tokens": list(study.maps.tokens),
        "ids": study.ids.tolist(),
    }
    position = position_of(study, request)
    if request.wants_map:
        chosen = choose_maps(study, request.kind, request.layer, request.head)
        found["reason"] = chosen.reason
        found["maps"] = [_map(study, one, position, request.top) for one in chosen.maps]
    if request.roles or request.is_default:
        found["roles"] = {
            "measured_on": study.roles.measured_on,
            "heads": [_role(one) for one in study.roles.heads],
        }
    if request.ablate:
        found["ablation"] = _ablation(study.ablation) if study.ablation else None
    if request.lens:
        found["logit_lens"] = _lens(study, study.lens)
    if request.check_mask:
        found["mask_check"] = _mask(study.mask_check)
    return json_line(found)


def _map(
    study: AttentionStudy, one: ChosenMap, position: int | None, top: int | None
) -> dict[str, Any]:
    found: dict[str, Any] = {
        "kind": one.kind,
        "layer": one.layer,
        "head": one.head,
        "quantity": quantity_of(one.kind),
    }
    if position is None and top is None:
        return found | {"values": [[_round(v) for v in row] for row in one.values.tolist()]}
    tokens = study.maps.tokens
    positions = range(len(tokens)) if position is None else [position]
    return found | {
        "looked_at": [
            {
                "token": at,
                "text": tokens[at],
                "top": [_looked(x) for x in most_looked_at(one.values, tokens, at, top or 5)],
            }
            for at in positions
        ]
    }


def _looked(one: Looked) -> dict[str, Any]:
    return {"token": one.position, "text": one.token, "value": _round(one.value)}


def _role(one: HeadRole) -> dict[str, Any]:
    return {
        "layer": one.layer,
        "head": one.head,
        "role": one.role,
        "scores": {
            role: {
                "score": _round(found.score),
                "control": _round(found.control),
                "strength": _round(found.strength),
            }
            for role, found in one.scores.items()
        },
    }


def _ablation(ablation: Ablation) -> dict[str, Any]:
    return {
        "loss": _round(ablation.loss),
        "measured_on": ablation.measured_on,
        "heads": [
            {
                "layer": one.layer,
                "head": one.head,
                "loss_change": _round(one.loss_change),
                "standard_error": None
                if one.standard_error is None
                else _round(one.standard_error),
            }
            for one in ablation.heads
        ],
    }


def _lens(study: AttentionStudy, lens: LogitLens) -> list[dict[str, Any]]:
    piece = study.tokenizer.piece
    return [
        {
            "after": name,
            "loss": _round(float(lens.loss[at])) if len(lens.loss) else None,
            "next_probability": [_round(float(p)) for p in lens.next_probability[at]],
            "top": [
                [
                    {"id": int(i), "text": piece(int(i)), "probability": _round(float(p))}
                    for i, p in zip(*of_token, strict=True)
                ]
                for of_token in zip(lens.top_ids[at], lens.top_probabilities[at], strict=True)
            ],
        }
        for at, name in enumerate(lens.names)
    ]


def _mask(check: MaskCheck) -> dict[str, Any]:
    return {
        "passed": check.passed,
        "length": check.length,
        "paths": [
            {
                "path": path.path,
                "cuts": path.cuts,
                "logits": path.logits,
                "leak": None
                if path.leak is None
                else {
                    "position": path.leak.position,
                    "cut": path.leak.cut,
                    "largest_change": path.leak.largest_change,
                    "layer": path.leak.layer,
                    "heads": list(path.leak.heads),
                    "place": path.leak.place,
                },
            }
            for path in check.paths
        ],
    }


def _round(value: float) -> float:
    return round(float(value), 6)
