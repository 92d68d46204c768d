import base64
import html.parser
import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
from browser import CHROMIUM, Browser

from minitx.errors import BadInputError
from minitx.inspection.ablation import Ablation, HeadAblation
from minitx.inspection.attention_maps import AttentionMaps
from minitx.inspection.head_roles import HeadRole, HeadRoles, RoleScore
from minitx.inspection.logit_lens import LogitLens
from minitx.report.pages.attention_page import (
    MAX_PAGE_BYTES,
    attention_page,
    quantise,
    require_page_fits,
)

TEXT = ["To", " be", ",", " or", " not", " to", " be", "</script><b>", "\n", "é", "{{data}}", " x"]


def content(n_layers=2, n_heads=3, tokens=TEXT):
    rng = np.random.default_rng(0)
    seq = len(tokens)
    weights = np.tril(rng.random((n_layers, n_heads, seq, seq)) ** 6 + 1e-7)
    weights = (weights / weights.sum(axis=-1, keepdims=True)).astype(np.float32)
    maps = AttentionMaps(
        tuple(tokens),
        np.arange(seq),
        weights,
        rng.uniform(0.1, 3, (n_layers, n_heads, seq)).astype(np.float32),
    )
    scores = {"previous token": RoleScore(0.8, 0.05), "local": RoleScore(0.9, 0.1)}
    places = [(layer, head) for layer in range(n_layers) for head in range(n_heads)]
    heads = [HeadRole(*at, "previous token" if at == (1, 0) else None, scores) for at in places]
    readings = LogitLens(
        rng.integers(0, seq, (n_layers + 1, seq, 3)),
        rng.random((n_layers + 1, seq, 3)).astype(np.float32),
        rng.random((n_layers + 1, seq - 1)).astype(np.float32),
        rng.random(n_layers + 1).astype(np.float32),
    ).named(np.arange(seq), lambda i: tokens[i])
    ablation = Ablation(
        1.5,
        tuple(HeadAblation(*at, 0.01, 0.002) for at in places),
        "4 windows of 8 tokens of a text",
    )
    return SimpleNamespace(
        maps=maps,
        roles=HeadRoles(tuple(heads), "16 windows"),
        lens=readings,
        ablation=ablation,
    )


def page_of(study):
    return attention_page(study, "A <title>", "a & b", layer=1, head=0)


class Page(html.parser.HTMLParser):
    """Text of the elements with an id, attributes that could fetch something, and the title."""

    def __init__(self, text):
        super().__init__()
        self.by_id, self.links, self.title, self.open = {}, [], "", []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.links += [v for k, v in attrs if k in ("src", "href", "srcset", "action", "data")]
        if tag not in ("meta", "link", "br", "input"):
            self.open.append((tag, attributes.get("id")))
        if "id" in attributes:
            self.by_id[attributes["id"]] = ""

    def handle_endtag(self, tag):
        while self.open and self.open.pop()[0] != tag:
            pass

    def handle_data(self, data):
        tag, name = self.open[-1] if self.open else ("", None)
        if name:
            self.by_id[name] += data
        if tag == "title":
            self.title += data


def test_the_page_holds_every_weight_within_its_stated_error():
    given = content()
    page = Page(page_of(given))
    raw = np.frombuffer(base64.b64decode(page.by_id["weights"]), np.uint8)
    maps, seq = given.maps, given.maps.seq
    stored = (raw.reshape(2 * 3 + 2 + 2, -1) / 255.0) ** 2
    rows, columns = np.tril_indices(seq)
    for layer in range(2):
        for head in range(3):
            error = stored[layer * 3 + head] - maps.weights[layer, head][rows, columns]
            assert np.abs(error).max() <= 0.004
        mean, rolled = stored[6 + layer], stored[8 + layer]
        assert np.abs(mean - maps.average(layer)[rows, columns]).max() <= 0.004
        assert np.abs(rolled - maps.rollout()[layer][rows, columns]).max() <= 0.004
    lengths = np.frombuffer(base64.b64decode(page.by_id["lengths"]), "<f4")
    np.testing.assert_array_equal(lengths, maps.value_lengths.ravel())


