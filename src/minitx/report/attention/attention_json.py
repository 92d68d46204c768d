"""What `minitx attn --json` prints: the same results as on the screen, as one JSON object."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

from minitx.config import AttentionRequest
from minitx.inspection.attention_maps import most_looked_at
from minitx.inspection.head_roles import HeadRole
from minitx.inspection.logit_lens import LogitLens
from minitx.report.attention.attention_screen import position_of, quantity_of
from minitx.report.terminal.printable import json_line
from minitx.workflows.attend import AttentionStudy, ChosenMap, choose_maps


def attention_json(study: AttentionStudy, request: AttentionRequest) -> str:
    """One JSON object; numbers to 6 digits after the point, but for the mask check's.

    Raises:
        BadInputError: when there is no such layer, head or token.
    """
    values: dict[str, Any] = {
        "checkpoint": str(study.checkpoint),
        "prompt": study.prompt,
        "prompt_from": study.prompt_from or "--prompt",
        "tokens": study.maps.tokens,
        "ids": study.ids.tolist(),
    }
    position = position_of(study, request)
    if request.wants_map:
        chosen = choose_maps(study, request.kind, request.layer, request.head)
        values["reason"] = chosen.reason
        values["maps"] = [_map(study, each, position, request.top) for each in chosen.maps]
    if request.roles or request.is_default:
        values["roles"] = {
            "measured_on": study.roles.measured_on,
            "heads": [_role(head) for head in study.roles.heads],
        }
    if request.ablate:
        ablation = study.ablation
        values["ablation"] = ablation and {
            "loss": ablation.loss,
            "measured_on": ablation.measured_on,
            "heads": [dataclasses.asdict(head) for head in ablation.heads],
        }
    if request.lens:
        values["logit_lens"] = _lens(study.lens, study.tokenizer.piece)
    values = json.loads(json.dumps(values), parse_float=lambda number: round(float(number), 6))
    if request.check_mask:
        check = study.mask_check
        values["mask_check"] = {
            "passed": check.passed,
            "length": check.length,
            "paths": [dataclasses.asdict(path) for path in check.paths],
        }
    return json_line(values)


def _map(
    study: AttentionStudy, chosen: ChosenMap, position: int | None, top: int | None
) -> dict[str, Any]:
    values: dict[str, Any] = {
        "kind": chosen.kind, "layer": chosen.layer, "head": chosen.head,
        "quantity": quantity_of(chosen.kind),
    }  # fmt: skip
    if position is None and top is None:
        return values | {"values": chosen.values.tolist()}
    tokens = study.maps.tokens
    return values | {
        "looked_at": [
            {
                "token": row,
                "text": tokens[row],
                "top": [
                    {"token": looked.position, "text": looked.token, "value": looked.value}
                    for looked in most_looked_at(chosen.values, tokens, row, top or 5)
                ],
            }
            for row in (range(len(tokens)) if position is None else [position])
        ]
    }


def _role(head: HeadRole) -> dict[str, Any]:
    scores = {
        role: {**dataclasses.asdict(score), "strength": score.strength}
        for role, score in head.scores.items()
    }
    return {"layer": head.layer, "head": head.head, "role": head.role, "scores": scores}


def _lens(lens: LogitLens, piece: Callable[[int], str]) -> list[dict[str, Any]]:
    ids, probabilities = lens.top_ids.tolist(), lens.top_probabilities.tolist()
    return [
        {
            "after": name,
            "loss": float(lens.loss[layer]) if len(lens.loss) else None,
            "next_probability": lens.next_probability[layer].tolist(),
            "top": [
                [
                    {"id": token, "text": piece(token), "probability": probability}
                    for token, probability in zip(*guesses, strict=True)
                ]
                for guesses in zip(ids[layer], probabilities[layer], strict=True)
            ],
        }
        for layer, name in enumerate(lens.names)
    ]
