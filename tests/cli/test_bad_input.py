"""Bad input: one line that names the thing and the fix, exit code 2, nothing left behind."""

import json
import os
import re
import shutil

import pytest
from own_models import MODEL

SMALL = ["--layers", 1, "--heads", 2, "--d-model", 16, "--context", 16, "--batch-size", 2,
         "--steps", 4, "--dtype", "float32", "--threads", 1]  # fmt: skip
MODEL_COMMANDS = [["generate", "--prompt", "1 green"], ["eval"], ["attn"]]


def assert_refused(result, *words):
    assert result.code == 2, result
    assert "Traceback" not in result.err
    error = [line for line in result.err.splitlines() if line.strip()]
    assert len(error) == 1, result.err
    assert error[0].startswith("error: ")
    for word in words:
        assert word.lower() in result.err.lower(), result.err
    return result


@pytest.fixture(autouse=True)
def _inside(inside):
    pass


@pytest.fixture
def text(inside):
    def write(content, name="text.txt"):
        path = inside / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


CORPORA = [
    ("missing.txt", None, ["missing.txt does not exist", "name a text file"]),
    ("empty.txt", b"", ["empty.txt has no text"]),
    ("blank.txt", b"  \n\n ", ["blank.txt has no text"]),
    ("short.txt", b"a few words only", ["tokens, and one context needs 17", "--context"]),
    ("binary.bin", b"\x7fELF\x00\x01" * 50, ["binary.bin is binary", "byte 4 is zero"]),
    ("latin.txt", b"abc caf\xe9 " * 40, ["latin.txt is not utf-8", "byte 7 is 0xe9", "iconv"]),
]


@pytest.mark.parametrize(("name", "content", "words"), CORPORA, ids=[c[0] for c in CORPORA])
def test_train_refuses_unusable_corpora(minitx, text, inside, name, content, words):
    path = inside / name if content is None else text(content, name)
    assert_refused(minitx("train", path, *SMALL), *words)
    runs = inside / "runs"
    assert not runs.exists() or not os.listdir(runs)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [case for case in CORPORA if case[0] != "short.txt"],
    ids=[c[0] for c in CORPORA if c[0] != "short.txt"],
)
def test_tokenize_and_eval_refuse_them_too(minitx, text, inside, tiny_run, name, content, words):
    path = inside / name if content is None else text(content, name)
    assert_refused(minitx("tokenize", path, "--kind", "char"), *words[:1])
    if content is not None:
        assert_refused(minitx("eval", tiny_run, path), *words[:1])
    else:
        assert_refused(minitx("eval", tiny_run, path), "missing.txt does not exist")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("no*.txt", ["no file matches no*.txt"]),
        ("folder", ["directory folder has no text files"]),
        ("-", ["standard input has no text"]),
    ],
)
def test_other_sources(minitx, inside, source, words):
    (inside / "folder").mkdir()
    assert_refused(minitx("train", source, *SMALL, stdin=""), *words)


def test_holdout_file_is_checked_too(minitx, verses):
    result = minitx("train", verses, "--holdout", "gone.txt", *SMALL)
    assert_refused(result, "gone.txt does not exist")


FLAGS = [
    (["--kind", "wordpiece"], ["kind is 'wordpiece'", "bpe, char, word"]),
    (["--kind", "bpe", "--vocab-size", 100], ["100", "vocab"]),
    (["--device", "tpu"], ["device is 'tpu'", "auto, cpu, cuda, mps"]),
    (["--dtype", "float64"], ["dtype is 'float64'", "bfloat16"]),
    (["--optimizer", "sgd"], ["optimizer is 'sgd'", "adamw, muon"]),
    (["--decay", "step"], ["decay is 'step'"]),
    (["--engine", "flash"], ["engine is 'flash'"]),
    (["--architecture", "bert"], ["architecture is 'bert'", "qwen3, gpt2, llama"]),
    (["--heads", 5], ["n_heads 5 does not divide d_model 16", "--d-model 20"]),
    (["--heads", 0], ["n_heads is 0"]),
    (["--kv-heads", 3], ["n_kv_heads is 3"]),
    (["--layers", 0], ["n_layers is 0"]),
    (["--d-model", 10**12], ["d_model is 1000000000000"]),
    (["--dropout", 1.5], ["dropout is 1.5"]),
    (["--steps", 0], ["steps is 0"]),
    (["--steps", "many"], ["invalid value", "--steps"]),
    (["--batch-size", -1], ["batch_size is -1"]),
    (["--learning-rate", "nan"], ["learning_rate is nan"]),
    (["--holdout-fraction", 1.5], ["holdout_fraction is 1.5"]),
    (["--budget", "3"], ["--budget is '3', which has no unit", "Use --budget 3s or 3m or 3h"]),
    (["--early-stopping", 2, "--holdout-fraction", 0], ["holdout", "--early-stopping 0"]),
    (["--budget", "soon"], ["--budget is 'soon'", "90s, 3m or 1h30m"]),
    (["--seed", -1], ["seed is -1"]),
    (["--no-such-flag"], ["no such option"]),
    (["--tokenizer", "nowhere"], ["nowhere"]),
    (["--config", "nowhere.toml"], ["nowhere.toml can't be read"]),
]


