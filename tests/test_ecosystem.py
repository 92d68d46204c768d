"""The first commands of docs/ecosystem.md, and what it shows of tools that the tests do not
install, where they are installed."""

import contextlib
import json
import linecache
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from pydoc_data import topics

import pytest
import torch
from foreign_models import foreign_model, foreign_tokenizer, save_foreign
from small_runs import TINY_TRAIN, VERSES

from minitx.inspection.attention_maps import traced
from minitx.workflows.load import load
from minitx.workflows.train import TrainRequest, train

PAGE = Path(__file__).parents[1] / "docs/ecosystem.md"
PROMPT = "To be, or not to be"


def indented(heading):
    """The indented blocks of a section, without their indentation."""
    section = PAGE.read_text(encoding="utf-8").split(f"\n## {heading}\n")[1].split("\n## ")[0]
    found = re.findall(r"(?:^(?: {4}.*)?\n)*^ {4}.*$", section, re.MULTILINE)
    return [textwrap.dedent(block).strip("\n") for block in found]


def shown(heading, directory):
    """The names that a section's code defines."""
    import minitx

    (code,) = indented(heading)
    # nnsight reads the lines that it runs.
    Path("shown.py").write_text(code)
    linecache.clearcache()
    return runpy.run_path("shown.py", {"minitx": minitx, "directory": directory})


def first_commands():
    """Those of the table at the top of the page, in order."""
    table = PAGE.read_text(encoding="utf-8").split("| to | in a shell |\n")[1].split("\n\n")[0]
    return re.findall(r"`([^`]+)` \|$", table, re.MULTILINE)


TRAIN, TALK, TALK_IN_NODE, TUNE, SCORE = first_commands()
QUESTIONS = ["box 5, blue?", "box 11, white?", "box 3, red?"]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """What the first commands find: a folder of conversations, one of texts, a model of the Hub."""
    home = tmp_path_factory.mktemp("home")
    (home / "chats").mkdir()
    (home / "notes").mkdir()
    page = (PAGE.parent / "chat.md").read_text(encoding="utf-8")
    code = re.search(r"```python\n(.*?)```", page, re.DOTALL)[1]
    with contextlib.chdir(home / "chats"):
        exec(code, {})
    (home / "notes/verses.txt").write_text(VERSES, encoding="utf-8")
    (home / "notes/plain.md").write_text(topics.topics["assert"] * 9, encoding="utf-8")
    tokenizer = foreign_tokenizer()
    save_foreign(home / "llama", foreign_model("llama", len(tokenizer)), tokenizer)
    return home


@pytest.fixture
def run_line(home, minitx, monkeypatch):
    """Runs a command of the page, within this process, unless what it makes is there."""
    monkeypatch.chdir(home)
    monkeypatch.setenv("MINITX_THREADS", "1")

    def run_line(line, made):
        program, *arguments = shlex.split(line)
        assert program == "minitx"
        if not Path(made).exists():
            done = minitx(*arguments)
            assert done.code == 0, done.err

    return run_line


def test_a_folder_is_trained_on_and_talked_with(run_line, minitx):
    run_line(TRAIN, "runs/talk")
    said = minitx("chat", "runs/talk", "--temperature", "0", "--system", "Be brief.",
                  stdin="\n".join(QUESTIONS))  # fmt: skip
    assert said.out.split("\n")[:3] == ["it is blue", "it is white", "it is red"]


LLAMA_CLI = os.environ.get("LLAMA_CLI") or shutil.which("llama-cli")
NODE_LLAMA_CPP = os.environ.get("NODE_LLAMA_CPP", "")


