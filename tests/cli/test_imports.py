import subprocess
import sys


def printed(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
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