@pytest.mark.parametrize(("flags", "words"), FLAGS, ids=[" ".join(map(str, f)) for f, _ in FLAGS])
def test_train_names_the_flag(minitx, inside, verses, flags, words):
    assert_refused(minitx("train", verses, *SMALL, *flags), *words)
    runs = inside / "runs"
    assert not runs.exists() or not os.listdir(runs)


FROM = [
    (["nowhere"], ["nowhere does not exist", "Name a run or checkpoint directory"]),
    (["photos"], ["photos is not a run"]),
    (["begun"], ["run begun has no checkpoint yet"]),
    (["verses.txt"], ["verses.txt is a file"]),
    (["RUN", "--layers", 9], ["n_layers is 9, and that of the model to begin with is", "Leave it"]),
    (["RUN", "--architecture", "gpt2"], ["architecture is 'gpt2'", "Leave it out"]),
    (["RUN", "--context", 9999], ["knows 32 positions", "--context 32 or less"]),
    (["RUN", "--kind", "bpe"], ["has a tokenizer", "Leave out --tokenizer, --kind"]),
    (["RUN", "--vocab-size", 999], ["has a tokenizer", "--vocab-size"]),
    (["RUN", "--tokenizer", "RUN"], ["has a tokenizer", "Leave out --tokenizer"]),
    (["RUN", "--model", "own.py"], ["--from and --model each name a model", "Give one"]),
    (["RUN", "--lora", -1], ["lora is -1"]),
    (["RUN", "--freeze", "no.such.part"], ["no.such.part"]),
]


@pytest.mark.parametrize(("flags", "words"), FROM, ids=[" ".join(map(str, f)) for f, _ in FROM])
def test_a_model_to_begin_with_that_can_t_be(minitx, inside, verses, tiny_run, flags, words):
    shutil.copy(verses, inside / "verses.txt")
    (inside / "own.py").write_text(MODEL)
    (inside / "photos").mkdir()
    shutil.copytree(tiny_run, inside / "begun", ignore=shutil.ignore_patterns("step-*", "best"))
    flags = [tiny_run if word == "RUN" else word for word in flags]
    assert_refused(minitx("train", "verses.txt", "--steps", 4, "--from", *flags), *words)
    assert not (inside / "runs").exists() or not os.listdir(inside / "runs")


def test_an_update_of_no_model(minitx, inside, verses):
    assert_refused(minitx("train", verses, *SMALL, "--lora", 2), "--lora", "Name it with --from")


def test_missing_gpu_is_told_with_a_working_alternative(minitx, verses):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    assert_refused(minitx("train", verses, *SMALL, "--device", "cuda"), "cuda is not available",
                   "--device cpu")  # fmt: skip


@pytest.mark.parametrize("command", [*MODEL_COMMANDS, ["resume"]])
def test_no_run_yet(minitx, command):
    assert_refused(minitx(*command), "no run yet", "minitx train")


@pytest.mark.parametrize("command", [*MODEL_COMMANDS, ["resume"]])
def test_directory_of_another_kind(minitx, inside, command):
    (inside / "photos").mkdir()
    (inside / "photos/a.txt").write_text("x")
    assert_refused(minitx(command[0], "photos", *command[1:]), "photos is not a run")


@pytest.mark.parametrize("command", [["generate", "--prompt", "1 green"], ["attn"], ["resume"]])
def test_directory_that_is_not_there(minitx, command):
    assert_refused(minitx(command[0], "gone", *command[1:]), "gone does not exist")


def test_model_of_another_kind(minitx, inside, tiny_run):
    from minitx.checkpoint.rundir import resolve_checkpoint

    copy = inside / "other"
    shutil.copytree(resolve_checkpoint(tiny_run), copy)
    (copy / "manifest.json").unlink()
    config = (copy / "config.json").read_text()
    (copy / "config.json").write_text(config.replace('"qwen3"', '"bert"'))
    assert_refused(minitx("generate", copy, "--prompt", "1"), "type 'bert'", "qwen3", "gpt2")


