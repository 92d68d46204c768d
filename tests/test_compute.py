import subprocess
import sys

import pytest
import torch

from minitx import compute
from minitx.compute import (
    Compute,
    choose_device,
    choose_dtype,
    matmul_rate,
)
from minitx.errors import BadInputError

CPU = torch.device("cpu")


def test_cpu_is_always_there():
    assert choose_device("cpu") == CPU
    assert choose_device("auto").type in ("cpu", "cuda", "mps")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_missing_device_is_refused_with_one_that_works():
    with pytest.raises(BadInputError, match="cuda is not available") as caught:
        choose_device("cuda")
    assert "--device cpu" in caught.value.fix


def test_unknown_device():
    with pytest.raises(BadInputError, match="device is 'tpu'"):
        choose_device("tpu")


def test_given_formats_are_kept():
    assert choose_dtype("float32", CPU) == torch.float32
    assert choose_dtype("bfloat16", CPU) == torch.bfloat16


@pytest.mark.parametrize("fast", [(), ("_is_amx_tile_supported",), ("_is_avx512_bf16_supported",)])
@pytest.mark.parametrize("capability", ["AVX512", "AVX2"])
def test_auto_follows_from_the_processor_and_measures_nothing(monkeypatch, fast, capability):
    monkeypatch.setattr(compute, "matmul_rate", None)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda name=name: name in fast, raising=False)
    # Held to AVX2 (ATEN_CPU_CAPABILITY=avx2), a processor still says what it has.
    is_fast = fast and capability == "AVX512"
    assert choose_dtype("auto", CPU) == (torch.bfloat16 if is_fast else torch.float32)


def test_rate_is_of_the_order_of_a_processor():
    assert 1e8 < matmul_rate(CPU, torch.float32, seconds=0.01) < 1e14


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_run_in_the_chosen_format(dtype):
    where = Compute(CPU, dtype)
    with where.autocast():
        assert torch.mm(torch.ones(2, 2), torch.ones(2, 2)).dtype == dtype
    assert where.dtype_name == str(dtype).removeprefix("torch.")
    assert where.description.startswith("cpu (")


def test_freed_memory_comes_back_without_the_system():
    program = """
import resource, torch
from minitx.compute import keep_freed_memory
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(3_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
plain = faults()
if not keep_freed_memory():
    raise SystemExit(77)
faults()
kept = faults()
assert kept <= plain, (kept, plain)
assert kept < 100, kept
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    if done.returncode == 77:
        pytest.skip("this C library has no such setting")
    assert done.returncode == 0, done.stderr
