"""What is known of the machine: measured once, kept, read carefully, and the same plan after it."""

import itertools
import json
import math
import random

import pytest
import torch

from minitx.compute import Compute, choose_compute
from minitx.files import cache_directory
from minitx.training import machine_speed
from minitx.training.machine_speed import (
    GRID,
    KEPT_IN,
    SAME,
    MachineSpeed,
    kept_speed,
    measure_speed,
)

CPU = Compute(torch.device("cpu"), torch.float32)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "minitx"


@pytest.fixture
def clock(monkeypatch):
    """Pretends what is measured; gives the list of rates still to come, and counts."""
    rates = []
    monkeypatch.setattr(machine_speed, "_rate", lambda compute, engine: rates.pop(0))
    return rates


def test_a_machine_is_measured_once_and_again_when_asked(clock, cache):
    clock += [1e11, 3e11]
    assert kept_speed(CPU, "auto") is None
    first = measure_speed(CPU, "auto")
    assert first.rate == 1e11
    assert kept_speed(CPU, "auto") == first
    assert kept_speed(CPU, "plain") is None
    assert measure_speed(CPU, "auto").rate == 3e11
    assert kept_speed(CPU, "auto").rate == 3e11


def test_what_is_nearly_the_same_changes_nothing_but_the_date(clock):
    clock += [1e11, 1e11 * (1 + SAME) * 0.999, 1e11 / (1 + SAME) * 1.001, 1e11 * (1 + SAME) * 1.01]
    first = measure_speed(CPU, "auto")
    assert measure_speed(CPU, "auto").rate == 1e11
    again = measure_speed(CPU, "auto")
    assert (again.rate, again.measured_at >= first.measured_at) == (1e11, True)
    assert measure_speed(CPU, "auto").rate > 1.1e11


@pytest.mark.parametrize("change", ["processor_name", "kernel_build", "threads", "dtype"])
def test_another_machine_is_measured_anew(clock, monkeypatch, change):
    clock += [1e11]
    measure_speed(CPU, "auto")
    compute = CPU
    if change == "threads":
        monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    elif change == "dtype":
        compute = Compute(CPU.device, torch.bfloat16)
    else:
        monkeypatch.setattr(machine_speed, change, lambda: ("another", "9"))
    assert kept_speed(compute, "auto") is None


@pytest.mark.parametrize(
    "content",
    [
        b"", b"\x00\xff", b"[]", b"{}", b"[" * 100_000, b'{"speeds": 3}',
        b'{"speeds": {"NAME": 3}}',
        b'{"speeds": {"NAME": {"rate": 1e11}}}',
        b'{"speeds": {"NAME": {"rate": "x", "measured_at": 1}}}',
        b'{"speeds": {"NAME": {"rate": 1e400, "measured_at": 1}}}',
        b'{"speeds": {"NAME": {"rate": -1, "measured_at": 1}}}',
        b'{"speeds": {"NAME": {"rate": NaN, "measured_at": 1}}}',
        b'{"speeds": {"NAME": {"rate": 1e11, "measured_at": NaN}}}',
        b'{"speeds": {"NAME": {"rate": 1' + b"0" * 400 + b', "measured_at": 1}}}',
        b" " * 2_000_000,
    ],
)  # fmt: skip
def test_a_damaged_file_is_measured_again(clock, cache, content):
    clock += [1e11]
    cache.mkdir(parents=True)
    name = machine_speed._name(CPU, "auto")
    (cache / KEPT_IN).write_bytes(content.replace(b"NAME", name.encode()))
    assert kept_speed(CPU, "auto") is None
    assert measure_speed(CPU, "auto").rate == 1e11
    assert kept_speed(CPU, "auto").rate == 1e11


def test_a_directory_that_cant_be_written_is_no_error(clock, cache, monkeypatch):
    clock += [1e11, 2e11]
    cache.parent.mkdir()
    cache.write_text("a file where a directory should be")
    assert measure_speed(CPU, "auto").rate == 1e11
    assert kept_speed(CPU, "auto") is None
    monkeypatch.setattr(machine_speed, "cache_directory", lambda: None)
    assert measure_speed(CPU, "auto").rate == 2e11


def test_what_is_kept_does_not_grow_without_end(clock, cache):
    clock += [1e11] * 60
    for n in range(60):
        measure_speed(CPU, f"engine {n}")
    kept = json.loads((cache / KEPT_IN).read_text())["speeds"]
    assert len(kept) == 50
    assert kept_speed(CPU, "engine 59") is not None


def test_the_cache_is_where_the_system_keeps_such_things(monkeypatch, tmp_path):
    assert cache_directory() == tmp_path / "cache" / "minitx"
    monkeypatch.setenv("HOME", str(tmp_path))
    for given in ("", "relative/path"):
        monkeypatch.setenv("XDG_CACHE_HOME", given)
        for system, where in (("linux", ".cache"), ("darwin", "Library/Caches")):
            monkeypatch.setattr("minitx.files.sys.platform", system)
            assert cache_directory() == tmp_path / where / "minitx"


def test_a_plan_takes_the_nearest_rate_of_a_coarse_grid():
    rates = [10 ** (8 + k / 100) for k in range(800)]
    planned = [MachineSpeed(rate, 0.0).planned_rate for rate in rates]
    assert planned == sorted(planned)
    assert all(abs(math.log(p / r)) <= 1.0001 * math.log(GRID) / 2
               for p, r in zip(planned, rates, strict=True))  # fmt: skip
    assert len(set(planned)) == pytest.approx(math.log(1e8, GRID), abs=2)


@pytest.mark.parametrize(
    ("age", "told"),
    [(0.0, "just now"), (59.0, "just now"), (60.0, "1 minute ago"), (7300.0, "2 hours ago"),
     (3 * 86400.0, "3 days ago"), (-5.0, "just now")],
)  # fmt: skip
def test_its_age_is_told(age, told):
    text = MachineSpeed(8.2e10, 1000.0).told(1000.0 + age)
    assert "82 billion operations a second" in text
    assert f"measured {told}" in text


def test_others_on_the_processor_do_not_count(monkeypatch):
    """On a clock of the thread's own time, of which a pass takes so much, now and then more."""
    compute = choose_compute("cpu", "float32", 1)
    draws, spent = random.Random(3), itertools.count()
    now = [0.0]

    def thread_time():
        return now[0]

    class Loss:
        def backward(self):
            next(spent)
            now[0] += 0.01 * (1.0 if draws.random() < 0.4 else draws.uniform(1.0, 3.0))

    monkeypatch.setattr(machine_speed.time, "thread_time", thread_time)
    monkeypatch.setattr(machine_speed, "loss_function", lambda *_: lambda ids, targets: Loss())
    found = [machine_speed._rate(compute, "plain") for _ in range(20)]
    reference = machine_speed.REFERENCE
    operations = reference.flops_per_token * reference.context_length * machine_speed.SEQUENCES
    exact = machine_speed.STEP_OF_PASS * operations / 0.01
    assert all(rate == pytest.approx(exact, rel=0.01) for rate in found)
    # About a third of a second each, and never much more than twice that.
    assert next(spent) <= 20 * 6 * 14


def test_measuring_leaves_the_threads_as_they_were():
    compute = choose_compute("cpu", "auto", 1)
    before = torch.get_num_threads()
    assert 1e8 < measure_speed(compute, "auto").rate < 1e14
    assert torch.get_num_threads() == before