GENERATE = [
    (["--prompt", "1", "--top-k", 0], ["top_k is 0", "1 to"]),
    (["--prompt", "1", "--logit-bias", "3:nan"], ["logit_bias is", "nan"]),
    (["--prompt", "1", "--logit-bias", "3:1e39"], ["logit_bias is", "1e+39"]),
    (["--prompt", "1", "--temperature", -1], ["temperature is -1"]),
    (["--prompt", "1", "--top-p", 0], ["top_p is 0"]),
    (["--prompt", "1", "--min-p", 2], ["min_p is 2"]),
    (["--prompt", "1", "--max-new-tokens", 0], ["max_new_tokens is 0"]),
    (["--prompt", "1", "--num-samples", 0], ["num_samples is 0"]),
    (["--prompt", "1", "--logit-bias", "x"], ["--logit-bias is 'x'"]),
    (["--prompt", "1", "--logit-bias", "999:1"], ["token 999"]),
    (["--prompt", "1", "--beams", 2, "--max-new-tokens", 99], ["exceeds the context"]),
    (["--prompt", "1", "--beams", 5000, "--max-new-tokens", 2], ["beams is 5000"]),
    (["--prompt", "1", "--require", "green", "--max-new-tokens", 2], ["required strings"]),
    (["--prompt", "1", "--checkpoint", "first"], ["--checkpoint is 'first'"]),
    (["--prompt", "1", "--dtype", "float16"], ["dtype is 'float16'"]),
    (["--prompt", "1", "--interactive"], ["give one of them"]),
    (["--prompt", ""], ["the prompt is empty"]),
    (["--prompt", "green bottles hanging on the wall, and so on"], ["44 tokens", "context", "32"]),
    (["--prompt", "déjà"], ["'é' (u+00e9)", "never saw", "--kind bpe"]),
    (["--prompt-file", "gone.jsonl"], ["gone.jsonl can't be read"]),
]


@pytest.mark.parametrize(
    ("flags", "words"), GENERATE, ids=[" ".join(map(str, f[-2:])) for f, _ in GENERATE]
)
def test_generate_names_the_setting(minitx, tiny_run, flags, words):
    result = assert_refused(minitx("generate", tiny_run, *flags), *words)
    assert result.out == ""


def test_a_prompt_file_without_an_end_is_refused(minitx, tiny_run):
    result = minitx("generate", tiny_run, "--prompt-file", "/dev/zero")
    assert_refused(result, "/dev/zero is a device")


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b'{"prompt": 3}', b"\xff", b"[" * 9999])
def test_prompt_files_are_checked(minitx, text, tiny_run, content):
    path = text(content, "prompts.jsonl")
    assert_refused(minitx("generate", tiny_run, "--prompt-file", path), "prompts.jsonl")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--stride", 0], ["stride is 0"]),
        (["--stride", 99], ["stride is 99"]),
        (["--context", 99], ["context length is 99"]),
        (["--context", 0], ["context length is 0"]),
        (["--max-tokens", -1], ["--max-tokens is -1"]),
        (["--checkpoint", "first"], ["--checkpoint is 'first'"]),
        (["--device", "tpu"], ["--device is 'tpu'"]),
        (["--dtype", "int8"], ["--dtype is 'int8'"]),
    ],
)
def test_eval_names_the_setting(minitx, tiny_run, flags, words):
    assert_refused(minitx("eval", tiny_run, *flags), *words)


def test_eval_of_nothing_known(minitx, text, tiny_run):
    assert_refused(minitx("eval", tiny_run, text("ÄÖÜ")), "nothing that the char tokenizer")


def test_eval_without_a_holdout(minitx, inside, verses):
    assert minitx("train", verses, *SMALL, "--holdout-fraction", 0, "--out", "run").code == 0
    assert_refused(minitx("eval", "run"), "has no holdout")


