"""The page of `minitx report`: its data, and a browser that clicks through it."""

import html.parser
import json
import re
import shutil

import pytest
from browser import CHROMIUM, Browser

from minitx.checkpoint.rundir import RunDirectory
from minitx.errors import BadInputError
from minitx.report.pages import run_page as module
from minitx.report.pages.run_curves import MOST_POINTS, curves, plotting_library
from minitx.report.pages.run_page import page_path, run_page
from minitx.report.pages.templates import write_page
from minitx.training.history import read_history
from minitx.training.logging.metrics_file import metrics_line, read_metrics
from minitx.workflows.report import ReportSettings, RunStory, Stories, gather

HOSTILE = "</script><script>document.title='x'</script><img src=x onerror=\"document.title='x'\">"


class Page(html.parser.HTMLParser):
    """Tags with their attributes, and the text of elements that have an id."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.data, self.inside = [], "", False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.inside = ("id", "data") in attrs

    def handle_data(self, data):
        if self.inside:
            self.data += data


SPIKE = {"kind": "event", "step": 60, "name": "loss-spike", "severity": "warning",
         "message": f"it jumped {HOSTILE}", "cause": "a bad batch", "fix": HOSTILE}  # fmt: skip


def spiky(run):
    """A copy of a run in which an event was noted."""
    with (run / "metrics.jsonl").open("ab") as file:
        file.write(metrics_line(SPIKE))
    return run


@pytest.fixture(scope="module")
def runs(tmp_path_factory, tiny_run):
    place = tmp_path_factory.mktemp("report") / "runs"
    place.mkdir()
    for name in ("one", "two"):
        shutil.copytree(tiny_run, place / name)
    spiky(place / "one")
    return place


@pytest.fixture(scope="module")
def single(runs):
    return gather([runs / "one"], ReportSettings())


@pytest.fixture(scope="module")
def page(single):
    return run_page(single)


def hostile_story(run):
    """A run in which every text is an attack on the page."""
    lines = []
    for record in read_metrics(run.metrics_file):
        if record["kind"] == "evaluation":
            record |= {"sample": HOSTILE, "sample_prompt": HOSTILE + "\x1b[2J\x00"}
        if record["kind"] == "health":
            record["gradient_norms"] = {HOSTILE: 1.0}
        lines.append(record)
    lines.append({"kind": "event", "step": 3, "name": HOSTILE, "severity": HOSTILE,
                  "message": HOSTILE, "cause": HOSTILE, "fix": HOSTILE})  # fmt: skip
    lines.append({"kind": "end", "step": 120, "reason": HOSTILE})
    history = read_history(lines)
    made_with = {HOSTILE: HOSTILE}
    return RunStory(
        run, run.read_config(), history, made_with=made_with, left_out={"eval": HOSTILE}
    )


def test_what_is_no_problem_is_one_quiet_line(tiny_run, tmp_path):
    run = RunDirectory(shutil.copytree(tiny_run, tmp_path / "run"))
    for step in (20, 40, 60, 80, 100):
        event = {"kind": "event", "step": step, "name": "steps-settled", "severity": "info"}
        event |= {"message": f"{step + 20} steps fit the time budget", "cause": "", "fix": ""}
        with run.metrics_file.open("ab") as file:
            file.write(metrics_line(event))
    history = read_history(read_metrics(run.metrics_file))
    assert curves("a", history)["events"] == []
    text = run_page(Stories((RunStory(run, run.read_config(), history),)))
    shown = re.search(r'<section id="diagnosis".*?</section>', text, re.DOTALL)[0]
    assert "No problems were diagnosed" in shown
    assert shown.count("steps fit the time budget") == 1
    assert "At step 100: 120 steps fit the time budget" in shown
    assert "steps-settled" not in shown
    # Nor is it numbered in the curves, where the buttons of problems look for their number.
    drawn = curves("a", read_history([*read_metrics(run.metrics_file), SPIKE]))
    assert [event["name"] for event in drawn["events"]] == ["loss-spike"]


def test_text_of_a_run_stays_text(runs):
    story = hostile_story(RunDirectory.open(runs / "one"))
    for stories in (Stories((story,)), Stories((story, story), left_out=HOSTILE)):
        text = run_page(stories)
        page = Page(text)
        assert [tag for tag, _ in page.tags].count("script") == 3
        assert not [tag for tag, _ in page.tags if tag in ("img", "iframe")]
        assert not [1 for _, attributes in page.tags for name in attributes if name[:2] == "on"]
        assert "\x1b" not in text
        assert "\x00" not in text
        layers = json.loads(page.data)["runs"][0]["gradient_norms"]["layers"]
        assert [one["name"] for one in layers] == [HOSTILE]
        assert text.count("&lt;img src=x onerror=") >= 10


def test_nothing_is_fetched(page):
    frames = [attributes for tag, attributes in Page(page).tags if tag == "iframe"]
    assert len(frames) == 1
    for text in (page, frames[0]["srcdoc"]):
        links = [
            attributes[name]
            for tag, attributes in Page(text).tags
            for name in ("src", "href", "srcset", "action")
            if name in attributes
        ]
        assert [link for link in links if not link.startswith("#")] == []
        assert "default-src 'none'" in text
        assert not re.search(r"@import|url\(", text)


def test_the_page_reads_without_its_script(page, single):
    (story,) = single.runs
    body = re.sub(
        r"<script.*?</script>|<iframe.*?</iframe>|<style>.*?</style>", "", page, flags=re.S
    )
    shown = re.sub(r"<[^>]+>", "", body)
    for one in story.history.evaluations:
        assert f"{one.holdout_loss:.4f}" in shown
    assert f"Each scored {story.history.best.holdout_tokens:,} tokens of the holdout" in shown
    assert body.count("<li data-step=") == 3
    assert story.weights_digest in shown
    assert story.corpus.digest in shown
    assert f"minitx train --config {story.run.path}/run.toml" in shown
    assert "1337" in shown
    assert "Kneser-Ney" in shown
    assert "Most surprising passages" in shown
    for key in ("context_length", "batch_size", "learning_rate", "holdout_fraction"):
        assert f'<th scope="row">{key}</th>' in body


def test_the_curves_are_what_was_noted(single):
    found = curves("a", single.runs[0].history)
    lines = list(read_metrics(single.runs[0].run.metrics_file))
    steps = [one for one in lines if one["kind"] == "step"]
    assert found["steps"]["step"] == [one["step"] for one in steps]
    assert found["steps"]["loss"] == pytest.approx([one["loss"] for one in steps], rel=1e-5)
    assert found["steps"]["tokens"] == [one["tokens"] for one in steps]
    evaluations = [one for one in lines if one["kind"] == "evaluation"]
    assert found["evaluations"]["perplexity"] == pytest.approx(
        [one["holdout_perplexity"] for one in evaluations], rel=1e-5
    )
    health = [one for one in lines if one["kind"] == "health"]
    assert {one["name"] for one in found["gradient_norms"]["layers"]} >= {"embedding", "layer 0"}
    assert found["update_ratios"]["step"] == [one["step"] for one in health]
    assert found["events"][0]["name"] == "loss-spike"


def test_a_long_run_is_thinned_and_its_spike_stays():
    lines = [
        {"kind": "step", "step": i, "loss": 99.0 if i == 7777 else 2.0, "tokens": i}
        for i in range(1, 3 * MOST_POINTS)
    ]
    found = curves("a", read_history(lines))
    assert len(found["steps"]["step"]) <= MOST_POINTS + 4
    assert found["logged"] == len(lines)
    assert found["steps"]["step"][found["steps"]["loss"].index(99)] == 7777


def test_a_run_that_noted_nothing_has_a_page(runs):
    run = RunDirectory.open(runs / "two")
    story = RunStory(run, run.read_config(), read_history([]))
    text = run_page(Stories((story,)))
    assert "No evaluations yet" in text
    assert "No samples yet" in text
    assert "No problems were diagnosed" in text


def test_a_page_over_the_limit_is_refused(single, monkeypatch):
    monkeypatch.setattr(module, "MAX_PAGE_BYTES", 10_000)
    with pytest.raises(BadInputError, match=r"over its limit of 0 MB.*--no-attn"):
        run_page(single)


def test_a_missing_library_is_named_with_its_extra(monkeypatch, tmp_path):
    monkeypatch.setattr("minitx.report.pages.run_curves.find_spec", lambda name: None)
    with pytest.raises(BadInputError, match=r'pip install "minitx\[report\]"'):
        plotting_library()


def test_a_page_goes_into_the_run_and_of_several_into_the_first(single, tmp_path, runs):
    assert page_path(single) == runs / "one/report.html"
    assert page_path(Stories((*single.runs, *single.runs))) == runs / "one/comparison.html"
    with pytest.raises(BadInputError, match="can't be written"):
        write_page(run_page(single), tmp_path / "missing/report.html")


# ---- in a browser ------------------------------------------------------------------------------


def opened(folder, stories):
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    path = folder / "page.html"
    write_page(run_page(stories), path)
    return Browser(folder / "profile", path)


@pytest.fixture(scope="module")
def browser(tmp_path_factory, single):
    browser = opened(tmp_path_factory.mktemp("single"), single)
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def overlay(tmp_path_factory, runs):
    stories = gather([runs / "one", runs / "two"], ReportSettings(max_tokens=600))
    browser = opened(tmp_path_factory.mktemp("overlay"), stories)
    yield browser
    browser.close()


def reach(browser, plot="loss-plot"):
    return browser.run(f"(d => [+d.from, +d.to])(document.getElementById({plot!r}).dataset)")


def check(browser, name, on=True):
    box = f"document.getElementById({name!r})"
    browser.run(f"{box}.checked === {str(on).lower()} || {box}.click()")


def pressed(browser, plot):
    return browser.run(
        f"[...document.querySelectorAll('#{plot} .legend button')]"
        ".map(b => [b.textContent, b.getAttribute('aria-pressed')])"
    )


def ink(browser, plot):
    """How many pixels of a plot are not transparent: a curve more or less is seen in it."""
    return browser.run(
        f"(c => {{ const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
        " let n = 0; for (let i = 3; i < d.length; i += 4) n += d[i] > 0; return n; })"
        f"(document.querySelector('#{plot} canvas'))"
    )


def test_all_curves_are_drawn(browser):
    for plot in ("loss-plot", "rate-plot", "gradient-plot", "update-plot"):
        assert ink(browser, plot) > 500
        assert reach(browser, plot) == [0, 120]
    names = [name for name, _ in pressed(browser, "loss-plot")]
    assert names == ["train loss", "train, smoothed", "holdout loss"]
    layers = [name for name, _ in pressed(browser, "gradient-plot")]
    assert {"embedding", "layer 0", "layer 1"} <= set(layers)


def test_dragging_zooms_all_curves_and_a_double_click_shows_all(browser):
    x, y = browser.middle("#loss-plot .u-over")
    for kind, at in (("mouseMoved", x), ("mousePressed", x), ("mouseMoved", x + 100),
                     ("mouseReleased", x + 100)):  # fmt: skip
        browser.mouse(kind, at, y)
    browser.until("document.getElementById('loss-plot').dataset.from > 40")
    low, high = reach(browser)
    assert 40 < low < high < 110
    assert reach(browser, "gradient-plot") == [low, high]
    browser.run(
        "document.querySelector('#loss-plot .u-over').dispatchEvent("
        "new MouseEvent('dblclick', {bubbles: true}))"
    )
    browser.until("document.getElementById('loss-plot').dataset.from == 0")
    assert reach(browser) == reach(browser, "rate-plot") == [0, 120]


def test_buttons_zoom_and_move_without_a_mouse(browser):
    browser.click("#closer")
    browser.until("document.getElementById('loss-plot').dataset.from == 30")
    assert reach(browser) == [30, 90]
    browser.click("#later")
    browser.until("document.getElementById('rate-plot').dataset.from > 30")
    low, high = reach(browser, "rate-plot")
    assert (low, high) == pytest.approx((54, 114))
    browser.click("#all")
    browser.until("document.getElementById('rate-plot').dataset.from == 0")


def test_a_scale_can_be_logarithmic(browser):
    scale = "document.getElementById('loss-plot').dataset.scale"
    assert browser.run(scale) == "linear"
    check(browser, "log-loss")
    assert browser.run(scale) == "log"
    assert ink(browser, "loss-plot") > 500
    check(browser, "log-loss", False)
    assert browser.run(scale) == "linear"


def test_raw_points_stay_whatever_the_smoothing(browser):
    for name in ("exponential", "centred", "none"):
        browser.choose("smoothing", name)
        shown = dict(pressed(browser, "loss-plot"))
        assert shown["train loss"] == "true"
        assert ("train, smoothed" in shown) == (name != "none")
        said = browser.text("#smoothing-said")
        assert "each logged step, as it was" in said
        assert ("half-life" in said) == (name == "exponential")
    browser.choose("smoothing", "centred")
    before = browser.text("#amount-said")
    browser.run("(a => { a.value = a.max; a.dispatchEvent(new Event('input')); })"
                "(document.getElementById('amount'))")  # fmt: skip
    assert browser.text("#amount-said") != before
    assert browser.text("#amount-said") in browser.text("#smoothing-said")


def test_perplexity_and_tokens_can_be_shown_instead(browser):
    browser.choose("measure", "perplexity")
    assert browser.text("#loss-plot .name") == "Perplexity"
    browser.choose("axis", "tokens")
    tokens = 120 * 4 * 32
    browser.until(f"document.getElementById('loss-plot').dataset.to == {tokens}")
    browser.choose("axis", "seconds")
    browser.choose("measure", "bits_per_byte")
    assert [name for name, _ in pressed(browser, "loss-plot")] == ["holdout bits per byte"]
    browser.choose("measure", "loss")
    browser.choose("axis", "step")


def test_a_series_can_be_hidden(browser):
    before = ink(browser, "gradient-plot")
    browser.click("#gradient-plot .legend button:nth-child(2)")
    browser.run("new Promise(requestAnimationFrame)")
    assert pressed(browser, "gradient-plot")[1][1] == "false"
    browser.until("true")
    assert ink(browser, "gradient-plot") < before
    browser.click("#gradient-plot .legend button:nth-child(2)")
    assert pressed(browser, "gradient-plot")[1][1] == "true"


def test_the_keyboard_reads_out_points_and_zooms(browser, single):
    browser.run("document.querySelector('#loss-plot .canvas').focus()")
    browser.key("End")
    last = single.runs[0].history.evaluations[-1]
    readout = browser.text("#loss-plot .readout")
    assert readout.startswith("step 120: ")
    shown = float(re.search("holdout loss ([0-9.]+)", readout)[1])
    assert shown == pytest.approx(last.holdout_loss, rel=1e-4)
    browser.until(f"document.getElementById('said').textContent === {readout!r}")
    browser.key("ArrowLeft")
    assert browser.text("#loss-plot .readout").startswith("step 117: ")
    browser.key("+")
    browser.until("document.getElementById('loss-plot').dataset.from > 0")
    browser.key("0")
    browser.until("document.getElementById('loss-plot').dataset.from == 0")


def test_an_event_is_shown_on_the_curve(browser):
    assert browser.text(".event h3") == "warning loss-spike at step 60"
    assert HOSTILE in browser.text(".event")
    browser.click(".event button")
    browser.until("document.getElementById('loss-plot').dataset.from > 0")
    low, high = reach(browser)
    assert low < 60 < high
    assert browser.run("document.activeElement.closest('figure').id") == "loss-plot"
    browser.click("#all")


def test_samples_are_walked_through_with_a_slider(browser, single):
    shown = "[...document.querySelectorAll('.samples > li')].map(li => !li.hidden)"
    assert browser.run(shown) == [False, False, True]
    browser.run("document.querySelector('.play input').focus()")
    browser.key("ArrowLeft")
    assert browser.run(shown) == [False, True, False]
    second = single.runs[0].history.evaluations[1]
    text = browser.run("document.querySelector('.samples > li:not([hidden]) pre').textContent")
    assert text == second.sample_prompt + second.sample
    assert "step 80" in browser.run(
        "document.querySelector('.play input').getAttribute('aria-valuetext')"
    )
    browser.key("Home")
    browser.click(".play button")
    assert browser.text(".play button") == "Pause"
    browser.until(f"({shown})[1]")
    browser.click(".play button")
    assert browser.text(".play button") == "Play"


def test_attention_is_there_and_as_tall_as_it_needs(browser):
    inside = "document.getElementById('attention').contentDocument"
    browser.until(f"{inside}.documentElement.dataset.within === 'report'")
    assert browser.run(f"{inside}.querySelectorAll('.thumb').length") == 4
    browser.run(f"{inside}.querySelectorAll('.token')[3].click()")
    assert "Token 3" in browser.run(f"{inside}.getElementById('token-name').textContent")
    browser.until(
        f"Math.abs({inside}.body.getBoundingClientRect().height + 8 - "
        "document.getElementById('attention').clientHeight) < 2"
    )


def test_the_theme_can_be_chosen_and_reaches_the_frame(browser):
    browser.theme("light")
    theme = "document.documentElement.dataset.theme"
    inside = "document.getElementById('attention').contentDocument.documentElement.dataset.theme"
    browser.until(f"{theme} === 'light' && {inside} === 'light'")
    browser.click("#theme")
    browser.click("#theme")
    assert browser.text("#theme") == "Dark"
    browser.until(f"{theme} === 'dark' && {inside} === 'dark'")
    browser.click("#theme")
    browser.until(f"{theme} === 'light' && {inside} === 'light'")


def test_everything_that_can_be_operated_has_a_name(browser):
    unnamed = browser.run(
        "[...document.querySelectorAll('button, select, input, iframe, [tabindex]')].filter(e => "
        "!(e.getAttribute('aria-label') || e.title || e.closest('label') || e.textContent.trim()))"
        ".map(e => e.outerHTML)"
    )
    assert unnamed == []


@pytest.mark.parametrize("width", [320, 400, 1600])
def test_no_window_scrolls_sideways(browser, width):
    browser.width(width)
    browser.until(f"innerWidth === {width}")
    assert browser.run("document.documentElement.scrollWidth") <= width
    browser.send("Emulation.clearDeviceMetricsOverride")


def test_several_runs_lie_over_each_other(overlay):
    names = [name for name, _ in pressed(overlay, "loss-plot")]
    assert len(names) == 6
    assert names[2].endswith("one, holdout loss")
    assert names[5].endswith("two, holdout loss")
    assert overlay.run("document.querySelectorAll('.speech .play').length") == 2
    assert overlay.run("document.getElementById('gradient-of').value") == "whole"
    overlay.choose("gradient-of", "1")
    assert "layer 0" in [name for name, _ in pressed(overlay, "gradient-plot")]
    assert "2 against 1" in overlay.text("#holdout")
    assert "settings that are equal" in overlay.text("#made")


def test_no_script_failed_and_nothing_was_requested(browser, overlay):
    assert browser.complaints() == []
    assert overlay.complaints() == []
