"""The page of `minitx explore`, clicked through in headless Chromium."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from browser import CHROMIUM, Browser
from own_models import MODEL
from small_page import exploring

from minitx.checkpoint.own_code import OwnCode
from minitx.checkpoint.own_model import OwnModel
from minitx.checkpoint.rundir import resolve_checkpoint
from minitx.config import ModelConfig, SamplingConfig
from minitx.generation.filters import draw, reshape
from minitx.model import Transformer
from minitx.tokenizer import train_tokenizer
from minitx.workflows.load import LoadedModel, open_checkpoint

SCRIPT = "</textarea><img src=x onerror=alert(1)><script>window.broken = 1</script>"

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


class Opened(Browser):
    """A page that has shown all it asked for."""

    def run(self, script):
        """An expression, in which the page's own names are known."""
        return super().run(f"(() => {{ with (window.explorer ?? {{}}) return ({script}); }})()")

    def ready(self):
        self.until("state.of === context().join() && state.of !== ''")
        self.until("steps.length > 0 && steps[0].shape[0] === state.at + 1")
        self.until("document.querySelector('#numbers canvas') !== null")

    def type(self, text):
        self.run(f"($('prompt').value = {text!r}, $('prompt').dispatchEvent(new Event('input')))")
        self.until(f"state.pieces.join('') === {text!r} && state.of === state.ids.join()")

    def slide(self, name, value):
        self.run(f"($({name!r}).value = {value}, $({name!r}).dispatchEvent(new Event('input')))")

    def panel(self, name):
        self.run(f"opened({name!r}).open = true")
        self.until(f"$({name!r}).textContent !== '…' && $({name!r}).children.length > 0")

    def complaints(self):
        """Beside what it asks its own server for, and what that refuses."""
        expected = ("/answers/", "status of 400")
        found = super().complaints()
        return [one for one in found if not any(words in str(one) for words in expected)]


@pytest.fixture(scope="module")
def page(tiny_run):
    with exploring(open_checkpoint(resolve_checkpoint(tiny_run)), "3 green bottles") as opened:
        yield opened


@pytest.fixture(scope="module")
def browser(page, tmp_path_factory):
    opened = Opened(tmp_path_factory.mktemp("browser"), page.url)
    opened.ready()
    yield opened
    opened.close()


def test_a_text_is_read_as_it_is_typed(browser, page):
    browser.type("2 green")
    browser.ready()
    assert browser.run("spans.length") == 7
    logits = browser.run("[...state.logits]")
    with torch.no_grad():
        ids = torch.tensor([browser.run("state.ids")])
        expected = page.explorer.model(ids)[0, -1]
    np.testing.assert_allclose(logits, expected, atol=1e-4)
    first = browser.text("#next tbody tr td:nth-child(2)")
    assert first.rstrip(" %") == f"{100 * float(expected.softmax(-1).max()):.3g}"


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p", "min_p"),
    [(1, 0, 1, 0), (0, 0, 1, 0), (0.5, 0, 1, 0), (1.7, 5, 1, 0), (1, 0, 0.8, 0), (1.3, 0, 1, 0.2),
     (0.9, 7, 0.9, 0.05), (3, 1, 0.01, 1)],
)  # fmt: skip
def test_the_sliders_cut_as_generate_does(browser, page, temperature, top_k, top_p, min_p):
    browser.type("2 green b")
    for name, value in zip(
        ("temperature", "top-k", "top-p", "min-p"), (temperature, top_k, top_p, min_p), strict=True
    ):
        browser.slide(name, value)
    config = SamplingConfig(temperature=temperature, top_k=top_k or None, top_p=top_p, min_p=min_p)
    logits = torch.tensor(browser.run("[...state.logits]"))[None]
    expected = reshape(logits.double(), config)
    chances = expected.softmax(-1)[0]
    found = torch.zeros_like(chances)
    for i, p in browser.run(
        "[...filtered(state.logits, state.order, settings())].map((p, i) => [state.order[i], p])"
    ):
        found[i] = p
    np.testing.assert_allclose(found, chances, atol=1e-7)
    for number in (0.0, 0.31, 0.77, 0.999):
        browser.slide("number", number)
        assert browser.run("state.draw") == draw(expected, [number])[0]
    for name, value in (("temperature", 1), ("top-k", 0), ("top-p", 1), ("min-p", 0)):
        browser.slide(name, value)


