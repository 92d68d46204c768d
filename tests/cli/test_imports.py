import subprocess
import sys


def printed(code, directory=None):
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=directory
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_garbage_is_not_looked_for_during_imports_nor_in_what_was_imported():
    """Also after an import that fails; and one within another, or in vain, changes nothing."""
    code = """
import gc
from minitx.cli import many_imports
with many_imports():
    inside = gc.isenabled()
    with many_imports():
        within = gc.isenabled()
    still = gc.isenabled()
print(inside, within, still, gc.isenabled(), gc.get_freeze_count() > 0)
gc.unfreeze()
try:
    with many_imports():
        import nothing_of_this_name
except ImportError:
    print(gc.isenabled())
gc.unfreeze()
import torch
with many_imports():
    print(gc.isenabled())
print(gc.get_freeze_count())
"""
    assert printed(code) == ["False", "False", "False", "True", "True", "True", "True", "0"]


def test_what_takes_long_to_import_is_not_imported_by_the_usual_commands(tmp_path):
    """Each of these takes from a tenth of a second up; none of them is needed here."""
    code = """
import contextlib, gc, io, sys
from minitx.cli.app import app
sizes = ["--layers", "1", "--heads", "1", "--d-model", "16", "--context", "16"]
with contextlib.redirect_stdout(io.StringIO()):
    app(["train", "--steps", "2", *sizes, "--out", "run"], standalone_mode=False)
    frozen = gc.get_freeze_count()
    app(["resume", "run", "--steps", "3"], standalone_mode=False)
    app(["generate", "run", "--prompt", "The", "--max-new-tokens", "2"], standalone_mode=False)
    app(["eval", "run", "--max-tokens", "64", "--quick"], standalone_mode=False)
slow = ("sympy", "torch._dynamo", "torch._inductor", "transformers", "matplotlib", "tensorboard",
        "jinja2", "starlette", "IPython")
print("torch" in sys.modules, frozen > 100_000, *(name for name in slow if name in sys.modules))
"""
    assert printed(code, tmp_path) == ["True", "True"]


def test_a_command_that_measures_says_so_before_torch_is_loaded():
    code = """
import sys
sys.modules["torch"] = None  # its import fails
from minitx.cli.app import app
from minitx.report.evaluation.evaluation_progress import EvaluationProgress
told = []
EvaluationProgress.update = lambda self, *what: told.append(what)
for command in ("eval", "report", "diagnose", "profile"):
    told.clear()
    try:
        app([command, "a-run"], standalone_mode=False)
    except ImportError:
        print(command, len(told))
"""
    assert printed(code) == ["eval", "1", "report", "1", "diagnose", "1", "profile", "1"]
