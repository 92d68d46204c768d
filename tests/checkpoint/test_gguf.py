"""GGUF files: what is in them, what is refused, and that none is ever half there."""

import dataclasses
import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from foreign_models import foreign_model, foreign_tokenizer, save_foreign
from hypothesis import given, settings
from hypothesis import strategies as st
from random_models import built, model_configs
from small_runs import VERSES

from minitx.checkpoint import load_model, save_model
from minitx.checkpoint.gguf import write_gguf
from minitx.config import ModelConfig
from minitx.errors import BadInputError
from minitx.tokenizer import load_tokenizer, train_tokenizer
from minitx.tokenizer.bpe import (
    EARLIER_PATTERN,
    GPT2_PATTERN,
    QWEN2_PATTERN,
    BytePairTokenizer,
    cut_by,
)
from minitx.tokenizer.llama_cpp import EntryType, llama_vocabulary

gguf = pytest.importorskip("gguf")

TEXT = VERSES + "naïve café — “quoted” 中文 👩‍💻 don't 12345\r\n\r\n\tend"
CHAR = train_tokenizer(TEXT, "char", 0)
BPE = train_tokenizer(TEXT, "bpe", 400)


def cut_another_way(tokenizer, pattern, whole_entries=False):
    definition = json.loads(tokenizer.json_bytes)
    definition["pre_tokenizer"] = json.loads(cut_by(pattern).__getstate__())
    definition["model"]["ignore_merges"] = whole_entries
    return BytePairTokenizer(definition)


def read(path):
    """Keys, and tensors in float32."""
    reader = gguf.GGUFReader(path)
    fields = {key: field.contents() for key, field in reader.fields.items()}
    tensors = {t.name: gguf.dequantize(t.data, t.tensor_type) for t in reader.tensors}
    return fields, tensors


def as_llama_cpp_does(vocabulary, word):
    """The ids of one piece: the first merge that fits, again and again; what is then no entry is
    looked up byte by byte, and left out if it is none. In plain loops."""
    ranks = {merge: rank for rank, merge in enumerate(vocabulary.merges)}
    ids = {entry: i for i, entry in enumerate(vocabulary.entries)}
    symbols = list(word)
    while True:
        pairs = [f"{a} {b}" for a, b in zip(symbols, symbols[1:], strict=False)]
        known = [(ranks[pair], i) for i, pair in enumerate(pairs) if pair in ranks]
        if not known:
            break
        at = min(known)[1]
        symbols[at : at + 2] = [symbols[at] + symbols[at + 1]]
    parts = [[s] if s in ids else list(s) for s in symbols]
    return [ids[part] for own in parts for part in own if part in ids]


@given(st.text(alphabet=sorted(set(TEXT))))
@settings(deadline=None, max_examples=200)
def test_characters_merge_from_their_bytes(text):
    vocabulary = llama_vocabulary(CHAR, CHAR.vocab_size, ())
    spelled = cut_by(r"[\s\S]+").pre_tokenize_str(text)
    word = spelled[0][0] if text else ""
    assert as_llama_cpp_does(vocabulary, word) == CHAR.encode(text).tolist()


def test_an_unknown_character_is_left_out():
    vocabulary = llama_vocabulary(CHAR, CHAR.vocab_size, ())
    word = cut_by(r"[\s\S]+").pre_tokenize_str("aЖb")[0][0]
    assert as_llama_cpp_does(vocabulary, word) == CHAR.encode("ab").tolist()