def test_each_cut_is_where_it_should_be_among_many_tokens(browser):
    """Logits close to each other: a cut that is a little off keeps other tokens."""
    logits = torch.randn(300, generator=torch.Generator().manual_seed(0)).double()
    order = logits.argsort(descending=True).tolist()
    for temperature, top_k, top_p, min_p in ((1, 0, 1, 0.2), (1, 0, 0.6, 0), (0.7, 50, 0.9, 0.05)):
        given = {"temperature": temperature, "topK": top_k, "topP": top_p, "minP": min_p}
        found = browser.run(f"[...filtered({logits.tolist()}, {order}, {json.dumps(given)})]")
        config = SamplingConfig(
            temperature=temperature, top_k=top_k or None, top_p=top_p, min_p=min_p
        )
        expected = reshape(logits[None], config).softmax(-1)[0][order]
        np.testing.assert_allclose(found, expected[: len(found)], atol=1e-12)
        assert (expected > 0).sum() == len(found)


def test_an_alternative_goes_on_and_the_tree_keeps_it(browser):
    browser.type("3 g")
    browser.ready()
    before = browser.run("document.querySelectorAll('#tree button').length")
    token = browser.run("state.order[1]")
    browser.click("#next tbody tr:nth-child(2) button")
    browser.until("state.ids.length === 4")
    assert browser.run("state.ids[3]") == token
    assert browser.run("document.querySelectorAll('#tree button').length") == before + 1
    above = "document.querySelector('#tree [aria-current=true]').closest('ul').previousSibling"
    assert browser.run(f"{above}.textContent").endswith("g")
    browser.ready()
    browser.click("#draw")
    browser.until("state.ids.length === 5")
    browser.run(
        "[...document.querySelectorAll('#tree button')].find(e => e.textContent === '3␣g').click()"
    )
    browser.until("state.ids.length === 3")


def test_the_keyboard_walks_the_text(browser):
    browser.type("3 green")
    browser.ready()
    browser.click(".token[data-i='2']")
    browser.until("state.at === 2")
    browser.key("ArrowRight")
    browser.until("state.at === 3")
    assert "Token 3" in browser.text("#chosen")
    assert browser.run("document.activeElement.dataset.i") == "3"
    browser.until("steps.length && steps[0].shape[0] === 4")


def test_steps_are_walked_scrubbed_and_played(browser, page):
    browser.type("3 green")
    browser.ready()
    browser.run("toStep(0), 0")
    browser.until("$('formula').textContent.startsWith('embedding, token ids')")
    browser.click("#ahead")
    browser.until("$('formula').textContent.startsWith('embedding, token embedding')")
    names = browser.run("steps.map(s => s.name)")
    scores = names.index("scores")
    browser.slide("scrub", scores)
    browser.until("$('formula').textContent.includes('Q Kᵀ / sqrt(W)')")
    browser.choose("head", "1")
    browser.until("document.querySelector('#numbers canvas') !== null")
    browser.click("#line")
    browser.until("document.querySelector('#lines .here') !== null")
    assert "queries @ keys" in browser.text("#lines .here")
    browser.run("(stop(), toStep(steps.length - 2), 0)")
    browser.click("#play")
    browser.until("state.step === steps.length - 1")
    browser.run("stop()")


def test_a_number_is_walked_to_and_read_out(browser, page):
    browser.type("3 green")
    browser.ready()
    browser.run("toStep(1), 0")
    browser.until("document.querySelector('#numbers .readout')?.textContent.includes('width 0')")
    browser.run("document.querySelector('#numbers .grid').focus()")
    browser.key("ArrowRight")
    browser.key("ArrowUp")
    said = browser.text("#said")
    ids = browser.run("state.ids")
    value = float(page.explorer.model.embedding.weight[ids[-2], 1])
    assert "5 e, width 1: " in said
    assert float(said.split(": ")[1].replace("−", "-")) == pytest.approx(value, rel=1e-4)
    browser.run("document.querySelector('#numbers details').open = true")
    browser.until("document.querySelectorAll('#numbers details tr').length === 16")


def test_why_a_token(browser):
    browser.type("3 green bottles")
    browser.ready()
    for name in ("attention", "lens", "attribution", "ablation", "passages"):
        browser.panel(name)
    assert browser.run("$('lens').querySelectorAll('tbody tr').length") == 3
    rows = browser.run("[...$('attribution').querySelectorAll('tbody tr')].map(e => e.textContent)")
    total, logit = (float(row.split("+")[-1].split("−")[-1]) for row in rows[-2:])
    assert total == pytest.approx(logit, abs=2e-4)
    assert "occur" in browser.text("#passages")
    assert browser.text("#passages mark")
    browser.click("#next tbody tr:nth-child(3) td:last-child button")
    browser.until("state.token === state.order[2]")
    browser.until("$('attribution').textContent !== '…'")
    assert browser.run("document.activeElement.id") == "target"


