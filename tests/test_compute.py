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


@pytest.mark.parametrize(("ratio", "chosen"), [(4.3, torch.bfloat16), (0.2, torch.float32)])
def test_auto_takes_what_is_measured_to_be_faster(monkeypatch, ratio, chosen):
    rates = {torch.bfloat16: ratio, torch.float32: 1.0}
    monkeypatch.setattr(compute, "matmul_rate", lambda device, dtype: rates[dtype])
    assert choose_dtype("auto", CPU) == chosen


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
