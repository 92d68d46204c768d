"""The film in the pages of `minitx report` and `minitx explore`, clicked through in Chromium."""

import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
from browser import CHROMIUM, Browser
from small_page import exploring
from small_runs import TINY_MODEL, TINY_TRAIN

from minitx.checkpoint.rundir import resolve_checkpoint
from minitx.config import ReportSettings
from minitx.inspection import film_recorder
from minitx.inspection.film import read_film
from minitx.report.pages.run_page import run_page
from minitx.training.logging.metrics_file import metrics_line
from minitx.workflows.load import open_checkpoint
from minitx.workflows.report import gather
from minitx.workflows.train import TrainRequest, train

HOSTILE = "</script><script>window.broken = 1</script><img src=x onerror='window.broken = 1'>"
SETTINGS = ReportSettings(eval=False, attn=False)

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


@pytest.fixture(scope="module")
def filmed(tmp_path_factory, verses):
    request = TrainRequest(
        data={"corpus": (str(verses),)}, model=TINY_MODEL, train=TINY_TRAIN,
        out=tmp_path_factory.mktemp("filmed") / "run",
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(film_recorder, "SHARE", 1e9)
        return train(request, []).run


@pytest.fixture(scope="module")
def film(filmed):
    return read_film(filmed / "film.jsonl")


@pytest.fixture(scope="module")
def report(filmed, tmp_path_factory):
    place = tmp_path_factory.mktemp("page")
    (place / "page.html").write_text(run_page(gather([filmed], SETTINGS)))
    browser = Browser(place / "profile", place / "page.html")
    yield browser
    browser.close()


def slide(browser, at):
    change = f"e.value = {at}; e.dispatchEvent(new Event('input'));"
    browser.run(f"(e => {{ {change} }})(document.querySelector('#film input'))")


def test_a_moment_is_chosen_by_keys_and_said(report, film):
    last = len(film.moments) - 1
    assert f"Step {film.moments[last].step}: loss" in report.text(".film-said")
    report.run("document.querySelector('#film input').focus()")
    report.key("ArrowLeft")
    before = film.moments[last - 1]
    text = "document.querySelector('.film-said').textContent"
    report.until(f"{text}.startsWith('Step {before.step}:')")
    said = report.run("document.querySelector('#film input').getAttribute('aria-valuetext')")
    assert said.startswith(f"step {before.step}: loss {before.loss:.3f}")
    assert before.sample.replace("\n", "") in report.text(".film-text").replace("\n", "")


def test_a_head_is_chosen_and_its_map_is_that_of_the_moment(report, film):
    slide(report, 3)
    report.click("#film .film-roles tr:nth-child(2) td:nth-child(3) button")
    assert report.run("document.activeElement.getAttribute('aria-pressed')") == "true"
    report.run(
        "document.querySelectorAll('#film .grid')[1].nextElementSibling.nextElementSibling.open = 1"
    )
    row = "[...document.querySelectorAll('#film details')][1].querySelectorAll('td')"
    report.until(f"{row}.length === {len(film.moments[3].tokens)}")
    shown = report.run(f"[...{row}].map(e => +e.textContent.replace(/−/g, '-'))")
    np.testing.assert_allclose(shown, film.moments[3].map(1, 1)[-1], rtol=1e-3, atol=1e-6)
    assert "head 1.1 at step" in report.run(
        "document.querySelectorAll('#film .grid')[1].getAttribute('aria-label')"
    )


def test_it_plays_to_the_end(report, film):
    slide(report, len(film.moments) - 3)
    report.click("#film .play button")
    assert report.text("#film .play button") == "Pause"
    report.until("document.querySelector('#film .play button').textContent === 'Play'")
    assert f"Step {film.moments[-1].step}:" in report.text(".film-said")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 900, 1600])
def test_it_fits_every_width(report, scheme, width):
    report.theme(scheme)
    report.width(width)
    report.until(f"document.documentElement.dataset.theme === {scheme!r}")
    assert report.run("document.documentElement.scrollWidth") <= width
    unnamed = report.run(
        "[...document.querySelectorAll('#film button, #film input, #film [role=group]')]"
        ".filter(e => !(e.textContent.trim() || e.getAttribute('aria-label'))).length"
    )
    assert unnamed == 0
    assert report.complaints() == []


def test_without_a_script_the_losses_are_a_table(filmed, film):
    page = run_page(gather([filmed], SETTINGS))
    assert page.count('id="film-part"') == 1
    assert f'<td class="number">{film.moments[-1].loss:.2f}</td>' in page


def test_text_stays_text_and_what_is_no_number_is_said(filmed, film, tmp_path):
    run = shutil.copytree(filmed, tmp_path / "run")
    odd = []
    for moment in film.moments[:3]:
        lens = tuple(
            replace(each, following=HOSTILE, likeliest=(((HOSTILE, math.nan),),) * 3)
            for each in moment.lens
        )
        tokens = (HOSTILE, "\x1b[2J", *moment.tokens[2:])
        changed = {"tokens": tokens, "sample": HOSTILE + "\u202e", "lens": lens}
        odd.append(replace(moment, **changed, loss=math.nan))
    lines = [metrics_line(each.to_line()) for each in odd]
    (run / "film.jsonl").write_bytes(b"".join(lines))
    page = tmp_path / "page.html"
    page.write_text(run_page(gather([run], SETTINGS)))
    assert "\x1b" not in page.read_text()
    browser = Browser(tmp_path / "profile", page)
    try:
        assert "loss NaN" in browser.text(".film-said")
        assert HOSTILE in browser.text(".film-text")
        assert "\u202e" not in browser.text(".film-text")
        assert browser.run("window.broken === undefined && !document.querySelector('#film img')")
        assert browser.complaints() == []
    finally:
        browser.close()


def test_explore_shows_the_film_of_a_run_and_says_where_there_is_none(filmed, tiny_run, tmp_path):
    for number, (run, wanted) in enumerate(((filmed, "Step 30: loss"), (tiny_run, "has no film"))):
        loaded = open_checkpoint(resolve_checkpoint(run))
        with exploring(loaded, "3 green bottles") as page:
            browser = Browser(tmp_path / f"profile-{number}", page.url)
            try:
                browser.run("document.querySelector('[data-panel=film]').open = true")
                told = f"document.getElementById('film').textContent.includes({wanted!r})"
                browser.until(told)
            finally:
                browser.close()
            status, answer = page.answer("film")
            assert status == (200 if run is filmed else 400)
            assert json.dumps(answer, allow_nan=False)
