"""`import minitx`: what a script needs, in the words of the command line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import minitx
from minitx.config import SamplingConfig
from minitx.public import SamplingOptions

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def model(tiny_run):
    return minitx.load(tiny_run, device="cpu")


def test_importing_it_imports_nothing_heavy():
    program = (
        "import sys, minitx\n"
        "assert 'train' in dir(minitx) and minitx.__all__ and minitx.BadInputError\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules}"
        " & {'torch', 'numpy', 'rich', 'safetensors', 'tokenizers', 'typer'}))\n"
        "print(minitx.load.__module__, 'torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "[]\nminitx.public True\n", done.stderr


def test_all_names_are_there_and_documented():
    for name in minitx.__all__:
        assert getattr(minitx, name).__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = minitx.trian


def test_editors_and_type_checkers_see_it():
    command = [sys.executable, "-m", "mypy", "--config-file", "pyproject.toml"]
    usage = Path(__file__).with_name("public_usage.py")
    done = subprocess.run(
        [*command, str(usage)], cwd=ROOT, env={**os.environ, "MYPYPATH": "src"},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_run_from_training_to_text(verses, inside):
    done = minitx.train(verses, steps=6, layers=1, d_model=16, heads=2, context=32, threads=1)
    assert done.run == Path("runs/verses-001")
    assert done.end.reason == "finished"
    again = minitx.resume("verses-001", steps=8)
    assert (again.run, again.end.step) == (done.run, 8)
    loaded = minitx.load()
    assert loaded.run.resolve() == done.run.resolve()
    assert minitx.load("verses-001", checkpoint="last").step == 8
    assert loaded.model.config.n_layers == 1
    assert len(loaded.generate("1 green", max_new_tokens=5, seed=3)) >= 1
    report = loaded.evaluate(quick=True)
    assert 0 < report.plain.loss < 6


def test_progress_is_off_and_observers_are_called(verses, inside, capfd):
    class Seen:
        def __init__(self):
            self.events = []

        def observe(self, event):
            self.events.append(type(event).__name__)

        def close(self):
            pass

    seen = Seen()
    shape = {"layers": 1, "d_model": 16, "heads": 2, "context": 32, "threads": 1}
    minitx.train(verses, steps=2, out="run", observers=[seen], **shape)
    assert "RunEnd" in seen.events
    out, err = capfd.readouterr()
    assert out == ""
    assert all(line.startswith("warning: ") for line in err.splitlines())
    minitx.resume("run", steps=3, progress=True)
    assert "reading the checkpoint" in capfd.readouterr().out


def test_text_is_that_of_the_command_line(model, minitx, tiny_run):
    options = {"max_new_tokens": 20, "temperature": 0.9, "top_k": 12, "seed": 5}
    text = model.generate("1 green", **options)
    assert "".join(model.stream("1 green", **options)) == text
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    shown = minitx("generate", tiny_run, "--prompt", "1 green", "--device", "cpu", *flags).out
    assert shown == f"1 green{text}\n"
    stopped = model.generate("1 green", stop=text[3:5], **options)
    assert stopped == text[: text.index(text[3:5])]


def test_logits_are_the_plain_models(model):
    text = "1 green bottle"
    ids = torch.from_numpy(model.tokenizer.encode(text)).long()
    logits = model.logits(text)
    assert logits.shape == (len(ids), model.model.config.vocab_size)
    assert not logits.requires_grad
    with torch.no_grad():
        torch.testing.assert_close(logits, model.model(ids[None])[0])


def test_attention_and_studies_show_themselves(model):
    maps = model.attention("1 green")
    assert maps.weights.shape[2] == len(model.tokenizer.encode("1 green"))
    assert "svg" in maps._repr_html_() or "<pre" in maps._repr_html_()
    assert model.study("1 green").maps.weights.shape == maps.weights.shape
    assert model.study().prompt_from == "the beginning of the holdout"


def test_what_is_measured_is_the_model_in_memory(tiny_run):
    loaded = minitx.load(tiny_run)
    before = loaded.evaluate(quick=True).plain.loss
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            parameter.zero_()
    assert loaded.evaluate(quick=True).plain.loss > before


def test_a_text_file_is_measured_too(model, verses, tmp_path):
    report = model.evaluate(verses, quick=True, progress=True)
    assert report.text.name == verses.name
    assert report.plain.tokens_scored == report.text.tokens - 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model: model.generate("1", temperatur=1), "Did you mean temperature"),
        (lambda model: model.generate("1", num_samples=2), "no option num_samples"),
        (lambda model: model.generate("1", temperature=-1), "temperature"),
        (lambda model: model.stream(""), "prompt"),
        (lambda model: model.logits("1 green" * 999), "context"),
        (lambda model: model.attention(""), "empty"),
        (lambda model: model.evaluate("gone.txt"), "gone.txt"),
        (lambda model: model.evaluate(context=10**6), "context"),
        (lambda model: minitx.load("nowhere"), "nowhere"),
        (lambda model: minitx.train("corpus.txt", laiers=2), "Did you mean layers"),
        (lambda model: minitx.resume(model.run, layers=2), "^layers can't be changed"),
    ],
)
def test_what_can_not_be_done_is_an_exception(model, call, message):
    with pytest.raises(minitx.BadInputError, match=message):
        call(model)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model: minitx.train("a.txt", steps="x"), "steps is 'x', not a whole number"),
        (lambda model: minitx.train("a.txt", layers="x"), "options: layers is 'x'"),
        (lambda model: minitx.train(5), "corpus is 5, not a text"),
        (lambda model: minitx.train("a.txt", config=5), "config is 5, not a path"),
        (lambda model: minitx.train("a.txt", out=5), "out is 5, not a path"),
        (lambda model: minitx.train("a.txt", tokenizer=5), "tokenizer is 5, not a path"),
        (lambda model: minitx.train("a.txt", loggers="tb"), "loggers is 'tb', not a list"),
        (lambda model: minitx.train("a.txt", loggers=[5]), "logger is 5. Choose one of"),
        (lambda model: minitx.train("a.txt", observers=5), "observers is 5"),
        (lambda model: minitx.train("a.txt", observers=["x"]), "observers is .'x'."),
        (lambda model: minitx.resume(3), "run is 3, not a path"),
        (lambda model: minitx.resume(model.run, steps=2.5), "steps is 2.5, not a whole number"),
        (lambda model: minitx.load(3), "path is 3, not a path"),
        (lambda model: minitx.load(model.run, device=3), "device is 3"),
        (lambda model: minitx.load(model.run, quantize=8), "quantize is 8"),
        (lambda model: model.generate(5), "prompt is 5, not a text"),
        (lambda model: model.generate(["1"]), "prompt is .'1'., not a text"),
        (lambda model: model.generate("1", temperature="hot"), "temperature is 'hot', not a num"),
        (lambda model: model.generate("1", logit_bias={"a": 1}), "logit_bias is .'a': 1."),
        (lambda model: model.generate("1", logit_bias={1: "a"}), "logit_bias is .1: 'a'."),
        (lambda model: model.generate("1", stop=5), "stop is 5, not a list"),
        (lambda model: model.stream(5), "prompt is 5"),
        (lambda model: model.evaluate(5), "text is 5, not a path"),
        (lambda model: model.evaluate(context="x"), "context is 'x', not a whole number"),
        (lambda model: model.attention(5), "text is 5"),
        (lambda model: model.logits(b"1"), "text is b'1'"),
        (lambda model: model.study(5), "text is 5"),
    ],
)
def test_a_wrong_type_is_one_clear_error(model, verses, inside, call, message):
    (inside / "a.txt").write_text(verses.read_text())
    with pytest.raises(minitx.BadInputError, match=message):
        call(model)
    assert not list(inside.glob("runs/*"))


SHAPE = {"layers": 1, "d_model": 16, "heads": 2, "context": 16, "batch_size": 2, "threads": 1}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: minitx.resume("a-001"), "Lengthen it with steps 4, or use it with minitx gen"),
        (lambda: minitx.resume("a-001", layers=2), "layers can't be changed"),
        (lambda: minitx.train("a.txt", **SHAPE | {"layers": 0}), "^layers is 0, outside"),
        (lambda: minitx.train("a.txt", **SHAPE | {"heads": 3}), "Use d_model 18$"),
        (
            lambda: minitx.train("a.txt", **SHAPE, architecture="gpt2", kv_heads=1),
            "Leave out kv_heads, or use architecture qwen3",
        ),
        (lambda: minitx.load("a-001").generate("1", top_k=0), "^top_k is 0, outside 1 to"),
        (lambda: minitx.load("a-001").generate(""), "Give one with prompt"),
    ],
)
def test_an_error_names_what_the_script_wrote(verses, inside, call, message):
    (inside / "a.txt").write_text(verses.read_text())
    if not (inside / "runs/a-001").exists():
        minitx.train("a.txt", steps=2, **SHAPE)
    with pytest.raises(minitx.BadInputError, match=message) as caught:
        call()
    assert "--" not in str(caught.value)


def test_a_command_in_an_error_stays_a_command():
    from minitx.public import _for_scripts

    def refuse():
        raise minitx.BadInputError("no", "Run minitx resume a --steps 9, or give --kv-heads 9")

    with pytest.raises(minitx.BadInputError, match="resume a --steps 9, or give kv_heads 9"):
        _for_scripts(refuse)()


def test_the_typed_options_are_those_of_the_command_line():
    from minitx.config.options import options_of

    words = {option.word for option in options_of(SamplingConfig)} - {None, "num_samples"}
    assert set(SamplingOptions.__annotations__) == words
