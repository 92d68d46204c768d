"""The documentation as a site: it builds without a warning, and asks no other host for anything."""

import functools
import html
import html.parser
import http.server
import importlib.util
import json
import re
import subprocess
import sys
import threading

import pytest
import typer
from browser import CHROMIUM, Browser
from documented import ROOT

pytest.importorskip("material")
pytest.importorskip("mkdocstrings")


def load(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs/generated" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def build(root, site):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(site)]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    place = tmp_path_factory.mktemp("site") / "site"
    done = build(ROOT, place)
    assert done.returncode == 0, done.stdout + done.stderr
    return place


class Loaded(html.parser.HTMLParser):
    """What a page loads, links that a person has to click left out, and its text."""

    def __init__(self, page):
        super().__init__()
        self.found, self.text = [], ""
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        if tag != "a":
            self.found += [v for k, v in attrs if k in ("src", "href", "srcset", "data") and v]

    def handle_data(self, data):
        self.text += data


def test_pages_load_nothing_from_elsewhere(site):
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 5
    for page in pages:
        outside = [at for at in Loaded(page).found if re.match(r"(?:https?:)?//", at)]
        assert not outside, f"{page.name}: {outside}"
    for style in site.rglob("*.css"):
        assert not re.findall(r"url\(['\"]?(?:https?:)?//", style.read_text()), style.name


def test_every_page_is_in_the_navigation(site):
    start = (site / "index.html").read_text()
    for page in (ROOT / "docs").rglob("*.md"):
        assert page.relative_to(ROOT / "docs").with_suffix(".html").as_posix() in start


def test_every_command_and_option_is_in_the_reference(site):
    from typer.main import get_command

    from minitx.cli.app import app

    text = " ".join(Loaded(site / "reference/cli.html").text.split())
    for name, command in get_command(app).commands.items():
        assert f"minitx {name}" in text
        for parameter in command.params:
            for shown in [*parameter.opts, *parameter.secondary_opts]:
                assert shown in text, f"{name}: {shown}"
            assert " ".join(parameter.help.split()) in text, f"{name}: {parameter.name}"


def test_every_key_of_a_config_is_in_the_reference(site):
    from minitx.config.options import options_of
    from minitx.config.run_config import TABLES

    text = " ".join(Loaded(site / "reference/config.html").text.split())
    for name, config in TABLES.items():
        assert f"[{name}]" in text
        for option in options_of(config):
            assert f"{option.name} (" in text
            assert option.help in text


def test_the_schema_for_editors_is_there(site):
    from minitx.config.run_config import config_schema

    written = json.loads((site / "reference/run.schema.json").read_text())
    assert written == json.loads(json.dumps(config_schema()))


def test_each_exercise_leads_to_the_line_that_does_the_same(site):
    from minitx.learn.course import CHAPTERS

    link = re.compile(
        r'href="\.\./(reference/[\w-]+\.html)#([\w-]+)"[^>]*>[^<]*</a>: <code>([\w.]+)'
    )
    for number, chapter in enumerate(CHAPTERS, start=1):
        page = (site / f"learn/chapter-{number}.html").read_text()
        found = link.findall(page)
        assert len(found) == len(chapter.names)
        for address, anchor, name in found:
            source = (site / address).read_text()
            line = source.partition(f'name="{anchor}"')[2].partition("\n")[0]
            shown = html.unescape(re.sub(r"<[^>]*>", "", f"<{line}"))
            assert re.match(rf"\s*(def|class) {name.split('.')[-1]}\b", shown), (address, shown)
        for lesson in chapter.lessons:
            assert f'href="{lesson}.html"' in page
        text = " ".join(Loaded(site / f"learn/chapter-{number}.html").text.split())
        assert all(question in text for question in chapter.questions)


def test_an_option_without_help_stops_the_build():
    reference = load("cli_reference")
    app = typer.Typer()

    @app.command("one")
    def one(named: str = "x") -> None:
        """Has help."""

    @app.command("two")
    def two() -> None:
        """Has help, too."""

    app.callback()(lambda: None)
    with pytest.raises(reference.UndocumentedError, match="minitx"):
        reference.cli_reference(app)


def test_the_navigation_takes_what_is_there():
    navigation = load("navigation").navigation
    pages = ["index.md", "plan.md", "a-new-page.md", "learn/a-new-lesson.md", "learn/index.md"]
    found = {part: names for entry in navigation(pages) for part, names in entry.items()}
    assert found["Start"] == "index.md"
    assert found["Learn"] == ["learn/index.md", "learn/a-new-lesson.md"]
    assert found["Use"] == ["plan.md", "a-new-page.md"]
    assert "Reference" not in found


def test_a_dead_link_stops_the_build(tmp_path):
    (tmp_path / "docs").mkdir()
    for name in ("mkdocs.yml", "src", "docs/generated"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "docs/dead.md").write_text("# Dead\n\n[there](nowhere.md)\n")
    done = build(tmp_path, tmp_path / "site")
    assert done.returncode != 0
    assert "nowhere.md" in done.stdout + done.stderr


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def served(site):
    handler = functools.partial(Quiet, directory=str(site))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_no_code_is_cut_in_a_window_of_1280_pixels_and_no_page_scrolls_sideways(served, tmp_path):
    cut = (
        "[...document.querySelectorAll('pre > code')]"
        ".filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.textContent.slice(0, 60))"
    )
    pages = sorted((ROOT / "docs").rglob("*.md"))
    browser = Browser(tmp_path / "profile", f"{served}/index.html")
    try:
        for page in pages:
            address = page.relative_to(ROOT / "docs").with_suffix(".html").as_posix()
            browser.open(f"{served}/{address}")
            browser.width(1280)
            browser.until("innerWidth === 1280")
            assert browser.run(cut) == [], address
            browser.width(390)
            browser.until("innerWidth === 390")
            assert browser.run("document.documentElement.scrollWidth") <= 390, address
            commands = cut.replace("pre > code", ".language-sh code")
            assert browser.run(commands) == [], address
    finally:
        browser.close()


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_in_a_browser(served, tmp_path):
    browser = Browser(tmp_path / "profile", f"{served}/index.html?q=perplexity")
    try:
        # The search runs in a worker of its own, on an index of its own.
        browser.until("document.querySelectorAll('.md-search-result__item').length > 0")
        assert all(url.startswith((served, "data:", "blob:")) for url in browser.requested())
        dark = "matchMedia('(prefers-color-scheme: dark)').matches"
        color = "getComputedStyle(document.body).backgroundColor"
        colors = set()
        for scheme in ("light", "dark"):
            feature = {"name": "prefers-color-scheme", "value": scheme}
            browser.send("Emulation.setEmulatedMedia", features=[feature])
            browser.open("about:blank")
            browser.send("Storage.clearDataForOrigin", origin=served, storageTypes="all")
            browser.open(f"{served}/evaluation.html")
            assert browser.run(dark) == (scheme == "dark")
            colors.add(browser.run(color))
            assert all(url.startswith((served, "data:", "blob:")) for url in browser.requested())
        assert len(colors) == 2
    finally:
        browser.close()
