"""The benches stay alive: what they share is right, and each of them starts."""

import json
import sys
from pathlib import Path

import pytest
import torch

BENCH = Path(__file__).parents[1] / "bench"


@pytest.fixture
def harness(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCH))
    import harness

    for name in harness.HELD_TO_AVX2:
        monkeypatch.delenv(name, raising=False)
    return harness


def pretend(monkeypatch, capability, bfloat16):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.cpu, "_is_avx512_supported", lambda: True, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bfloat16, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False, raising=False)


@pytest.mark.parametrize(
    ("capability", "bfloat16", "kind"),
    [
        ("AVX2", False, "avx2"), ("AVX2", True, "avx2"),
        ("AVX512", False, "avx512"), ("AVX512", True, "avx512-bf16"),
    ],
)  # fmt: skip
def test_a_kind_is_what_torch_may_use(harness, monkeypatch, capability, bfloat16, kind):
    pretend(monkeypatch, capability, bfloat16)
    assert harness.kind_of_cpu() == kind
    assert harness.result_file("speed") == BENCH / "results" / kind / "speed.json"
    assert harness.result_file("speed", on_gpu=True) == BENCH / "results" / "gpu" / "speed.json"


def test_a_held_machine_says_so(harness, monkeypatch):
    pretend(monkeypatch, "AVX2", True)
    assert "held" not in " ".join(harness.machine())
    for name, value in harness.HELD_TO_AVX2.items():
        monkeypatch.setenv(name, value)
    machine = harness.machine()
    assert machine["processor"].endswith("AVX512, held to AVX2")
    assert "MKL_ENABLE_INSTRUCTIONS=AVX2" in machine["held to AVX2 by"]


def test_a_machine_that_is_held_in_part_is_refused(harness, monkeypatch):
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx2")
    with pytest.raises(SystemExit, match="ONEDNN_MAX_CPU_ISA=AVX2"):
        harness.kind_of_cpu()


def test_a_published_result_is_what_the_page_reads(harness, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(sys, "argv", ["bench/speed.py", "--nanogpt", "/some/where"])
    table = harness.Table("Who:", ["who", "tokens/s"], [["us", "12"]])
    target = harness.Target("at least 20", "12", False)
    found = harness.Result("speed", "Speed", "How fast.", [table], [target])
    written = json.loads(harness.publish(found, tmp_path / "speed.json").read_text())
    assert written["command"] == "python bench/speed.py --nanogpt PATH"
    assert written["tables"] == [{**vars(table), "labels": 1}]
    assert written["machine"] == harness.machine()
    assert "SHORT: at least 20: 12" in capsys.readouterr().out
