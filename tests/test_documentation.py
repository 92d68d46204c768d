"""Every command and program shown in the README and the docs runs, in the order shown, and prints
what the page says."""

import contextlib
import re
import runpy
import shlex
import shutil
import subprocess
import sys

import pytest
from documented import PAGES, ROOT, blocks, difference, run_python
from serve_process import ServeProcess
from small_runs import VERSES

from minitx.fast.library import library
from minitx.inspection import film_recorder

# Prompts of the pages, so that the small corpus here has their characters.
TEXT = "To be, or not to be.\nABCDEFGHIJKLMNOPQRSTUVWXYZ xyz\n" * 3 + VERSES

SIZE = ["--layers", "2", "--heads", "2", "--d-model", "16", "--context", "64", "--threads", "1"]
"""A page's run takes minutes; here every run is a small one of two seconds."""

OWN_SIZE = {"--layers", "--steps"}
"""Runs that name both are small, and run as they stand."""


def smaller(arguments):
    if arguments[0] != "train":
        return ["8" if argument == "5000" else argument for argument in arguments]
    if set(arguments) >= OWN_SIZE:
        # The text that comes with Python takes seconds to score.
        return [*arguments, "corpus.txt"] if arguments[1].startswith("--") else arguments
    quick = ["2s" if argument == "3m" else argument for argument in arguments]
    if "--config" in quick:
        return quick
    steps = [] if "--budget" in quick else ["--steps", "4"]
    # A model to begin with has sizes of its own.
    return [*quick, *(["--threads", "1"] if "--from" in quick else SIZE), *steps]


def resume_further(arguments):
    """The page's number of steps lies beyond what a small run has done; so must ours."""
    from minitx.checkpoint.rundir import RunDirectory

    done = RunDirectory.open(None).steps()[-1]
    return [str(done + 2) if argument == "8" else argument for argument in arguments]


def needs_run(page):
    """Whether a page speaks of a run that it does not train."""
    text = "\n".join(block.body for block in blocks(page.read_text()))
    first = re.search(r"minitx[ .](\w+(?: --config)?)|resolve_checkpoint", text)
    return (
        page.name != "README.md"
        and first is not None
        and first[1] not in ("train", "tokenize", "corpus", "plan")
    )


