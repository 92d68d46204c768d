"""Every command and program shown in the README and the docs runs, in the order shown."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
from small_runs import VERSES

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)

# Prompts of the pages, so that the small corpus here has their characters.
TEXT = "To be, or not to be.\nABCDEFGHIJKLMNOPQRSTUVWXYZ xyz\n" * 3 + VERSES

SIZE = ["--layers", "2", "--heads", "2", "--d-model", "16", "--context", "64", "--threads", "1"]
"""A page's run takes minutes; here every run is a small one of two seconds."""


def shown(page):
    return [(kind, body) for kind, body in BLOCK.findall(page.read_text()) if kind != "text"]


def smaller(arguments):
    if arguments[0] != "train":
        return ["8" if argument == "5000" else argument for argument in arguments]
    quick = ["2s" if argument == "3m" else argument for argument in arguments]
    if "--config" in quick:
        return quick
    steps = [] if "--budget" in quick else ["--steps", "4"]
    return [*quick, *SIZE, *steps]


def resume_further(arguments, minitx):
    """The page's number of steps lies beyond what a small run has done; so must ours."""
    from minitx.checkpoint.rundir import RunDirectory

    done = RunDirectory.open(None).steps()[-1]
    return [str(done + 2) if argument == "8" else argument for argument in arguments]


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_what_is_shown_runs(page, minitx, inside, capfd):
    (inside / "corpus.txt").write_text(TEXT)
    if page.name != "README.md":
        assert minitx(*smaller(["train", "corpus.txt"])).code == 0
    for kind, body in shown(page):
        if kind == "python":
            exec(compile(body, str(page), "exec"), {})
            continue
        assert kind == "sh", f"{page.name} shows a block of unknown kind {kind!r}"
        for line in body.strip().splitlines():
            program, *arguments = shlex.split(line)
            assert program == "minitx", line
            arguments = smaller(arguments)
            if arguments[0] == "resume":
                arguments = resume_further(arguments, minitx)
            done = minitx(*arguments)
            assert done.code == 0, f"{line}: {done.err}"
            assert done.out or done.err


def test_links_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"


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