@given(model_configs(8), st.sampled_from(["f32", "f16", "q8_0"]))
@settings(deadline=None, max_examples=30)
def test_every_tensor_is_there(tmp_path_factory, config, weights):
    tokenizer = train_tokenizer("ab", "char", 0)
    config = dataclasses.replace(config, vocab_size=tokenizer.vocab_size + config.vocab_size)
    model = built(config)
    path = tmp_path_factory.mktemp("gguf") / "model.gguf"
    vocabulary = llama_vocabulary(tokenizer, config.vocab_size, ())
    write_gguf(path, model, tokenizer, vocabulary, weights)
    assert [file.name for file in path.parent.iterdir()] == ["model.gguf"]
    fields, tensors = read(path)
    assert fields["general.architecture"] == config.architecture
    assert fields[f"{config.architecture}.block_count"] == config.n_layers
    assert len(fields["tokenizer.ggml.tokens"]) == config.vocab_size
    close = {"f32": 0.0, "f16": 1e-3, "q8_0": 0.02}[weights]

    def compare(name, expected):
        assert tensors[name].shape == tuple(expected.shape)
        np.testing.assert_allclose(tensors.pop(name), expected.detach(), atol=close, rtol=close)

    compare("token_embd.weight", model.embedding.weight)
    for number, block in enumerate(model.blocks):
        prefix, attention = f"blk.{number}", block.attention
        for name, module in {
            "attn_norm": block.attention_norm, "ffn_norm": block.mlp_norm,
            "attn_output": attention.output, "ffn_down": block.mlp.down,
        }.items():  # fmt: skip
            for part, parameter in module.named_parameters():
                compare(f"{prefix}.{name}.{'bias' if part == 'bias' else 'weight'}", parameter)
        if config.architecture == "gpt2":
            for name, module in {"attn_qkv": attention.qkv, "ffn_up": block.mlp.up}.items():
                compare(f"{prefix}.{name}.weight", module.weight)
                compare(f"{prefix}.{name}.bias", module.bias)
        else:
            sizes = [n * config.head_dim for n in (config.n_heads, *[config.n_kv_heads] * 2)]
            for letter, rows in zip("qkv", attention.qkv.weight.split(sizes), strict=True):
                compare(f"{prefix}.attn_{letter}.weight", rows)
            compare(f"{prefix}.attn_q_norm.weight", attention.query_norm.gain)
            compare(f"{prefix}.attn_k_norm.weight", attention.key_norm.gain)
            for name, rows in zip(("gate", "up"), block.mlp.gate_up.weight.chunk(2), strict=True):
                compare(f"{prefix}.ffn_{name}.weight", rows)
    for part, parameter in model.norm.named_parameters():
        compare(f"output_norm.{'bias' if part == 'bias' else 'weight'}", parameter)
    if config.architecture == "gpt2":
        compare("position_embd.weight", model.positions.weight)
    if not config.tie_embeddings:
        compare("output.weight", model.head.weight)
    assert not tensors


def test_special_entries():
    vocabulary = llama_vocabulary(CHAR, CHAR.vocab_size + 2, ())
    kinds = dict(zip(vocabulary.entries, vocabulary.types, strict=True))
    assert kinds["<unk>"] == EntryType.UNKNOWN
    assert kinds["<|endoftext|>"] == EntryType.CONTROL
    assert [kinds[entry] for entry in vocabulary.entries[-2:]] == [EntryType.UNUSED] * 2
    assert vocabulary.entries.count("a") == 1


def test_cuts_that_llama_cpp_knows():
    assert llama_vocabulary(BPE, BPE.vocab_size, ()).cut == "llama-bpe"
    gpt2 = cut_another_way(BPE, GPT2_PATTERN)
    assert llama_vocabulary(gpt2, BPE.vocab_size, ()).cut == "gpt-2"


def test_a_cut_of_earlier_versions_must_make_the_same_ids(monkeypatch):
    monkeypatch.setattr("minitx.tokenizer.bpe.PATTERN", EARLIER_PATTERN)
    earlier = cut_another_way(train_tokenizer("x'ab 1 " * 9, "bpe", 300), EARLIER_PATTERN)
    same = llama_vocabulary(earlier, earlier.vocab_size, ["green bottle", "\n\n", "a 2"])
    assert same.cut == "llama-bpe"
    assert llama_vocabulary(earlier, earlier.vocab_size, ["xy 1"]).cut == "gpt-2"
    # To Llama 3's cut " 1" is two tokens, to GPT-2's "'ab".
    share = r"others of 25\.00% of its text's tokens\. Train again"
    with pytest.raises(BadInputError, match=share):
        llama_vocabulary(earlier, earlier.vocab_size, ["xy 1'ab"] * 2)
    with pytest.raises(BadInputError, match=r"how this tokenizer cuts a text\. Train again"):
        llama_vocabulary(earlier, earlier.vocab_size, ())


