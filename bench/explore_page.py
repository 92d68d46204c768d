"""The page of `minitx explore`: how long a frame takes with 64 heads and 256 tokens.

python bench/explore_page.py

In headless Chromium (software rendering, no GPU): the heads of a token are opened, the pointer
walks over them, every step of the pass is shown, and a slider is moved.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from attention_page import FRAMES, _report
from browser import CHROMIUM, Browser
from small_page import exploring

from minitx.config import ModelConfig
from minitx.model import Transformer
from minitx.tokenizer import train_tokenizer
from minitx.workflows.load import LoadedModel

TOKENS = 256


def main() -> None:
    if CHROMIUM is None:
        raise SystemExit("no Chromium on this machine")
    torch.manual_seed(0)
    text = Path(np.__file__).read_text(encoding="utf-8")
    tokenizer = train_tokenizer(text, "bpe", 512)
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size, context_length=TOKENS, n_layers=8, n_heads=8,
        n_kv_heads=8, d_model=128, d_ff=256, head_dim=16,
    )  # fmt: skip
    loaded = LoadedModel(Path("random"), Transformer(config).eval(), tokenizer)
    prompt = tokenizer.decode(tokenizer.encode(text)[:TOKENS])
    with exploring(loaded, prompt) as page, tempfile.TemporaryDirectory() as place:
        browser = Browser(Path(place), page.url)
        try:
            _walk(browser)
        finally:
            browser.close()


def _walk(browser: Browser) -> None:
    browser.until("document.querySelector('#numbers canvas') !== null")
    browser.run(FRAMES)
    # What the page itself takes too long for, whatever else this machine does.
    browser.run(
        "(window.long_tasks = [], new PerformanceObserver(list => long_tasks.push("
        "...list.getEntries().map(e => e.duration))).observe({type: 'longtask'}), 0)"
    )
    browser.run("document.querySelector('[data-panel=attention]').open = true")
    browser.until("document.querySelector('#attention canvas') !== null")
    _report(browser, "opening the attention of all heads")
    x, y = browser.middle("#attention canvas")
    browser.run("frames_seen.length = 0")
    for at in range(-200, 200, 2):
        browser.mouse("mouseMoved", x + 2 * at, y + at / 2)
    _report(browser, "pointing along the heads")
    browser.run("frames_seen.length = 0")
    for _ in range(60):
        browser.run("document.getElementById('ahead').click()")
        time.sleep(0.05)
    _report(browser, "stepping through the pass")
    browser.run("frames_seen.length = 0")
    for value in range(10, 200, 5):
        browser.run(
            f"(e => {{ e.value = {value / 100}; e.dispatchEvent(new Event('input')); }})"
            "(document.getElementById('temperature'))"
        )
    _report(browser, "moving a slider")
    print(f"tasks of the page over 50 ms: {browser.run('long_tasks') or 'none'}")


if __name__ == "__main__":
    main()
