"""Models of other programs: loaded whole with the very logits, or refused by name."""

import json

import pytest
import torch
from foreign_models import ROPES, TEXT, foreign_model, foreign_tokenizer, save_foreign
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from minitx.checkpoint import load_model, save_model
from minitx.config import ModelConfig
from minitx.errors import BadInputError, DamagedFileError
from minitx.tokenizer import load_tokenizer

FAMILIES = ("gpt2", "llama", "qwen2", "qwen3", "mistral")


@pytest.fixture(scope="module")
def tokenizer():
    return foreign_tokenizer()


@st.composite
def shapes(draw):
    family = draw(st.sampled_from(FAMILIES))
    kv_heads, group = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    heads = kv_heads * group
    return {
        "family": family,
        "seed": draw(st.integers(0, 99)),
        "vocab_size": 300 + draw(st.integers(0, 40)),  # padded, or just so
        "context": draw(st.integers(17, 64)),
        "layers": draw(st.integers(1, 3)),
        "heads": heads,
        "kv_heads": kv_heads,
        "head_dim": 2 * draw(st.integers(1, 6)),
        # Llama's own config asks that the heads divide it.
        "width": heads * draw(st.integers(4, 9)) if family == "llama" else draw(st.integers(4, 40)),
        "ff": draw(st.integers(1, 50)),
        "tie": draw(st.booleans()),
        "rope": draw(st.sampled_from(sorted(ROPES))),
        "theta": draw(st.sampled_from([500.0, 10_000.0, 1e6])),
    }


def opened(directory):
    return AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager"
    ).eval()


def assert_same_logits(ours, theirs, seed=0):
    config = ours.model.config
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(config.vocab_size, (2, config.context_length), generator=generator)
    with torch.inference_mode():
        torch.testing.assert_close(ours.model(ids), theirs(ids).logits, atol=1e-5, rtol=1e-5)


@given(
    shape=shapes(),
    dtype=st.sampled_from(["float32", "bfloat16", "float16"]),
    shard=st.sampled_from(["5GB", "20KB"]),
)
@settings(max_examples=40, deadline=None)
def test_logits_are_those_of_transformers_both_ways(
    shape, dtype, shard, tokenizer, tmp_path_factory
):
    path = tmp_path_factory.mktemp("model")
    model = foreign_model(**shape).to(getattr(torch, dtype))
    save_foreign(path / "theirs", model, tokenizer, max_shard_size=shard)
    theirs = opened(path / "theirs")
    ours = load_model(path / "theirs")
    assert ours.model.config.architecture == shape["family"]
    assert_same_logits(ours, theirs, shape["seed"])
    assert sum(p.numel() for p in ours.model.parameters()) == ours.model.config.n_parameters
    save_model(path / "ours", ours.model, ours.tokenizer)
    again = opened(path / "ours")
    assert type(again) is type(theirs) is type(model)
    assert_same_logits(ours, again, shape["seed"])
    back = load_model(path / "ours")
    assert back.model.config == ours.model.config
    assert (path / "ours/tokenizer.json").read_bytes() == (
        path / "theirs/tokenizer.json"
    ).read_bytes()


def test_shards_are_read(tmp_path, tokenizer):
    theirs = foreign_model("llama")
    save_foreign(tmp_path, theirs, tokenizer, max_shard_size="10KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    assert_same_logits(load_model(tmp_path), theirs)


TEXTS = [
    "the cat", "the\n  'So!' on the log 1234", "  sat \u00ff \ufffd abcdef\n\n", "", " ",
    "<|im_start|>so<|end_of_text|>", "</s> \U0001f600",
]  # fmt: skip


@pytest.mark.parametrize("kind", ["bytes", "pieces"])
def test_a_tokenizer_of_others_gives_its_ids(kind, tmp_path):
    theirs = foreign_tokenizer(kind)
    theirs.save_pretrained(tmp_path)
    ours = load_tokenizer(tmp_path)
    assert (ours.end_id, ours.first_token) == (theirs.eos_token_id, theirs.bos_token)
    for text in (*TEXTS, TEXT * 30):
        ids = ours.encode(text).tolist()
        assert ids == theirs(text, add_special_tokens=False).input_ids
        assert ours.decode(ids) == theirs.decode(ids)
        # After a token of its own, SentencePiece puts a space before a text once more.
        assert ours.decode(ids) == text or (kind == "pieces" and "</s>" in text)
    documents = [iter(["the ", "cat"]), iter([]), iter(["sat"])]
    end = theirs.eos_token_id
    assert [int(i) for part in ours.encode_documents(documents, 2) for i in part] == [
        *ours.encode("the cat"), end, end, *ours.encode("sat"),
    ]  # fmt: skip


def test_the_end_is_that_of_the_tokenizer_where_several_are_named(tmp_path, tokenizer):
    theirs = foreign_model("llama")
    save_foreign(tmp_path, theirs, tokenizer)
    edit(tmp_path, eos_token_id=[7, tokenizer.eos_token_id])
    assert load_model(tmp_path).model.config.end_id == tokenizer.eos_token_id
    edit(tmp_path, eos_token_id=[7, 8])
    assert load_model(tmp_path).model.config.end_id == 7


def edit(directory, **values):
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


REFUSED = [
    ("llama", {"attention_bias": True}, "attention_bias True"),
    ("llama", {"mlp_bias": True}, "mlp_bias True"),
    ("llama", {"hidden_act": "gelu"}, "hidden_act 'gelu'"),
    ("llama", {"pretraining_tp": 2}, "pretraining_tp 2"),
    ("llama", {"quantization_config": {"bits": 4}}, "quantization_config"),
    ("llama", {"final_logit_softcapping": 30.0}, "final_logit_softcapping 30.0"),
    ("llama", {"rope_parameters": {"rope_type": "yarn", "factor": 2.0}}, "yarn"),
    ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "x": 1}}, "rotary"),
    ("llama", {"rope_parameters": {"rope_type": "linear"}}, "lacks 'factor'"),
    ("llama", {"rope_parameters": {"rope_type": "linear", "factor": -2.0}}, "rope_scaling"),
    ("llama", {"rope_parameters": {"rope_type": "linear", "factor": "2"}}, "rope_scaling"),
    ("llama", {"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rotary positions"),
    ("qwen2", {"use_sliding_window": True}, "use_sliding_window True"),
    ("qwen3", {"layer_types": ["full_attention", "sliding_attention"]}, "layer_types"),
    ("mistral", {"sliding_window": 47}, "sliding_window 47"),
    ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
    ("llama", {"model_type": "gemma"}, "type 'gemma'"),
    ("llama", {"model_type": ["llama"]}, "type"),
    ("mistral", {"model_type": "qwen2"}, "no tensor model.layers.0.self_attn.q_proj.bias"),
    ("qwen2", {"model_type": "llama"}, "tensor model.layers.0.self_attn.k_proj.bias"),
    ("qwen3", {"model_type": "llama"}, "tensor model.layers.0.self_attn.k_norm.weight"),
]