def test_words_are_refused():
    tokenizer = train_tokenizer(TEXT, "word", 0)
    with pytest.raises(BadInputError, match="whole words"):
        llama_vocabulary(tokenizer, tokenizer.vocab_size, ())


def small(architecture="qwen3"):
    config = ModelConfig(
        vocab_size=CHAR.vocab_size, context_length=8, n_layers=1, n_heads=2, n_kv_heads=2,
        head_dim=4, d_model=8, d_ff=8, architecture=architecture,
    )  # fmt: skip
    return built(config), llama_vocabulary(CHAR, CHAR.vocab_size, ())


def test_what_does_not_read_back_is_not_written(tmp_path, monkeypatch):
    model, vocabulary = small()
    quantize = gguf.quants.quantize
    monkeypatch.setattr(
        gguf.quants, "quantize", lambda data, kind: quantize(data * (1 + 1e-6), kind)
    )
    with pytest.raises(OSError, match="reads back changed"):
        write_gguf(tmp_path / "a.gguf", model, CHAR, vocabulary, "f32")
    assert not list(tmp_path.iterdir())


def test_a_weight_too_large_is_named(tmp_path):
    model, vocabulary = small("gpt2")
    with torch.no_grad():
        model.blocks[0].mlp.up.weight[1, 2] = 1e5
    with pytest.raises(BadInputError, match=r"mlp\.c_fc\.weight has a weight too large"):
        write_gguf(tmp_path / "a.gguf", model, CHAR, vocabulary, "f16")
    assert not list(tmp_path.iterdir())


def export(minitx, run, *flags):
    return minitx("export", run, *flags)


def test_the_command(minitx, tiny_gpt2_run, inside):
    done = export(minitx, tiny_gpt2_run, "--gguf", "tiny.gguf", "--type", "q8_0")
    assert (done.code, done.out) == (0, "")
    assert "Wrote tiny.gguf\nWrote Modelfile\n" in done.err
    modelfile = (inside / "Modelfile").read_text()
    assert "\nFROM ./tiny.gguf\nPARAMETER num_ctx 32\n" in modelfile
    fields, _ = read(inside / "tiny.gguf")
    assert fields["general.name"] == "tiny"
    # Another beside it: the Modelfile is of the newest.
    assert export(minitx, tiny_gpt2_run, "--gguf", "b.gguf").code == 0
    assert "FROM ./b.gguf" in (inside / "Modelfile").read_text()


def test_a_chat_template_goes_along(minitx, tiny_gpt2_run, inside):
    shutil.copytree(tiny_gpt2_run / "checkpoints/step-000040", "chat")
    Path("chat/manifest.json").unlink()
    Path("chat/chat_template.jinja").write_text("{{ messages }}")
    assert export(minitx, "chat", "--gguf", "a.gguf").code == 0
    fields, _ = read(inside / "a.gguf")
    assert fields["tokenizer.chat_template"] == "{{ messages }}"
    assert "TEMPLATE" not in Path("Modelfile").read_text()


def test_a_tokenizer_of_sentencepiece_is_refused(minitx, inside, capfd):
    tokenizer = foreign_tokenizer("pieces")
    save_foreign(inside / "model", foreign_model("llama", len(tokenizer)), tokenizer)
    capfd.readouterr()
    one_line(export(minitx, "model", "--gguf", "a.gguf"), "of SentencePiece", "convert_hf_to_gguf")
    assert not (inside / "a.gguf").exists()


def one_line(done, *words):
    assert done.code == 2
    assert done.err.count("\n") == 1
    for word in ("error: ", *words):
        assert word in done.err