def test_patching_and_what_it_refuses(browser):
    browser.type("3 green bottles")
    browser.ready()
    browser.run("opened('patching').open = true, $('corrupted').value = '1 green bottles'")
    browser.click("#patch")
    browser.until("$('patching').querySelectorAll('canvas').length === 4")
    browser.click("#patching canvas")
    browser.until("$('patching').querySelectorAll('canvas').length === 5")
    browser.run("$('corrupted').value = '10 green bottles', $('patch').click()")
    browser.until("$('patch-problem').textContent.includes('16')")
    browser.type("3 green")
    browser.run("$('prompt').value = 'ü', $('prompt').dispatchEvent(new Event('input'))")
    browser.until("$('problem').textContent.includes('ü')")
    browser.type("3 green bottles")
    assert browser.text("#problem") == ""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 900, 1600])
def test_it_fits_every_width(browser, scheme, width, tmp_path):
    browser.theme(scheme)
    browser.width(width)
    browser.until(f"root.dataset.theme === {scheme!r}")
    assert browser.run("document.documentElement.scrollWidth") <= width
    kinds = "button, input, select, textarea, [role=listbox], [role=group]"
    unnamed = browser.run(
        f"[...document.querySelectorAll('{kinds}')].filter(e => !(e.textContent.trim() ||"
        " e.getAttribute('aria-label') ||"
        " e.getAttribute('aria-labelledby') || e.labels?.length)).map(e => e.outerHTML)"
    )
    assert unnamed == []


def test_nothing_was_thrown_or_fetched_elsewhere(browser, page):
    assert browser.complaints() == []
    assert all(url.startswith(page.url) for url in browser.requested())


def test_what_looks_like_markup_stays_text(tiny_run, tmp_path):
    """In the corpus, the prompt, the vocabulary, and the run's name."""
    text = SCRIPT * 40
    tokenizer = train_tokenizer(text, "char", 0)
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size, context_length=128, n_layers=1, n_heads=1, n_kv_heads=1,
        d_model=8, d_ff=8, head_dim=8,
    )  # fmt: skip
    name = tmp_path / "<img src=x onerror=alert(1)>"
    shutil.copytree(tiny_run, name)
    checkpoint = resolve_checkpoint(name)
    model = Transformer(dataclasses.replace(config)).eval()
    loaded = LoadedModel(checkpoint, model, tokenizer)
    with exploring(loaded, SCRIPT) as page:
        page.explorer.__dict__["_train_ids"] = np.asarray(tokenizer.encode(text))
        browser = Opened(tmp_path / "profile", page.url)
        try:
            browser.ready()
            assert browser.run("state.pieces.join('')") == SCRIPT
            assert browser.run("$('prompt').value") == SCRIPT
            browser.panel("passages")
            browser.panel("lens")
            browser.run("(showSource(1), 0)")
            browser.until("document.querySelector('#lines .here') !== null")
            assert SCRIPT[:20] in browser.text("#passages")
            assert browser.run("window.broken") is None
            assert browser.run("document.querySelectorAll('img').length") == 0
            assert "<img src=x" in browser.text("h1")
            assert browser.complaints() == []
        finally:
            browser.close()


def test_a_model_of_ones_own_shows_what_is_known_of_it(tmp_path):
    tokenizer = train_tokenizer("3 green bottles", "char", 0)
    shape = {"n_layers": 2, "n_heads": 3, "n_kv_heads": 3, "d_model": 12, "d_ff": 24}
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size, context_length=32, head_dim=4, dropout=0.0, **shape
    )
    model = OwnModel(config, OwnCode("mine.py", {"mine.py": MODEL.encode()})).eval()
    with exploring(LoadedModel(tmp_path, model, tokenizer), "3 green") as page:
        browser = Opened(tmp_path / "profile", page.url)
        try:
            browser.until("state.of === context().join() && state.of !== ''")
            browser.panel("attention")
            assert browser.run("$('attention').querySelector('canvas').height") == 2 * 3 + 2
            assert browser.text("#problem") == ""
            hidden = "[...document.querySelectorAll('details[hidden]')].map(e => e.dataset.panel)"
            left_out = ["lens", "attribution", "ablation", "patching", None]
            assert browser.run(hidden) == left_out
            assert not browser.run("$('formula').offsetParent")
            assert browser.complaints() == []
        finally:
            browser.close()
