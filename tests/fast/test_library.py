"""Which kernels compute: those of the highest family that the processor has, or those asked for."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from minitx.errors import BadInputError
from minitx.fast import library as library_module
from minitx.fast.library import FAMILIES, family, libraries, library

pytestmark = pytest.mark.skipif(library() is None, reason="no compiled kernels here")


@pytest.fixture(autouse=True)
def _asked_again(monkeypatch):
    monkeypatch.delenv("MINITX_KERNELS", raising=False)
    monkeypatch.delenv("ATEN_CPU_CAPABILITY", raising=False)
    library.cache_clear()
    yield
    library.cache_clear()


def test_the_highest_family_is_taken():
    assert family() == list(libraries())[-1]
    assert list(libraries()) == [name for name in FAMILIES if name in libraries()]


@pytest.mark.parametrize("name", list(libraries()))
def test_each_can_be_asked_for(name, monkeypatch):
    monkeypatch.setenv("MINITX_KERNELS", name)
    assert family() == name
    assert library() is libraries()[name]


def test_none_can_be_asked_for(monkeypatch):
    monkeypatch.setenv("MINITX_KERNELS", "none")
    assert library() is None
    assert family() == "none"


@pytest.mark.parametrize(("limit", "highest"), [("default", "plain"), ("avx2", "avx2")])
def test_no_higher_than_torch_may_use(limit, highest, monkeypatch):
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", limit)
    assert FAMILIES.index(family()) <= FAMILIES.index(highest)


def test_what_a_processor_lacks_is_not_used(monkeypatch):
    """Where its kernels were built all the same, as in a wheel."""
    plain = libraries()["plain"]
    monkeypatch.setattr(plain, "minitx_processor", lambda: 1)
    libraries.cache_clear()
    monkeypatch.setattr(library_module, "_loaded", lambda name: plain if name == "plain" else name)
    try:
        assert list(libraries()) == ["plain", "avx2"]
        monkeypatch.setenv("MINITX_KERNELS", "avx512")
        with pytest.raises(BadInputError, match="lacks that, or it was not compiled"):
            library()
    finally:
        libraries.cache_clear()


def test_a_name_that_is_none_of_them_is_refused_in_one_line(inside):
    done = subprocess.run(
        [sys.executable, "-m", "minitx", "train", "--steps", "1"],
        capture_output=True, text=True, check=False, cwd=inside,
        env={**os.environ, "MINITX_KERNELS": "avx3"},
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1:] == [
        "error: MINITX_KERNELS=avx3 names no kernels. "
        "Set it to none, plain, avx2, avx512, avx512-bf16."
    ]
    assert not list(inside.iterdir())


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="no list of what it can do")
@pytest.mark.skipif(not libraries(), reason="no kernels")
def test_the_family_is_what_the_system_says_of_the_processor():
    said = re.search(r"^flags\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    flags = set(said[1].split()) if said else set()
    needs = [{"avx2", "fma", "bmi1", "bmi2"},
             {f"avx512{part}" for part in ("f", "bw", "cd", "dq", "vl")},
             {"avx512_bf16"}]  # fmt: skip
    there = [need <= flags for need in needs]
    right = there.index(False) if False in there else 3
    assert libraries()["plain"].minitx_processor() == right


@pytest.mark.skipif(sys.platform != "linux", reason="another C library")
@pytest.mark.parametrize("name", list(libraries()))
def test_a_library_loads_where_the_c_library_is_of_2018(name):
    """As its wheel promises: it asks for nothing newer, and not for an OpenMP of its own."""
    library = Path(libraries()[name]._name).read_bytes()
    versions = [tuple(map(int, v)) for v in re.findall(rb"GLIBC_(\d+)\.(\d+)", library)]
    assert versions
    assert max(versions) <= (2, 27)
    assert b"libgomp" not in library


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="no list of loaded libraries")
@pytest.mark.parametrize("first", ["minitx.fast.library", "torch"])
def test_kernels_share_the_openmp_of_torch(first):
    """Whoever is loaded first: two runtimes would have threads that wait for each other."""
    code = f"""
import {first}, torch
from minitx.fast.library import library
library().minitx_norms(0, None, None, None, 2)
torch.mm(torch.ones(300, 300), torch.ones(300, 300))
runtimes = {{line.split()[-1] for line in open("/proc/self/maps") if "omp" in line.split("/")[-1]}}
print(len(runtimes), *runtimes)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert done.split()[0] == "1", done