def test_nothing_is_overwritten(minitx, tiny_run, inside):
    (inside / "a.gguf").write_text("mine")
    one_line(export(minitx, tiny_run, "--gguf", "a.gguf"), "a.gguf exists. Remove it")
    (inside / "Modelfile").write_text("FROM mine")
    one_line(export(minitx, tiny_run, "--gguf", "b.gguf"), "not as minitx export makes it")
    one_line(export(minitx, tiny_run, "--gguf", "Modelfile"), "two files at once")
    one_line(export(minitx, tiny_run, "--gguf", "x", "--onnx", "x"), "two files at once")
    one_line(export(minitx, tiny_run, "--gguf", "no/b.gguf"), "no is not a directory")
    one_line(export(minitx, tiny_run, "--gguf", "a\nb.gguf"), "'a\\nb.gguf' has characters")
    one_line(export(minitx, tiny_run), "nothing to write. Give --gguf FILE")
    one_line(export(minitx, tiny_run, "--gguf", "c.gguf", "--type", "q4"), "q4")
    files = {path.name: path.read_text() for path in inside.iterdir()}
    assert files == {"a.gguf": "mine", "Modelfile": "FROM mine"}


def test_a_full_disk_leaves_nothing(minitx, tiny_run, inside, monkeypatch):
    def full(*args, **kwargs):
        raise OSError("262144 requested and 97280 written")  # as NumPy says it

    monkeypatch.setattr(gguf.GGUFWriter, "write_tensors_to_file", full)
    one_line(export(minitx, tiny_run, "--gguf", "a.gguf"), "a.gguf can't be written", "full")
    assert not list(inside.iterdir())


def test_a_disk_that_is_full_before_the_modelfile_leaves_nothing(
    minitx, tiny_run, inside, monkeypatch
):
    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("minitx.workflows.export.write_atomically", full)
    one_line(export(minitx, tiny_run, "--gguf", "a.gguf"), "a.gguf can't be written", "No space")
    assert not list(inside.iterdir())