def test_eval_of_a_checkpoint_outside_a_run(minitx, inside, tiny_run):
    from minitx.checkpoint.rundir import resolve_checkpoint

    shutil.copytree(resolve_checkpoint(tiny_run), inside / "alone")
    assert_refused(minitx("eval", "alone"), "is in no run")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--layer", 9], ["layer 9"]),
        (["--head", 9], ["head 9"]),
        (["--head", "x"], ["--head is 'x'"]),
        (["--prompt", ""], ["empty"]),
        (["--prompt", "green bottles hanging on the wall, and so on"], ["44", "32"]),
        (["--prompt", "déjà"], ["never saw"]),
        (["--checkpoint", "first"], ["--checkpoint is 'first'"]),
        (["--device", "tpu"], ["--device is 'tpu'"]),
        (["--html", "no/such/dir/page.html"], ["can't be written"]),
    ],
)
def test_attn_names_the_setting(minitx, tiny_run, flags, words):
    assert_refused(minitx("attn", tiny_run, *flags), *words)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--steps", 5], ["has done 120 of 5 steps"]),
        ([], ["has done 120 of 120 steps", "--steps 240"]),
        (["--device", "tpu", "--steps", 200], ["device is 'tpu'"]),
    ],
)
def test_resume_names_the_setting(minitx, inside, tiny_run, flags, words):
    shutil.copytree(tiny_run, inside / "copy")
    assert_refused(minitx("resume", "copy", *flags), *words)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--kind", "x"], ["kind is 'x'"]),
        (["--vocab-size", -4], ["vocab_size is -4"]),
        (["--show", -1], ["--show is -1"]),
        (["--tokenizer", "."], ["is not a run"]),
        (["--tokenizer", ".", "--kind", "char"], ["give one or the other"]),
    ],
)
def test_tokenize_names_the_setting(minitx, verses, flags, words):
    assert_refused(minitx("tokenize", verses, *flags), *words)


@pytest.mark.parametrize("ids", ["x", "", "1 2 -3", "99999"])
def test_tokenize_refuses_ids_that_are_none(minitx, tiny_run, ids):
    assert_refused(minitx("tokenize", "--tokenizer", tiny_run, "--decode", ids), "id")


def test_tokenize_refuses_unseen_characters(minitx, tiny_run):
    result = minitx("tokenize", "--tokenizer", tiny_run, "--text", "ÿ")
    assert_refused(result, "'ÿ' (u+00ff)")


@pytest.mark.parametrize("command", ["train", "tokenize"])
def test_unwritable_output(minitx, inside, verses, command):
    (inside / "file").write_text("")
    flags = SMALL if command == "train" else ["--kind", "char"]
    assert_refused(minitx(command, verses, *flags, "--out", "file/run"), "file/run", "can't be")


def test_occupied_output(minitx, inside, verses):
    (inside / "full").mkdir()
    (inside / "full/letter.txt").write_text("dear")
    assert_refused(minitx("train", verses, *SMALL, "--out", "full"), "full is not empty")
    assert (inside / "full/letter.txt").read_text() == "dear"


def test_unknown_command_and_no_command(minitx):
    assert_refused(minitx("trian"), "no such command", "see minitx --help")
    assert "tokenize" in assert_refused(minitx(), "no command was given").out


def test_eval_of_a_text_with_unseen_characters(minitx, text, tiny_run):
    """The default refuses, naming the first; asked to, it scores them and says what that hides."""
    path = text("2 green bottles\nhanging é on à the ü wall.\n" * 9)
    words = ["text.txt has 27 characters", "'é' (u+00e9)", "--unknown replace", "--kind bpe"]
    assert_refused(minitx("eval", tiny_run, path), *words)
    done = minitx("eval", tiny_run, path, "--unknown", "replace", "--quick")
    assert done.code == 0
    assert "stand for text outside the vocabulary" in done.out
    assert_refused(minitx("eval", tiny_run, path, "--unknown", "skip"), "--unknown is 'skip'")


def test_eval_of_a_holdout_with_unseen_characters(minitx, inside, verses):
    """They are counted in the plan and in the figures, and the next step that is printed works."""
    (inside / "new.txt").write_text("3 green bottles ☃ on the wall.\n" * 20)
    trained = minitx("train", verses, *SMALL, "--holdout", "new.txt", "--out", "run")
    assert trained.code == 0
    assert re.search(r"\(20\s[^)]*unknown", trained.out)
    assert "minitx eval run --holdout" in trained.out
    for flags in ([], ["--unknown", "error"], ["--unknown", "replace"]):
        done = minitx("eval", "run", "--holdout", "--quick", *flags)
        assert done.code == 0
        assert re.search(r"unknown tokens +20 ", done.out)
        assert "stand for text outside the vocabulary" in done.out
    (report,) = json.loads(minitx("eval", "run", "--holdout", "--quick", "--json").out)["reports"]
    assert report["text"]["unknown_tokens"] == 20


@pytest.mark.parametrize(
    "command",
    [
        ["tokenize", "poem.txt", "--tokenizer"],
        ["eval"],
        ["resume"],
        ["train"],
        ["train", "poem.txt", "--out"],
    ],
)
def test_a_name_too_long_for_a_file(minitx, text, command):
    text("some words", "poem.txt")
    assert_refused(minitx(*command, "x" * 5000), "x" * 60, "too long")
