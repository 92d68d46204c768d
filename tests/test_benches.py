"""The benches stay alive: what they share is right, and each of them starts."""

import json
import os
import re
import subprocess
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


def runs_all(tmp_path, *arguments):
    """What `bench/all.sh` prints, with an interpreter that only notes what it is asked."""
    fake = tmp_path / "python"
    fake.write_text(
        "#!/bin/sh\n"
        f'echo "$@ [$MKL_ENABLE_INSTRUCTIONS]" >> {tmp_path}/asked\n'
        'case "$*" in *HELD_TO*) echo MKL_ENABLE_INSTRUCTIONS=AVX2 ;; *kind_of_cpu*) echo avx2 ;;\n'
        '*is_available*) echo "" ;; *memory.py*) exit 1 ;; esac\n'
    )
    fake.chmod(0o755)
    done = subprocess.run(
        ["sh", str(BENCH / "all.sh"), *arguments], cwd=tmp_path, capture_output=True, text=True,
        env={"PATH": os.environ["PATH"], "PYTHON": str(fake)},
    )  # fmt: skip
    asked = (tmp_path / "asked").read_text().splitlines() if (tmp_path / "asked").is_file() else []
    return done, [line for line in asked if line.startswith("bench/")]


def test_all_benches_say_first_what_they_take_and_what_is_missing(tmp_path):
    done, asked = runs_all(tmp_path, "--list")
    assert done.returncode == 0
    assert re.search(r"  serving +about \d+ min\n", done.stdout)
    assert re.search(r"  train_speed +skipped: no --nanogpt\n", done.stdout)
    assert re.search(r"  gpu_speed +skipped: no GPU, no --nanogpt\n", done.stdout)
    minutes = [int(found) for found in re.findall(r"  about (\d+) min", done.stdout)]
    assert f"About {sum(minutes)} minutes in all" in done.stdout
    assert asked == []


def test_all_benches_run_in_turn_and_a_failure_is_told_at_the_end(tmp_path):
    corpus = tmp_path / "a text.txt"
    corpus.write_text("x")
    names = ["--only", "serving", "--only", "best_loss", "--only", "memory"]
    done, asked = runs_all(tmp_path, "--corpus", str(corpus), "--as", "avx2", *names)
    assert done.returncode == 1
    assert done.stderr == "all.sh: these failed: memory\n"
    assert asked == [
        f"bench/best_loss.py --corpus {corpus} --budget 12m [AVX2]", "bench/memory.py [AVX2]",
        "bench/serving.py [AVX2]", "bench/render.py [AVX2]",
    ]  # fmt: skip
    assert "memory.py took 0 min" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--only", "nix"], "no bench nix"), (["--only"], "--only needs a value"),
        (["--nanogpt", "nowhere"], "nowhere is no checkout of nanoGPT"),
        (["--as", "sse"], "--as knows avx2 alone"), (["--fast"], "no option --fast"),
    ],
)  # fmt: skip
def test_all_benches_refuse_in_one_line_what_they_cannot_do(tmp_path, arguments, said):
    done, asked = runs_all(tmp_path, *arguments)
    assert (done.returncode, done.stdout, asked) == (2, "", [])
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_every_bench_is_in_the_script_that_runs_all():
    script = (BENCH / "all.sh").read_text()
    named = set(re.findall(r"^\d+ \S+ (\w+\.py)", script, re.MULTILINE))
    assert named == {
        path.name for path in BENCH.glob("*.py") if 'if __name__ == "__main__"' in path.read_text()
    } - {"render.py"}  # fmt: skip