def test_without_the_package(minitx, tiny_run, inside, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    one_line(export(minitx, tiny_run, "--gguf", "a.gguf"), 'pip install "minitx[gguf]"')
    assert not list(inside.iterdir())


NODE_LLAMA_CPP = os.environ.get("NODE_LLAMA_CPP", "")
"""A folder in which `npm install node-llama-cpp` was run."""

with_llama_cpp = pytest.mark.skipif(
    not (NODE_LLAMA_CPP and shutil.which("node")), reason="no node, or NODE_LLAMA_CPP is not set"
)


def ask_llama_cpp(path, **question):
    script = Path(__file__).with_name("llama_cpp.mjs")
    done = subprocess.run(
        ["node", script, NODE_LLAMA_CPP, path], input=json.dumps(question), capture_output=True,
        text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    # A probability of 0 has no logarithm that JSON can say.
    rows = [[-np.inf if x is None else x for x in row] for row in answer["logProbabilities"]]
    return answer["ids"], answer["greedy"], torch.tensor(rows)


@with_llama_cpp
@pytest.mark.parametrize("kind", ["bpe", "char"])
@pytest.mark.parametrize("architecture", ["qwen3", "gpt2"])
def test_llama_cpp_says_the_same(tmp_path, architecture, kind):
    from pydoc_data import topics

    from minitx.workflows.train import TrainRequest, train

    text = "".join(topics.topics.values())[:290_000]
    text += (
        "naïve café — “quoted” 中文 👩‍💻 DON'T we'Ll 1234567 8\r\n\r\n \n\tend   x\u0301 हिन्दी\n"
        * 100
    )
    (tmp_path / "corpus.txt").write_text(text, encoding="utf-8", newline="")
    run = train(
        TrainRequest(
            data={"corpus": (str(tmp_path / "corpus.txt"),), "holdout_fraction": 0.0},
            tokenizer={"kind": kind, "vocab_size": 700 if kind == "bpe" else 0},
            model={"architecture": architecture, "n_layers": 2, "n_heads": 2, "d_model": 64,
                   "context_length": 256},
            train={"steps": 40, "threads": 1},
            out=tmp_path / "run",
        ),
        [],
    ).run  # fmt: skip
    from minitx.workflows.load import load

    model = load(run)
    vocabulary = llama_vocabulary(model.tokenizer, model.model.config.vocab_size, ())
    write_gguf(tmp_path / "a.gguf", model.model, model.tokenizer, vocabulary, "f32")
    wanted = model.tokenizer.encode(text).tolist()
    prompt = wanted[1000:1050]
    ids, greedy, log_probabilities = ask_llama_cpp(
        tmp_path / "a.gguf", text=text, prompt=prompt, tokens=200
    )
    assert ids == wanted
    with torch.no_grad():
        logits = model.model(torch.tensor([prompt + greedy]))[0]
    own = logits.log_softmax(-1)
    close = {"qwen3": 1e-4, "gpt2": 1e-3}[architecture]  # It looks GELU up in a table of 16 bits.
    torch.testing.assert_close(log_probabilities, own[:50], atol=close, rtol=0)
    # Each time the most likely; within the tolerance, where two are as likely.
    chosen = own[49:-1].gather(1, torch.tensor(greedy)[:, None])[:, 0]
    assert len(greedy) == 200
    assert (own[49:-1].max(1).values - chosen).max() <= 1e-3


FAMILIES = {
    "llama": {},
    "llama slowed": {"rope_scaling": (8.0, 1.0, 4.0, 32.0)},
    "mistral": {"rope_scaling": (2.0,)},
    "qwen2": {"tie_embeddings": False},
    "qwen2 slowed": {"rope_scaling": (3.0,)},
}


@with_llama_cpp
@pytest.mark.parametrize("family", FAMILIES)
def test_families_from_elsewhere_have_the_same_logits(tmp_path, family):
    config = ModelConfig(
        vocab_size=BPE.vocab_size, context_length=64, n_layers=2, n_heads=4, n_kv_heads=2,
        head_dim=16, d_model=64, d_ff=96, architecture=family.split()[0], **FAMILIES[family],
    )  # fmt: skip
    model = built(config)
    vocabulary = llama_vocabulary(BPE, config.vocab_size, ())
    write_gguf(tmp_path / "a.gguf", model, BPE, vocabulary, "f32")
    prompt = BPE.encode(TEXT).tolist()[:60]
    _, _, log_probabilities = ask_llama_cpp(tmp_path / "a.gguf", text="", prompt=prompt, tokens=1)
    with torch.no_grad():
        own = model(torch.tensor([prompt]))[0].log_softmax(-1)
    torch.testing.assert_close(log_probabilities, own, atol=1e-3, rtol=0)


@with_llama_cpp
@pytest.mark.parametrize("pattern", [QWEN2_PATTERN, GPT2_PATTERN, None])
def test_cuts_from_elsewhere_make_the_same_ids(tmp_path, pattern):
    foreign_tokenizer("bytes").save_pretrained(tmp_path)
    tokenizer = cut_another_way(BPE, pattern) if pattern else load_tokenizer(tmp_path)
    vocabulary = llama_vocabulary(tokenizer, tokenizer.vocab_size, ())
    config = dataclasses.replace(small()[0].config, vocab_size=tokenizer.vocab_size)
    write_gguf(tmp_path / "a.gguf", built(config), tokenizer, vocabulary, "f32")
    text = TEXT * 9 + "a  1234 5\n\n  x\t\n DON'T don't 'ab 'sa\r\n"
    ids, _, _ = ask_llama_cpp(tmp_path / "a.gguf", text=text, prompt=[1, 2], tokens=1)
    assert ids == tokenizer.encode(text).tolist()


@with_llama_cpp
@pytest.mark.parametrize("weights", ["f16", "q8_0"])
def test_fewer_bits_are_nearly_the_same(tmp_path, weights):
    config = ModelConfig(
        vocab_size=BPE.vocab_size, context_length=64, n_layers=2, n_heads=2, n_kv_heads=1,
        head_dim=32, d_model=64, d_ff=96, architecture="qwen3",
    )  # fmt: skip
    model = built(config)
    save_model(tmp_path / "model", model, BPE)
    vocabulary = llama_vocabulary(BPE, config.vocab_size, ())
    write_gguf(tmp_path / "a.gguf", model, BPE, vocabulary, weights)
    prompt = BPE.encode(TEXT).tolist()[:40]
    _, _, log_probabilities = ask_llama_cpp(tmp_path / "a.gguf", text="", prompt=prompt, tokens=1)
    with torch.no_grad():
        own = load_model(tmp_path / "model").model(torch.tensor([prompt]))[0].log_softmax(-1)
    error = (log_probabilities - own).abs().max()
    assert error < {"f16": 0.02, "q8_0": 0.3}[weights]
