import json
import shutil
import time

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from minitx.checkpoint import load_model, save_model
from minitx.checkpoint.rundir import resolve_checkpoint
from minitx.config import ModelConfig, SamplingConfig
from minitx.errors import BadInputError, DamagedFileError
from minitx.generation import generate
from minitx.model import Transformer
from minitx.tokenizer import train_tokenizer

TEXT = (
    "the cat sat on the mat, and the dog sat on the log.\n  'So!' \u00e9t\u00e9 \U0001f600\n" * 20
)
PROMPTS = ["the cat", "the\n  'So!'", "sat on  the log.\n\n"]


@pytest.fixture(params=["qwen3", "gpt2"])
def directory(request, tmp_path):
    """A model directory with random weights, large enough to have opinions."""
    tokenizer = train_tokenizer(TEXT, "bpe" if request.param == "gpt2" else "char", 300)
    config = ModelConfig(
        architecture=request.param, vocab_size=tokenizer.vocab_size, context_length=64, n_layers=2,
        n_heads=4, n_kv_heads=4 if request.param == "gpt2" else 2, d_model=24, d_ff=40, head_dim=6,
        tie_embeddings=request.param == "gpt2", dropout=0.1,
    )  # fmt: skip
    torch.manual_seed(0)
    model = Transformer(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    save_model(tmp_path / "model", model, tokenizer)
    return tmp_path / "model"


def assert_transformers_agree(directory, prompts):
    ours = load_model(directory)
    theirs = AutoModelForCausalLM.from_pretrained(directory)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    for prompt in prompts:
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        assert ids[0].tolist() == ours.tokenizer.encode(prompt).tolist()
        torch.testing.assert_close(
            ours.model(ids), theirs(ids).logits, atol=1e-4, rtol=1e-4, check_dtype=False
        )
        length = ours.model.config.context_length - ids.size(1)
        greedy = theirs.generate(ids, max_new_tokens=length, do_sample=False)
        mine = generate(
            ours.model,
            ours.tokenizer,
            [prompt],
            SamplingConfig(temperature=0, max_new_tokens=length),
        )[0]
        assert mine.ids == greedy[0, ids.size(1) :].tolist()
        assert tokenizer.decode(greedy[0]) == prompt + mine.text


def test_transformers_opens_it_as_it_stands(directory):
    assert_transformers_agree(directory, PROMPTS)


def test_transformers_opens_a_checkpoint_of_a_run(tiny_run, tiny_gpt2_run):
    for run in (tiny_run, tiny_gpt2_run):
        assert_transformers_agree(resolve_checkpoint(run), ["1 green", "9 green\nbottles"])


def test_comes_back_to_the_bit(directory, tmp_path):
    loaded = load_model(directory)
    save_model(tmp_path / "again", loaded.model, loaded.tokenizer)
    for name in ("config.json", "model.safetensors", "tokenizer.json", "generation_config.json"):
        assert (tmp_path / "again" / name).read_bytes() == (directory / name).read_bytes()
    assert loaded.model.config.dropout == 0.1
    assert not loaded.model.training


def test_tied_matrices_stay_one(directory):
    model = load_model(directory).model
    assert (model.head.weight is model.embedding.weight) == model.config.tie_embeddings


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_formats_are_read(directory, dtype):
    path = directory / "model.safetensors"
    save_file({k: v.to(dtype) for k, v in load_file(path).items()}, path)
    assert load_model(directory).model.embedding.weight.dtype == torch.float32
    assert (
        load_model(directory, dtype=torch.bfloat16).model.embedding.weight.dtype == torch.bfloat16
    )


def test_directory_of_transformers_own_making_is_read(directory, tmp_path):
    theirs = AutoModelForCausalLM.from_pretrained(directory)
    theirs.save_pretrained(tmp_path / "theirs")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(directory / name, tmp_path / "theirs")
    config = json.loads((tmp_path / "theirs/config.json").read_text())
    config.pop("minitx", None)
    (tmp_path / "theirs/config.json").write_text(json.dumps(config))
    ids = torch.arange(10)[None]
    torch.testing.assert_close(
        load_model(tmp_path / "theirs").model(ids), load_model(directory).model(ids)
    )


def test_other_tokenizer_is_refused(directory):
    train_tokenizer("completely different", "char", 0).save(directory)
    with pytest.raises(DamagedFileError, match="not the tokenizer that this model was trained"):
        load_model(directory)


def test_tokenizer_with_more_ids_than_the_model_is_refused(directory):
    config = json.loads((directory / "config.json").read_text())
    config.pop("minitx")
    (directory / "config.json").write_text(json.dumps(config))
    train_tokenizer("".join(map(chr, range(200, 900))), "char", 0).save(directory)
    with pytest.raises(DamagedFileError, match="ids, and the model knows"):
        load_model(directory)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_missing_file_is_named(directory, name):
    (directory / name).unlink()
    with pytest.raises(BadInputError, match=f"has no {name}"):
        load_model(directory)


def edit(directory, **values):
    path = directory / "config.json"
    config = {**json.loads(path.read_text()), **values}
    path.write_text(json.dumps({k: v for k, v in config.items() if v != "REMOVED"}))


def key(directory, qwen3, gpt2):
    return qwen3 if '"qwen3"' in (directory / "config.json").read_text() else gpt2


@pytest.mark.parametrize(
    "value", [10**12, -1, 0, 1.5, "64", None, True, [64], {"a": 1}, 26, float("nan")]
)
def test_impossible_width_is_refused_at_once(directory, value):
    edit(directory, **{key(directory, "hidden_size", "n_embd"): value})
    began = time.process_time()
    with pytest.raises((DamagedFileError, BadInputError)) as caught:
        load_model(directory)
    assert time.process_time() - began < 1
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("keys", [("num_hidden_layers", "n_layer"), ("vocab_size", "vocab_size")])
def test_missing_or_other_sizes_are_refused(directory, keys):
    for value in ("REMOVED", 999):
        edit(directory, **{key(directory, *keys): value})
        with pytest.raises(DamagedFileError):
            load_model(directory)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"model_type": "bert"}, "type 'bert'"),
        ({"minitx": {"format": 99}}, "format 99"),
        ({"minitx": 3}, "minitx is not an object"),
        ({"hidden_act": "relu", "activation_function": "relu"}, "relu"),
    ],
)
def test_models_of_another_kind_are_refused(directory, values, told):
    edit(directory, **values)
    with pytest.raises((BadInputError, DamagedFileError), match=told):
        load_model(directory)


