"""What differs between an answer and what was wanted, in words: kind, shape, factor, place."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from minitx.learn.trial import Trial, as_data, is_number, kind_of, same


def difference(got: Any, wanted: Any) -> str:
    """What differs, in one or two sentences; empty if nothing does.

    Both are results as `trial.result_of` gives them.
    """
    if same(got, wanted):
        return ""
    if got is None:
        return "It returns nothing. Is the `return` missing?"
    if is_number(got) and is_number(wanted):
        if isinstance(got, Tensor) or isinstance(wanted, Tensor):
            return _of_tensors(torch.as_tensor(got), torch.as_tensor(wanted))
        return f"It is {_shown(got)}, and should be {_shown(wanted)}."
    if type(got) is not type(wanted):
        return f"It returns {_kind(got)}, and should return {_kind(wanted)}."
    if isinstance(wanted, (list, dict)):
        return _of_containers(got, wanted)
    return f"It is {_shown(got)}, and should be {_shown(wanted)}."


def seen_too_early(trial: Trial) -> str:
    """What a later token changes that it must not; empty if nothing."""
    if not trial.is_causal:
        return ""
    # Ids have their positions along the last axis, vectors and results along the one before.
    changed = list(map(_with_other_end, trial.inputs))
    before, after = (as_data(trial.function(*inputs)) for inputs in (trial.inputs, changed))
    if not (isinstance(before, Tensor) and isinstance(after, Tensor) and before.dim() > 1):
        return ""
    moved = (before != after).flatten(0, -3).any(0) if before.dim() > 2 else before != after
    places = moved[:-1].any(-1).nonzero()
    if not len(places):
        return ""
    return (
        f"Position {int(places[0])} changes when only the last token does: it looks at what comes "
        "later, so in training it would see its answer."
    )


def _with_other_end(value: Any) -> Any:
    if not isinstance(value, Tensor) or value.dim() < 2:
        return value
    value = value.clone()
    if value.is_floating_point():
        value[..., -1, :] = 1.0 - value[..., -1, :]
    else:
        value[..., -1] = (value[..., -1] == 0).to(value.dtype)
    return value


def _of_containers(got: Any, wanted: Any) -> str:
    noun = "entries" if isinstance(wanted, dict) else "elements"
    if len(got) != len(wanted):
        return f"It has {len(got)} {noun}, and should have {len(wanted)}: {_shown(wanted)}."
    if isinstance(wanted, dict):
        if missing := [key for key in wanted if key not in got]:
            return f"It has no entry {_shown(missing[0])}."
        pairs = [(f"entry {_shown(key)}", got[key], wanted[key]) for key in wanted]
    else:
        pairs = [(f"element {i}", g, w) for i, (g, w) in enumerate(zip(got, wanted, strict=True))]
    name, one, other = next((n, g, w) for n, g, w in pairs if not same(g, w))
    if isinstance(other, (Tensor, list, dict)):
        return f"In {name}: {_lower(difference(one, other))}"
    return f"Its {name} is {_shown(one)}, and should be {_shown(other)}."


def _of_tensors(got: Tensor, wanted: Tensor) -> str:
    if got.shape != wanted.shape:
        if got.dim() == wanted.dim() and sorted(got.shape) == sorted(wanted.shape):
            about = " Two axes are swapped."
        elif got.numel() == wanted.numel():
            about = " All numbers are there, in another shape."
        else:
            about = ""
        return f"Its shape is {tuple(got.shape)}, and should be {tuple(wanted.shape)}.{about}"
    if kind_of(got) != kind_of(wanted):
        return f"Its dtype is {_dtype(got)}, and should be {_dtype(wanted)}."
    one, other = got.double(), wanted.double()
    if (bad := _bad_number(one, other)) is not None:
        return bad
    pattern = _pattern(one, other)
    wrong = ~torch.isclose(one, other, rtol=1e-4, atol=1e-5, equal_nan=True)
    place = [int(i) for i in wrong.nonzero()[0]] if wrong.dim() else []
    where = f"Element {place}" if place else "It"
    numbers = f"is {_shown(got[tuple(place)])}, and should be {_shown(wanted[tuple(place)])}."
    count = f" {int(wrong.sum())} of {wrong.numel()} numbers differ." if wrong.numel() > 1 else ""
    return f"{pattern}{where} {numbers}{count}"


def _bad_number(got: Tensor, wanted: Tensor) -> str | None:
    for name, is_bad in (("NaN", torch.isnan), ("infinite", torch.isinf)):
        wrong = is_bad(got) & ~is_bad(wanted)
        # Where a filter makes some -inf, one more is a wrong choice and no slip of arithmetic.
        if bool(wrong.any()) and not bool(is_bad(wanted).any()):
            place = [int(i) for i in wrong.nonzero()[0]] if wrong.dim() else []
            which = f"Element {place}" if place else "It"
            return (
                f"{which} is {name}, {int(wrong.sum())} of {wrong.numel()} numbers are. Look for a "
                "division by 0, the log of 0, e to a large power, or a softmax of nothing but -inf."
            )
    return None


def _pattern(got: Tensor, wanted: Tensor) -> str:
    # What all numbers have in common, if they do: a factor, an offset, an order.
    finite = torch.isfinite(got) & torch.isfinite(wanted)
    if int(finite.sum()) > 1 and bool((got[~finite] == wanted[~finite]).all()):
        one, other = got[finite], wanted[finite]
        factor = float((one * other).sum() / (other * other).sum().clamp(min=1e-30))
        if factor and torch.allclose(one, factor * other, rtol=1e-4, atol=1e-5):
            return f"All numbers are {factor:.4g} times what they should be. "
        offset = float((one - other).mean())
        if torch.allclose(one, other + offset, rtol=1e-4, atol=1e-5):
            return f"All numbers are {abs(offset):.4g} too {'large' if offset > 0 else 'small'}. "
    for axis in range(-1, -got.dim() - 1, -1):
        size = got.shape[axis]
        if size < 2:
            continue
        if same(got.flip(axis), wanted):
            return f"The order along axis {axis} is reversed. "
        for shift in (1, -1):
            rolled = got.roll(shift, axis).narrow(axis, int(shift > 0), size - 1)
            if same(rolled, wanted.narrow(axis, int(shift > 0), size - 1)):
                return (
                    f"Along axis {axis} all is one place too {'early' if shift > 0 else 'late'}. "
                )
    if got.dim() > 1 and same(got.transpose(-1, -2), wanted):
        return "Its last two axes are swapped. "
    return ""


def _kind(value: Any) -> str:
    names = {list: "a list", dict: "a dict", str: "text", bytes: "bytes", bool: "True or False"}
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if type(value) in (int, float):
        return "a number"
    return names.get(type(value), f"a {type(value).__name__}")


def _shown(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{value.item():.5g}" if value.numel() == 1 else f"a tensor {tuple(value.shape)}"
    if isinstance(value, float):
        return f"{value:.5g}"
    text = f"({', '.join(map(repr, value))})" if isinstance(value, tuple) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _dtype(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")


def _lower(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:]