def test_the_page_holds_tokens_roles_and_lens_whatever_their_text():
    given = content()
    page = Page(page_of(given))
    data = json.loads(page.by_id["data"])
    assert data["tokens"] == TEXT
    assert page.title == "A <title>"
    assert data["about"] == "a & b"
    assert data["chosen"] == {"layer": 1, "head": 0}
    assert [one["role"] for one in data["roles"]["heads"]] == [None] * 3 + ["previous token"] + [
        None
    ] * 2
    assert data["roles"]["heads"][0]["scores"]["local"] == [0.9, 0.1]
    assert data["roles"]["heads"][0]["loss_change"] == 0.01
    assert [layer["name"] for layer in data["lens"]["layers"]] == [
        "embedding",
        "layer 0",
        "layer 1",
    ]
    top = data["lens"]["layers"][2]["top"][4]
    assert [data["lens"]["pieces"][at] for at, _ in top] == [
        TEXT[i] for i in given.lens.top_ids[2, 4]
    ]


def test_nothing_is_fetched():
    text = page_of(content(tokens=["a", "b"]))
    page = Page(text)
    assert [link for link in page.links if not link.startswith("#")] == []
    assert not re.search(r"https?://|@import|url\(", text)
    assert "default-src 'none'" in text


def test_quantising_keeps_small_weights_apart_and_the_ends_exact():
    maps = np.zeros((1, 3, 3), np.float32)
    maps[0] = [[1, 0, 0], [0.001, 0.999, 0], [0.002, 0.004, 0.994]]
    bytes_ = quantise(maps)[0]
    assert bytes_[0] == 255
    assert len(set(bytes_[[1, 3, 4]].tolist())) == 3


def test_64_heads_of_256_tokens_stay_under_5_megabytes():
    tokens = [f" w{i}" for i in range(256)]
    assert len(page_of(content(8, 8, tokens)).encode()) < 5_000_000 == MAX_PAGE_BYTES


def test_a_page_over_the_limit_is_refused_with_the_length_that_fits():
    with pytest.raises(BadInputError) as caught:
        require_page_fits(2048, 12, 12)
    longest = int(re.search(r"to (\d+) tokens", str(caught.value))[1])
    require_page_fits(longest, 12, 12)
    with pytest.raises(BadInputError):
        require_page_fits(longest + 1, 12, 12)


# ---- in a browser ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def given():
    return content()


@pytest.fixture(scope="module")
def browser(tmp_path_factory, given):
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    folder = tmp_path_factory.mktemp("page")
    page = folder / "page.html"
    page.write_text(page_of(given), encoding="utf-8")
    opened = Browser(folder / "profile", page)
    yield opened
    opened.close()


def looked_at(given, rows, token):
    """What the list `looks at` should say, from the exact weights."""
    order = sorted(range(token + 1), key=lambda j: -rows[token, j])[:5]
    return [j for j in order if rows[token, j] > 1e-4]


def listed(browser):
    return browser.run("[...document.querySelectorAll('#looks-at .at')].map(e => +e.textContent)")


def test_the_chosen_head_is_shown_first(browser):
    assert browser.text("#role") == "previous token head"
    assert "layer 1, head 0" in browser.text("#map-hint")
    assert browser.run("document.querySelectorAll('.thumb').length") == 6


def test_another_layer_and_head_can_be_selected(browser, given):
    browser.choose("layer", "0")
    browser.choose("head", "2")
    assert "layer 0, head 2" in browser.text("#token-name")
    browser.choose("kind", "rollout")
    assert browser.run("document.getElementById('head').disabled")
    browser.choose("kind", "head")
    browser.click(".thumb[data-layer='1'][data-head='1']")
    assert "layer 1, head 1" in browser.text("#token-name")
    browser.key("ArrowLeft")
    assert "layer 1, head 0" in browser.text("#token-name")


def test_pointing_at_a_token_lists_what_it_looks_at(browser, given):
    browser.choose("layer", "0")
    browser.choose("head", "1")
    for token in (3, 6, 9):
        browser.mouse("mouseMoved", *browser.middle(f".token[data-i='{token}']"))
        assert f"Token {token}," in browser.text("#token-name")
        expected = looked_at(given, given.maps.weights[0, 1], token)
        assert listed(browser)[:3] == expected[:3]
        assert browser.run("document.querySelectorAll('.token.later').length") == 11 - token


