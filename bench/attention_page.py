"""The page of `attn --html`: how long a frame takes while a reader hovers and switches heads.

python bench/attention_page.py

A page of 64 heads and 256 tokens is opened in headless Chromium (software rendering, no GPU). The
mouse then walks over every token of the text and over the map, and the arrow keys over every head.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from browser import CHROMIUM, Browser

from minitx.config import ModelConfig
from minitx.model import Transformer
from minitx.report.pages.attention_page import study_page
from minitx.tokenizer import train_tokenizer
from minitx.workflows.attend import AttentionStudy

FRAMES = """
window.frames_seen = [];
(function next(before) {
  requestAnimationFrame((now) => { window.frames_seen.push(now - before); next(now); });
})(performance.now());
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=256)
    given = parser.parse_args()
    if CHROMIUM is None:
        raise SystemExit("no Chromium on this machine")
    page = study_page(_study(given.layers, given.heads, given.tokens))
    print(f"{given.layers * given.heads} heads, {given.tokens} tokens: {len(page) / 1e6:.2f} MB")
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "page.html"
        path.write_text(page, encoding="utf-8")
        began = time.perf_counter()
        browser = Browser(Path(place) / "profile", path)
        try:
            print(f"loaded in {time.perf_counter() - began:.1f} s, the browser's start included")
            browser.run(FRAMES)
            _hover_text(browser, given.tokens)
            _report(browser, "pointing at every token")
            _hover_map(browser)
            _report(browser, "pointing along the map's diagonal")
            _switch_heads(browser, given.layers * given.heads)
            _report(browser, "switching through every head")
        finally:
            browser.close()


def _study(layers: int, heads: int, tokens: int) -> AttentionStudy:
    torch.manual_seed(0)
    text = Path(np.__file__).read_text(encoding="utf-8")
    tokenizer = train_tokenizer(text, "bpe", 512)
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size, context_length=tokens, n_layers=layers, n_heads=heads,
        n_kv_heads=heads, d_model=16 * heads, d_ff=32 * heads, head_dim=16,
    )  # fmt: skip
    ids = np.asarray(tokenizer.encode(text)[: 20 * tokens], np.int64)
    first = ids[:tokens]
    return AttentionStudy(
        Path("random"), Transformer(config).eval(), tokenizer, tokenizer.decode(first), "a source",
        first, ids, "a source",
    )  # fmt: skip


def _hover_text(browser: Browser, tokens: int) -> None:
    browser.run("frames_seen.length = 0")
    for token in range(tokens):
        browser.mouse("mouseMoved", *browser.middle(f".token[data-i='{token}']"))
        browser.run("1")


def _hover_map(browser: Browser) -> None:
    browser.middle("#map")
    left, top, side = browser.run(
        "(b => [b.left, b.top, Math.min(b.width, b.height)])"
        "(document.getElementById('map').getBoundingClientRect())"
    )
    browser.run("frames_seen.length = 0")
    for at in range(2, int(side), 3):
        browser.mouse("mouseMoved", left + at / 2, max(2, top + at - 2))


def _switch_heads(browser: Browser, heads: int) -> None:
    browser.click(".thumb")
    browser.run("frames_seen.length = 0")
    for _ in range(heads - 1):
        browser.key("ArrowRight")


def _report(browser: Browser, what: str) -> None:
    frames = sorted(browser.run("frames_seen"))
    at = [statistics.median(frames), frames[int(0.95 * (len(frames) - 1))], frames[-1]]
    print(
        f"{what}: frame {at[0]:.1f} ms (median), {at[1]:.1f} ms (95 %), {at[2]:.1f} ms (longest); "
        f"{len(frames)} frames"
    )


if __name__ == "__main__":
    main()