def test_scaled_rotary_embeddings_are_refused(directory):
    edit(directory, model_type="qwen3", rope_parameters={"rope_type": "yarn", "factor": 4})
    with pytest.raises(BadInputError, match="rotary positions|n_positions"):
        load_model(directory)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 5000, b" " * (2 << 20)])
def test_unreadable_config_is_refused(directory, content):
    (directory / "config.json").write_bytes(content)
    with pytest.raises(DamagedFileError, match=r"config\.json can't be used"):
        load_model(directory)


@pytest.mark.parametrize("damage", ["empty", "short", "header", "huge header", "missing", "shape"])
def test_damaged_weights_are_refused_at_once(directory, damage):
    path = directory / "model.safetensors"
    content = path.read_bytes()
    if damage == "empty":
        content = b""
    elif damage == "short":
        content = content[: len(content) // 2]
    elif damage == "header":
        content = content[:20] + b"\xff" * 30 + content[50:]
    elif damage == "huge header":
        content = (2**62).to_bytes(8, "little") + content[8:]
    path.write_bytes(content)
    if damage in ("missing", "shape"):
        path.write_bytes(content)
        tensors = load_file(path)
        name = sorted(tensors)[0]
        if damage == "missing":
            del tensors[name]
        else:
            tensors[name] = torch.zeros(3, 3)
        save_file(tensors, path)
    began = time.process_time()
    with pytest.raises(DamagedFileError, match=r"model\.safetensors"):
        load_model(directory)
    assert time.process_time() - began < 1


def test_integers_are_no_weights(directory):
    path = directory / "model.safetensors"
    save_file({k: v.to(torch.int64) for k, v in load_file(path).items()}, path)
    with pytest.raises(DamagedFileError, match="has type I64"):
        load_model(directory)


def test_unwritable_directory_is_bad_input(tmp_path, directory):
    loaded = load_model(directory)
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInputError, match="can't be written"):
        save_model(tmp_path / "file" / "x", loaded.model, loaded.tokenizer)