def test_the_measure_can_be_value_weighted(browser, given):
    browser.choose("layer", "0")
    browser.choose("head", "1")
    browser.choose("measure", "norm")
    browser.mouse("mouseMoved", *browser.middle(".token[data-i='9']"))
    assert listed(browser)[:3] == looked_at(given, given.maps.norms(0, 1), 9)[:3]
    browser.choose("measure", "weight")


def test_the_keyboard_walks_the_text_and_a_screen_reader_hears_it(browser):
    browser.click(".token[data-i='4']")
    assert browser.run("location.hash").endswith("token=4")
    browser.key("ArrowRight")
    assert browser.run("document.activeElement.dataset.i") == "5"
    said = browser.text("#said")
    assert "token 5, space to, looks at" in said
    browser.key("End")
    assert browser.run("document.activeElement.dataset.i") == "11"
    browser.key("Escape")
    assert not browser.run("location.hash.includes('token')")
    unnamed = browser.run(
        "[...document.querySelectorAll('button, select, canvas#map, [role=option]')].filter(e => "
        "!(e.getAttribute('aria-label') || e.closest('label') || e.textContent.trim())).length"
    )
    assert unnamed == 0


def test_the_lens_marks_the_token_that_follows(browser, given):
    browser.mouse("mouseMoved", *browser.middle(".token[data-i='2']"))
    assert "␣or" in browser.text("#lens-hint")
    assert browser.run("document.querySelectorAll('#lens tbody tr').length") == 3


def test_a_row_of_the_role_table_selects_its_head(browser):
    browser.click("#roles tbody tr:nth-child(6) button")
    assert "layer 1, head 2" in browser.text("#token-name")


def test_pointing_at_the_map_reads_out_the_weight(browser, given):
    browser.run("document.querySelector('#map').scrollIntoView()")
    x, y, side = browser.run(
        "(() => { const b = document.querySelector('#map').getBoundingClientRect();"
        " return [b.x, b.bottom, b.width]; })()"
    )
    browser.mouse("mouseMoved", x + side - 5, y - 5)
    browser.until("document.getElementById('readout').textContent.includes('→')")
    found = re.match(r"11 ␣x → 11 ␣x: ([\d.]+) %", browser.text("#readout"))
    assert float(found[1]) == pytest.approx(100 * given.maps.weights[1, 2, 11, 11], abs=0.9)


def test_light_and_dark_differ_in_background_and_map(browser):
    seen = set()
    for scheme in ("light", "dark"):
        media = [{"name": "prefers-color-scheme", "value": scheme}]
        browser.send("Emulation.setEmulatedMedia", features=media)
        browser.until(f"document.documentElement.dataset.theme === {scheme!r}")
        background = browser.run("getComputedStyle(document.body).backgroundColor")
        pixel = browser.run(
            "(() => { const c = document.querySelector('.thumb canvas');"
            " return [...c.getContext('2d').getImageData(2, c.height - 2, 1, 1).data].join(); })()"
        )
        seen.add((background, pixel))
    assert len({background for background, _ in seen}) == 2
    assert len({pixel for _, pixel in seen}) == 2


def test_a_narrow_window_does_not_scroll_sideways(browser):
    browser.send(
        "Emulation.setDeviceMetricsOverride",
        width=360,
        height=780,
        deviceScaleFactor=1,
        mobile=True,
    )
    assert browser.run("document.documentElement.scrollWidth") <= 360
    browser.send("Emulation.clearDeviceMetricsOverride")


def test_no_script_failed_and_nothing_was_requested(browser):
    errors = [e for e in browser.events if e["method"] == "Runtime.exceptionThrown"]
    entries = [e["params"]["entry"] for e in browser.events if e["method"] == "Log.entryAdded"]
    refused = [entry for entry in entries if entry["level"] == "error"]
    asked = [
        e["params"]["request"]["url"]
        for e in browser.events
        if e["method"] == "Network.requestWillBeSent"
    ]
    assert errors == []
    assert refused == []
    assert all(url.startswith("file:") for url in asked)
    assert len(asked) == 1