@pytest.mark.parametrize(("family", "values", "told"), REFUSED)
def test_what_would_change_the_numbers_is_refused_by_name(
    family, values, told, tmp_path, tokenizer
):
    save_foreign(tmp_path, foreign_model(family), tokenizer)
    load_model(tmp_path)
    edit(tmp_path, **values)
    with pytest.raises((BadInputError, DamagedFileError), match=told) as caught:
        load_model(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_window_as_long_as_the_context_is_no_window(tmp_path, tokenizer):
    theirs = foreign_model("mistral")
    save_foreign(tmp_path, theirs, tokenizer)
    edit(tmp_path, sliding_window=48)
    assert_same_logits(load_model(tmp_path), theirs)


@pytest.fixture
def sharded(tmp_path, tokenizer):
    return save_foreign(tmp_path, foreign_model("llama", tie=True), tokenizer, max_shard_size="9KB")


def parts(directory):
    return sorted(directory.glob("model-*.safetensors"))


def change(path, **tensors):
    save_file({**load_file(path), **tensors}, path)


def test_a_tensor_without_a_place_is_refused(sharded):
    change(parts(sharded)[-1], **{"model.layers.0.self_attn.q_proj.lora_A": torch.zeros(2, 2)})
    with pytest.raises(BadInputError, match="lora_A"):
        load_model(sharded)


def test_a_tensor_that_stands_twice_is_refused(sharded):
    change(parts(sharded)[-1], **load_file(parts(sharded)[0]))
    with pytest.raises(DamagedFileError, match="as has model-00001"):
        load_model(sharded)


def test_a_second_head_of_a_tied_model_is_that_matrix_or_refused(sharded):
    embedding = load_model(sharded).model.embedding.weight.detach()
    change(parts(sharded)[-1], **{"lm_head.weight": embedding.clone()})
    load_model(sharded)
    change(parts(sharded)[-1], **{"lm_head.weight": embedding + 1})
    with pytest.raises(BadInputError, match="lm_head.weight is not the embedding"):
        load_model(sharded)


def test_old_buffers_that_follow_from_the_config_are_passed_over(sharded):
    change(parts(sharded)[0], **{"model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(3)})
    load_model(sharded)


@pytest.mark.parametrize(
    "weight_map",
    [None, [], {}, {"a": "../model.safetensors"}, {"a": "/etc/passwd"}, {"a": 3}, "missing"],
)
def test_a_damaged_index_is_refused(sharded, weight_map):
    path = sharded / "model.safetensors.index.json"
    if weight_map == "missing":
        parts(sharded)[1].unlink()
    else:
        path.write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises((BadInputError, DamagedFileError), match="index"):
        load_model(sharded)


def test_a_truncated_shard_is_refused(sharded):
    path = parts(sharded)[1]
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(DamagedFileError, match=path.name):
        load_model(sharded)


def test_a_directory_without_weights_or_tokenizer_is_refused(tmp_path, tokenizer):
    save_foreign(tmp_path, foreign_model("llama"), tokenizer)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(BadInputError, match="no model.safetensors"):
        load_model(tmp_path)


def test_scaling_is_checked():
    shape = {"vocab_size": 9, "context_length": 8, "n_layers": 1, "n_heads": 1, "n_kv_heads": 1,
             "d_model": 8, "d_ff": 8, "head_dim": 8}  # fmt: skip
    for scaling in ((1.0, 2.0), (8.0, 4.0, 1.0, 16.0), (float("nan"),), (0.0,)):
        with pytest.raises(BadInputError, match="rope_scaling"):
            ModelConfig(**shape, rope_scaling=scaling)


def test_the_tokenizer_opens_again_in_transformers(tmp_path, tokenizer):
    save_foreign(tmp_path / "theirs", foreign_model("qwen3"), tokenizer)
    ours = load_model(tmp_path / "theirs")
    save_model(tmp_path / "ours", ours.model, ours.tokenizer)
    theirs = AutoTokenizer.from_pretrained(tmp_path / "ours")
    assert theirs(TEXT).input_ids == ours.tokenizer.encode(TEXT).tolist()
    assert theirs.eos_token_id == ours.tokenizer.end_id
