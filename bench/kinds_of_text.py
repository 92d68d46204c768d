"""Eight kinds of text, made from what every installation has, for `plan.py --kinds`.

What is generated is seeded; what is taken is in an order that does not depend on the machine.
"""

from __future__ import annotations

import ast
import json
import random
import re
import sysconfig
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import torch

MOST = 600_000
"""Characters of each, at most."""

STANDARD_LIBRARY = Path(sysconfig.get_path("stdlib"))
TORCH = Path(torch.__file__).parent
SPEAKERS = ("anna", "bo", "chidi", "dmitri", "elif", "farah", "guo", "hana", "ivo", "jun")


def prose() -> str:
    return "\n\n".join(text for text in _docstrings(STANDARD_LIBRARY) if len(text) > 200)


def source() -> str:
    folders = [TORCH / "include" / name for name in ("c10", "torch/csrc/api", "torch/csrc/jit")]
    files = (path for folder in folders for path in sorted(folder.rglob("*.h")))
    return "\n".join(path.read_text() for path in files)


def chat() -> str:
    """Remarks from the comments of programs, said by somebody at some time of the day."""
    draw, minute, said = random.Random(0), 0, []
    for path in _modules(STANDARD_LIBRARY):
        blocks = re.findall(r"(?:^ *#(?!!).*\n)+", path.read_text(errors="ignore"), re.MULTILINE)
        for block in blocks:
            words = re.sub(r"\n? *#+", " ", block).split()
            if len(words) > 2:
                minute += int(draw.expovariate(0.5))
                time = f"{minute // 60 % 24:02}:{minute % 60:02}"
                who = SPEAKERS[min(int(draw.expovariate(0.4)), len(SPEAKERS) - 1)]
                said.append(f"[{time}] <{who}> {' '.join(words)}")
    return "\n".join(said)


def names() -> str:
    """Those of functions and classes, each once."""
    text = "\n".join(path.read_text(errors="ignore") for path in _modules(STANDARD_LIBRARY))
    found = sorted(set(re.findall(r"\b(?:def|class) +_*([a-zA-Z]\w{2,})", text)))
    random.Random(0).shuffle(found)
    return "\n".join(found)


def table() -> str:
    """What weather stations measure: each hour, warmer by day, and not far from the hour before."""
    draw, rows = random.Random(0), []
    warmth = {station: draw.uniform(-3.0, 3.0) for station in "ABCD"}
    for hour in range(MOST // 120):
        for station in warmth:
            warmth[station] = 0.9 * warmth[station] + draw.gauss(0.0, 0.6)
            by_day = 6.0 * (1.0 - abs(hour % 24 - 13) / 6.0)
            degrees = 11.0 + by_day + warmth[station]
            wet = min(100.0, max(10.0, 90.0 - 2.5 * degrees + draw.gauss(0.0, 4.0)))
            day = f"{hour // 24 // 28 % 12 + 1:02}-{hour // 24 % 28 + 1:02} {hour % 24:02}h"
            rows.append(
                f"{day}  {station} {degrees:6.1f} {wet:5.1f} {1013 + 4 * warmth[station]:7.1f}"
            )
    return "\n".join(rows)


def without_spaces() -> str:
    """Prose in Chinese characters, each of which stands for up to three letters of a word."""
    texts = [text for text in _docstrings(TORCH) if len(text) > 200]
    chunk = re.compile(r"[a-z]{1,3}")
    counts = Counter(part for text in texts for part in chunk.findall(text.lower()))
    signs = {part: chr(0x4E00 + rank) for rank, (part, _) in enumerate(counts.most_common())}

    def written(text: str) -> str:
        text = chunk.sub(lambda match: signs[match[0]], text.lower())
        return re.sub(r"[^\u3000-\uffff]", "", re.sub(r"\.\s", "。", re.sub(r",\s", "、", text)))

    return "\n".join(map(written, texts))


def notes() -> str:
    """What functions do, a sentence each, as records."""
    sentences = [" ".join(text.split("\n\n")[0].split()) for text in _docstrings(TORCH)]
    found = sorted({text for text in sentences if 20 < len(text) < 300})
    random.Random(0).shuffle(found)
    return "\n".join(json.dumps({"id": at, "text": text}) for at, text in enumerate(found))


def letters() -> str:
    """Like DNA: a few stretches that come again, changed here and there, among others."""
    draw = random.Random(0)
    again = [
        "".join(draw.choices("ACGT", (3, 2, 2, 3), k=draw.randrange(80, 600))) for _ in range(60)
    ]
    parts = []
    for _ in range(MOST // 800):
        kept = draw.choice(again)
        copied = (draw.choice("ACGT") if draw.random() < 0.12 else letter for letter in kept)
        parts += ["".join(copied), "".join(draw.choices("ACGT", (3, 2, 2, 3), k=300))]
    return "\n".join(re.findall(".{1,60}", "".join(parts)))


@cache
def _modules(root: Path) -> tuple[Path, ...]:
    return tuple(
        sorted(p for p in root.rglob("*.py") if "site-packages" not in p.parts[len(root.parts) :])
    )


@cache
def _docstrings(root: Path) -> tuple[str, ...]:
    return tuple(_read_docstrings(root))


def _read_docstrings(root: Path) -> Iterator[str]:
    for path in _modules(root):
        try:
            with warnings.catch_warnings(action="ignore"):
                tree = ast.parse(path.read_text())
        except (OSError, SyntaxError, ValueError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (
                text := ast.get_docstring(node)
            ):
                yield text


KINDS: dict[str, tuple[str, str, Callable[[], str]]] = {
    "prose": ("prose: docstrings of the standard library", ".txt", prose),
    "cpp": ("source: C++ headers of torch", ".txt", source),
    "chat": ("chat lines", ".txt", chat),
    "names": ("names, one a line", ".txt", names),
    "table": ("a table of numbers", ".txt", table),
    "unspaced": ("a language without spaces", ".txt", without_spaces),
    "notes": ("short notes in JSONL", ".jsonl", notes),
    "dna": ("letters like those of DNA", ".txt", letters),
}
"""What each is, how its file is named, and what makes it."""


def both_parts(text: str) -> tuple[str, str]:
    """For a run, and the last tenth, which no plan sees.

    Lines with characters that the first part lacks are left out of the second: what is unknown to
    a tokenizer would cost it nothing.
    """
    lines = text[:MOST].splitlines(keepends=True)[:-1]  # The last was cut.
    cut = len(lines) * 9 // 10
    known = set(train := "".join(lines[:cut]))
    return train, "".join(line for line in lines[cut:] if known.issuperset(line))
