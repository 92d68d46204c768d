"""Every exported kernel against plain double loops, in a C program: no Python, no torch.

So it also runs where they do not: under sanitizers, and in an emulator of another processor. The
program is `main.c` and the files beside it; a new kernel gets a function in one of their tables.
"""

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from minitx.fast.library import KERNELS, libraries

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[2]
SANITIZERS = ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
QUICK, MANY = 20, 200

needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
takes_minutes = pytest.mark.timeout(3600)


def hatch_build():
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


BUILD = hatch_build()
FLAGS = {**BUILD.X86, "plain": []}


def program(into, compiler, family, *flags, source=KERNELS, library=None):
    """The test program, with kernels from their sources or from a library."""
    sources = [*HERE.glob("*.c"), *([library] if library else source.glob("*.c"))]
    made = into / "kernels_test.exe"  # so that Windows runs it, too
    command = [*compiler, *BUILD.FLAGS, "-w", *FLAGS[family], *flags, f"-I{source}", "-o", made]
    done = subprocess.run(
        [*map(str, [*command, *sources]), "-lm"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return made


def require_right(made, shapes, *emulator):
    done = subprocess.run(
        [*emulator, str(made), "1", str(shapes)], capture_output=True, text=True, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "2"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout.split()[-4]) >= 11 * shapes


def families():
    return [family for family in FLAGS if family in libraries()]


@needs_compiler
@pytest.mark.parametrize("family", families())
def test_libraries_as_they_were_built(family, tmp_path):
    library = Path(libraries()[family]._name)
    rest = ["-O1", "-fopenmp", f"-Wl,-rpath,{library.parent}"]
    require_right(program(tmp_path, ["cc"], family, *rest, library=library), QUICK)


@needs_compiler
def test_sanitizers_find_nothing(tmp_path):
    made = program(tmp_path, ["cc"], [*families(), "plain"][0], *SANITIZERS)
    require_right(made, QUICK)


@needs_compiler
@pytest.mark.parametrize(
    ("file", "right", "wrong"),
    [
        ("train_attention.c", "j <= own ? weight", "j < own ? weight"),
        ("train_head.c", "logits[target] -= factor", "logits[target] -= 0.9f * factor"),
        ("layers.h", "along /= (float)n", "along /= (float)(n + 1)"),
        ("decode_model.h", "scale = 1.0f / sqrtf", "scale = 1.00005f / sqrtf"),
    ],
)
def test_a_fault_is_found(file, right, wrong, tmp_path):
    kernels = shutil.copytree(KERNELS, tmp_path / "kernels")
    text = (kernels / file).read_text()
    assert right in text
    (kernels / file).write_text(text.replace(right, wrong))
    made = program(tmp_path, ["cc"], "plain", "-O1", source=kernels)
    done = subprocess.run([made, "1", str(QUICK)], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert ", seed " in done.stdout


@needs_compiler
@pytest.mark.campaign
@takes_minutes
@pytest.mark.parametrize("family", families())
@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_sanitizers_find_nothing_in_any_family(compiler, family, tmp_path):
    if shutil.which(compiler) is None:
        pytest.skip(f"no {compiler}")
    require_right(program(tmp_path, [compiler], family, *SANITIZERS), MANY)


@pytest.mark.campaign
@takes_minutes
@pytest.mark.parametrize("family", families())
def test_clang_optimizes_all_families(family, tmp_path):
    if shutil.which("clang") is None:
        pytest.skip("no clang")
    require_right(program(tmp_path, ["clang"], family), MANY)


@pytest.mark.campaign
@takes_minutes
@pytest.mark.parametrize(
    "compiler", [["aarch64-linux-gnu-gcc", "-fopenmp"], ["clang", "--target=aarch64-linux-gnu"]]
)
def test_arm64_in_an_emulator(compiler, tmp_path):
    missing = [t for t in ("aarch64-linux-gnu-gcc", compiler[0], "qemu-aarch64-static")
               if shutil.which(t) is None]  # fmt: skip
    if missing:
        pytest.skip(f"no {missing[0]}")
    require_right(program(tmp_path, compiler, "plain", "-static"), MANY, "qemu-aarch64-static")


@pytest.mark.campaign
@takes_minutes
@pytest.mark.parametrize("family", families())
def test_windows_in_an_emulator(family, tmp_path):
    compiler = "x86_64-w64-mingw32-gcc"
    missing = [tool for tool in (compiler, "wine") if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"no {missing[0]}")
    require_right(program(tmp_path, [compiler], family, "-static"), MANY, "wine")