@pytest.fixture(scope="module")
def page_run(tmp_path_factory):
    """A directory with a corpus and a finished run, to be copied for each page."""
    from minitx.workflows.train import TrainRequest, train

    place = tmp_path_factory.mktemp("pages")
    (place / "corpus.txt").write_text(TEXT)
    shape = {"n_layers": 2, "n_heads": 2, "d_model": 16, "context_length": 64}
    request = TrainRequest(
        data={"corpus": (str(place / "corpus.txt"),)},
        model=shape,
        train={"steps": 60, "threads": 1},
        out=place / "runs" / "corpus-001",
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(film_recorder, "SHARE", 1e9)  # So short a run has no film of its own.
        train(request, [])
    return place


def run_script(path, arguments, monkeypatch, capfd):
    """A lesson's script, at the size for tests."""
    monkeypatch.setattr(sys, "argv", [path, *arguments, "--quick"])
    monkeypatch.syspath_prepend(str((ROOT / path).parent))
    capfd.readouterr()
    runpy.run_path(str(ROOT / path), run_name="__main__")
    return capfd.readouterr().out


SERVED_AT = "http://127.0.0.1:8000"
"""Where pages say that `minitx serve` listens; here it takes a port that is free."""


def run_curl(arguments):
    """A request to a server, which must answer it."""
    if shutil.which("curl") is None:
        return "no curl here"
    done = subprocess.run(["curl", "--fail", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, (arguments, done.stderr)
    assert done.stdout
    return done.stdout


def kernels_of(family, monkeypatch):
    """From here on; here commands run in one process, which asks for its kernels once."""
    monkeypatch.setenv("MINITX_KERNELS", family)
    library.cache_clear()


@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
def test_what_is_shown_runs(page, minitx, inside, capfd, monkeypatch, request):
    with contextlib.ExitStack() as servers:
        servers.callback(library.cache_clear)
        run_page(page, minitx, inside, capfd, monkeypatch, request, servers)


def run_page(page, minitx, inside, capfd, monkeypatch, request, servers):
    url = SERVED_AT
    if needs_run(page):
        shutil.copytree(request.getfixturevalue("page_run"), inside, dirs_exist_ok=True)
    (inside / "corpus.txt").write_text(TEXT)
    namespace = {}
    for block in blocks(page.read_text(encoding="utf-8")):
        where = f"{page.name}:{block.line}"
        capfd.readouterr()
        printed = ""
        if block.kind == "python":
            run_python(block.body.replace(SERVED_AT, url), namespace, where)
            printed = capfd.readouterr().out
        else:
            for line in block.body.strip().splitlines():
                program, *arguments = shlex.split(line.replace(SERVED_AT, url))
                if program.startswith("MINITX_KERNELS="):
                    kernels_of(program.partition("=")[2], monkeypatch)
                    program, *arguments = arguments
                if program == "curl":
                    printed += run_curl(arguments)
                    continue
                if arguments[0] in ("serve", "explore"):
                    served = ServeProcess(*arguments[1:], command=arguments[0])
                    url = servers.enter_context(served).url
                    continue
                if program == "python":
                    script, *arguments = arguments
                    printed += run_script(script, arguments, monkeypatch, capfd)
                    continue
                assert program == "minitx", line
                arguments = smaller(arguments)
                if arguments[0] == "resume":
                    arguments = resume_further(arguments)
                said = "box 3, red?\n" if arguments[0] == "chat" else None
                done = minitx(*arguments, stdin=said)
                assert done.code == 0, f"{line}: {done.err}"
                assert done.out or done.err
                printed += done.out
        if block.shown is not None:
            assert not difference(block, printed), f"{where}\n{difference(block, printed)}"


def test_what_a_block_shows_is_compared():
    page = '```python\nprint(1)\n```\n\n```text title="{}"\n{}\n```\n'
    (exact,) = blocks(page.format("Output", "loss 1.25\n...\nend"))
    assert exact.shown == "loss 1.25\n...\nend\n"
    assert not difference(exact, "loss 1.25\nabc\ndef\nend\n")
    assert difference(exact, "loss 1.26\nabc\nend\n")
    (varies,) = blocks(page.format("Output, numbers vary", "loss 1.25\n> To be"))
    assert not difference(varies, "loss 9.99\n> or not\n")
    assert difference(varies, "losses 1.25\n")
    (cut,) = blocks(page.format("Output, numbers vary", "loss 1.25\n...\nthe end"))
    assert not difference(cut, "loss 9.99\nand more\nthe end\n")
    assert not difference(cut, "loss 9.99\nthe end\n")
    assert difference(cut, "loss 9.99\nand more\nthe other end\n")


@pytest.mark.parametrize(
    "page",
    [
        "```python\nprint(1)\n```\n\n```text\n1\n```\n",
        '```python\nprint(1)\n```\nSo:\n```text title="Output"\n1\n```\n',
        '```python\nprint(1)\n```\n```text title="Output, more or less"\n1\n```\n',
        "```perl\nprint 1\n```\n",
    ],
)
def test_a_page_can_show_nothing_that_is_not_checked(page):
    with pytest.raises(ValueError, match="line"):
        blocks(page)


def test_links_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_each_row_of_an_index_leads_to_pages_of_its_own():
    for page in (ROOT / "docs/index.md", ROOT / "docs/learn/index.md"):
        rows = [line for line in page.read_text().splitlines() if line.startswith("|")]
        targets = re.findall(r"\]\(([^)]+)\)", "\n".join(rows))
        assert len(targets) > 10
        assert sorted(set(targets)) == sorted(targets)


def test_setup_commands_are_there():
    readme = (ROOT / "README.md").read_text()
    for script in ("examples/first-run.sh", "tests/run.sh"):
        assert f"    sh {script}\n" in readme
        assert shutil.which("sh") is None or (ROOT / script).is_file()


def test_exit_codes_are_those_of_the_errors():
    from minitx import errors

    readme = (ROOT / "README.md").read_text()
    for name in ("BadInputError", "DamagedFileError", "InstabilityError", "RunLockedError"):
        assert f"| {getattr(errors, name).exit_code} |" in readme