@pytest.mark.skipif(not LLAMA_CLI, reason="no llama-cli")
@pytest.mark.parametrize("weights", ["f32", "q8_0"])
def test_llama_cli_talks_as_minitx_does(run_line, weights):
    pytest.importorskip("gguf")
    run_line(TRAIN, "runs/talk")
    export, talk = TALK.split(" && ")
    Path("talk.gguf").unlink(missing_ok=True)
    run_line(f"{export} --type {weights}", "talk.gguf")
    done = subprocess.run(
        [LLAMA_CLI, *shlex.split(talk)[1:], "--simple-io"], input="\n".join(QUESTIONS) + "\n",
        capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    answers = re.findall(r"^> (.+)$", done.stdout, re.MULTILINE)
    assert answers == ["it is blue", "it is white", "it is red"], done.stderr


@pytest.mark.skipif(
    not (NODE_LLAMA_CPP and shutil.which("npx")), reason="no npx, or NODE_LLAMA_CPP is not set"
)
def test_node_llama_cpp_talks_as_minitx_does(home, run_line):
    pytest.importorskip("gguf")
    run_line(TRAIN, "runs/talk")
    run_line(TALK.split(" && ")[0], "talk.gguf")
    program, name, *arguments, model = shlex.split(TALK_IN_NODE)
    done = subprocess.run(
        [program, "--offline", name, *arguments, "--prompt", QUESTIONS[0], home / model],
        cwd=NODE_LLAMA_CPP, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert "AI: it is blue\n" in done.stdout, done.stderr


def test_a_model_of_the_hub_is_tuned_with_lora(home, run_line):
    run_line(TUNE, "runs/tuned")
    assert (home / "runs/tuned/adapter").is_dir()
    before, after = (load(home / name).model.state_dict() for name in ("llama", "runs/tuned"))
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_lm_eval_scores_it(home, run_line, minitx):
    pytest.importorskip("lm_eval")
    run_line(TUNE, "runs/tuned")
    task = next(block for block in indented("lm-evaluation-harness") if block.startswith("task:"))
    (home / "holdout.yaml").write_text(task.split("\n\n")[0])
    theirs = scores(home, SCORE, "holdout")["bits_per_byte,none"]
    told = json.loads(minitx("eval", "runs/tuned", "--holdout", "--quick", "--json").out)
    ours = told["reports"][0]["plain"]["bits_per_byte"]
    assert theirs == pytest.approx(ours, abs=0.05)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A directory with a run of each architecture."""
    place = tmp_path_factory.mktemp("tools")
    text = f"{PROMPT}.\n{VERSES}" * 9 + "".join(topics.topics.values())[:200_000]
    (place / "corpus.txt").write_text(text, encoding="utf-8")
    for name, architecture in (("corpus-001", "qwen3"), ("gpt2", "gpt2")):
        request = TrainRequest(
            data={"corpus": (str(place / "corpus.txt"),)},
            model={"n_layers": 2, "n_heads": 2, "d_model": 16, "context_length": 32,
                   "architecture": architecture},
            train={**TINY_TRAIN, "steps": 60}, out=place / "runs" / name,
        )  # fmt: skip
        train(request, [])
    return place


@pytest.fixture(params=["corpus-001", "gpt2"])
def model(request, place, monkeypatch):
    monkeypatch.chdir(place)
    return load(place / "runs" / request.param)


def ids_of(model):
    return torch.from_numpy(model.tokenizer.encode(PROMPT)).long()[None]


def test_every_tool_of_the_table_has_a_section():
    text = PAGE.read_text(encoding="utf-8")
    rows = re.findall(r"^\| \[[^\]]+\]\(#([\w-]+)\)", text, re.MULTILINE)
    sections = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert len(rows) == 11
    anchors = {re.sub(r"[^\w -]", "", name.lower()).replace(" ", "-") for name in sections}
    assert set(rows) == anchors


def test_trl(model, tmp_path, monkeypatch):
    pytest.importorskip("trl")
    monkeypatch.chdir(tmp_path)
    names = shown("trl", str(model.directory))
    losses = [row["loss"] for row in names["trainer"].state.log_history if "loss" in row]
    assert len(losses) == 10
    assert losses[-1] < losses[0]
    theirs = names["trainer"].model.eval().cpu()
    ours = load(tmp_path / "by_trl")
    with torch.no_grad():
        wanted = theirs(ids_of(ours)).logits
        torch.testing.assert_close(ours.model(ids_of(ours)), wanted, atol=1e-4, rtol=1e-4)


def lm_eval(place, task, model_args):
    *_, command = (block for block in indented("lm-evaluation-harness") if "lm_eval run" in block)
    command = command[command.index("lm_eval") :].replace("DIRECTORY", model_args)
    return scores(place, command.replace("--tasks holdout", f"--tasks {task}"), task)


def scores(place, command, task):
    """What a command of lm_eval says of a task."""
    out = place / "scores"
    done = subprocess.run(
        [sys.executable, "-m", *shlex.split(command), "--output_path", out],
        cwd=place, capture_output=True, text=True, timeout=250, env={
            **os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(place / "hf"),
        },
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    newest = max(out.rglob("results*.json"), key=lambda path: path.stat().st_mtime)
    return json.loads(newest.read_text())["results"][task]


def test_lm_evaluation_harness_says_the_bits_per_byte_of_eval(model, place, minitx):
    pytest.importorskip("lm_eval")
    task = next(block for block in indented("lm-evaluation-harness") if block.startswith("task:"))
    task = task.split("\n\n")[0].replace("runs/tuned/data/holdout.txt", "rest.txt")
    (place / "holdout.yaml").write_text(task)
    text = (model.run / "data/holdout.txt").read_text(encoding="utf-8")
    (place / "rest.txt").write_text(text[1:], encoding="utf-8")
    (first,) = model.tokenizer.encode(text[0])  # of characters
    model_args = f"{model.directory},prefix_token_id={first}"
    theirs = lm_eval(place, "holdout", model_args)["bits_per_byte,none"]
    told = json.loads(minitx("eval", model.run, "--holdout", "--quick", "--json").out)
    ours = told["reports"][0]["plain"]["bits_per_byte"]
    assert theirs == pytest.approx(ours, abs=1e-4)


def test_lm_evaluation_harness_runs_a_task_of_choices(model, place):
    pytest.importorskip("lm_eval")
    rows = [{"before": "one green bottle should accidentally ", "after": ["fall", "zqxj"]}] * 4
    (place / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (place / "fall.yaml").write_text(
        "task: fall\ndataset_path: json\ndataset_kwargs: {data_files: {test: rows.jsonl}}\n"
        "test_split: test\noutput_type: multiple_choice\ndoc_to_text: '{{before}}'\n"
        "doc_to_choice: '{{after}}'\ndoc_to_target: 0\ntarget_delimiter: ''\n"
        "metric_list:\n  - metric: acc\n"
    )
    assert lm_eval(place, "fall", str(model.directory))["acc,none"] == 1.0


def test_transformer_lens(model):
    pytest.importorskip("transformer_lens.model_bridge")
    names = shown("TransformerLens", str(model.directory))
    maps = traced(model.model, ids_of(model).numpy()).attention
    theirs = names["cache"]["blocks.0.attn.hook_pattern"][0]
    torch.testing.assert_close(maps[0][0], theirs.detach(), atol=1e-4, rtol=1e-4)


def test_nnsight(model):
    pytest.importorskip("nnsight")
    names = shown("nnsight", str(model.directory))
    trace = traced(model.model, ids_of(model).numpy())
    torch.testing.assert_close(
        trace.residual[1], names["after_first_block"].detach(), atol=1e-4, rtol=1e-4
    )


def test_bertviz(model):
    pytest.importorskip("bertviz")
    names = shown("BertViz", str(model.directory))
    maps = traced(model.model, ids_of(model).numpy()).attention
    for ours, theirs in zip(maps, names["attention"], strict=True):
        torch.testing.assert_close(ours, theirs.detach(), atol=1e-4, rtol=1e-4)
    assert "<script" in names["page"].data
