"""A checkpoint in the hands of transformers, and back: no flag, and nothing lost."""

import json

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    pipeline,
)

from minitx.checkpoint import load_model, save_model
from minitx.config import ModelConfig
from minitx.errors import DamagedFileError
from minitx.model import Transformer
from minitx.tokenizer import load_tokenizer, train_tokenizer

TEXT = (
    "the cat sat on the mat, and the dog sat on the log.\n  'So!' \u00e9t\u00e9 \U0001f600\n" * 20
)
TEXTS = ["the cat", "the\n  'So!' on the log", "sat <unk> \u00ff \ufffd abcdef\n\n"]
KINDS = [(shape, kind) for shape in ("qwen3", "gpt2") for kind in ("char", "word", "bpe")]
KINDS += [("llama", "bpe"), ("mistral", "bpe")]


@pytest.fixture(params=KINDS, ids="-".join)
def directory(request, tmp_path):
    architecture, kind = request.param
    tokenizer = train_tokenizer(TEXT, kind, 300)
    config = ModelConfig(
        architecture=architecture, vocab_size=tokenizer.vocab_size, context_length=32, n_layers=2,
        n_heads=4, n_kv_heads=4 if architecture == "gpt2" else 2, d_model=24, d_ff=40, head_dim=6,
    )  # fmt: skip
    torch.manual_seed(0)
    save_model(tmp_path / "ours", Transformer(config), tokenizer)
    return tmp_path / "ours"


def theirs(directory):
    model = AutoModelForCausalLM.from_pretrained(directory)
    return model, AutoTokenizer.from_pretrained(directory)


def save(directory, model, tokenizer):
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def assert_agree(directory, model, tokenizer):
    """Ours, read back, has the same ids of all texts, and the same logits."""
    ours = load_model(directory)
    for text in TEXTS:
        ids = ours.tokenizer.encode(text, "replace").tolist()
        assert tokenizer(text).input_ids == ids
        assert ours.tokenizer.decode(ids) == tokenizer.decode(ids)
        batch = torch.tensor([ids])
        torch.testing.assert_close(
            ours.model(batch), model(batch).logits, atol=1e-4, rtol=1e-4, check_dtype=False
        )


def test_what_transformers_saves_opens_here(directory, tmp_path):
    digest = load_tokenizer(directory).digest
    for again in ("once", "twice"):
        model, tokenizer = theirs(directory)
        directory = tmp_path / again
        save(directory, model, tokenizer)
        assert_agree(directory, model, tokenizer)
        assert load_tokenizer(directory).digest == digest


def test_what_its_trainer_saves_opens_here(directory, tmp_path):
    pytest.importorskip("accelerate")
    from transformers import Trainer, TrainingArguments

    model, tokenizer = theirs(directory)
    rows = [{"input_ids": tokenizer(text, truncation=True).input_ids} for text in TEXT.splitlines()]
    arguments = TrainingArguments(
        tmp_path / "trained", max_steps=10, per_device_train_batch_size=2, report_to=[],
        use_cpu=True, save_strategy="no",
    )  # fmt: skip
    collator = DataCollatorForLanguageModeling(tokenizer, mlm=False)
    trainer = Trainer(model, arguments, collator, train_dataset=rows, processing_class=tokenizer)
    trainer.train()
    trainer.save_model(tmp_path / "trained")
    assert_agree(tmp_path / "trained", model.eval(), tokenizer)


def test_what_peft_merges_opens_here(directory, tmp_path):
    peft = pytest.importorskip("peft")
    model, tokenizer = theirs(directory)
    layers = ["c_attn"] if model.config.model_type == "gpt2" else ["q_proj", "v_proj"]
    adapted = peft.get_peft_model(
        model, peft.LoraConfig(target_modules=layers, r=2, init_lora_weights=False)
    )
    merged = adapted.merge_and_unload()
    save(tmp_path / "merged", merged, tokenizer)
    assert_agree(tmp_path / "merged", merged.eval(), tokenizer)


def test_padding_needs_no_flag(directory):
    model, tokenizer = theirs(directory)
    rows = [tokenizer(text) for text in ("the", "the cat sat")]
    batch = DataCollatorForLanguageModeling(tokenizer, mlm=False)(rows)
    assert torch.isfinite(model(**batch).loss)
    padded = tokenizer(["the", "the cat sat"], padding=True, return_tensors="pt")
    assert not padded.attention_mask.all()
    together = model.generate(**padded, max_new_tokens=4, do_sample=False)
    for text, row in zip(("the", "the cat sat"), together, strict=True):
        ids = tokenizer(text, return_tensors="pt")
        alone = model.generate(**ids, max_new_tokens=4, do_sample=False)
        assert row[-4:].tolist() == alone[0, -4:].tolist()
    generate = pipeline("text-generation", model=model, tokenizer=tokenizer, batch_size=2)
    texts = generate(["the", "the cat sat", "on"], max_new_tokens=4)
    assert [text[0]["generated_text"][:2] for text in texts] == ["th", "th", "on"]


def test_its_stop_strings_need_no_flag(directory):
    model, tokenizer = theirs(directory)
    ids = tokenizer("the cat", return_tensors="pt").input_ids
    text = tokenizer.decode(model.generate(ids, do_sample=False, max_new_tokens=20)[0])
    assert "abcdef" not in TEXT  # what it spells to find the text of plain entries
    for stop in {text[len("the cat") + at :][:3] for at in (1, 4)}:
        cut = model.generate(
            ids, do_sample=False, max_new_tokens=20, stop_strings=[stop], tokenizer=tokenizer
        )
        assert cut.size(1) < ids.size(1) + 20
        assert stop in tokenizer.decode(cut[0])


def test_drawing_is_ours_and_ends_with_the_context(directory):
    model, tokenizer = theirs(directory)
    settings = model.generation_config
    assert (settings.do_sample, settings.temperature) == (True, 0.8)
    assert not settings.top_k
    ids = tokenizer("the cat", return_tensors="pt").input_ids
    assert model.generate(ids).size(1) == 32
    assert model.generate().size(1) == 32  # from the token that begins a text
    assert tokenizer.model_max_length == 32
    assert 0 <= tokenizer.bos_token_id < len(tokenizer)
    if model.config.model_type == "gpt2":
        assert json.loads((directory / "config.json").read_text())["n_ctx"] == 32


@pytest.mark.parametrize("kind", ["char", "word", "bpe"])
def test_the_digest_is_of_what_decides_ids(tmp_path, kind):
    tokenizer = train_tokenizer(TEXT, kind, 300)
    tokenizer.save(tmp_path)
    path = tmp_path / "tokenizer.json"
    content = json.loads(path.read_text())
    model = content["model"]
    # As older versions wrote it, in another order, with a step that adds nothing.
    for key in ("fuse_unk", "byte_fallback", "ignore_merges", "dropout"):
        if not model.get(key):
            model.pop(key, None)
    model["vocab"] = dict(reversed(model["vocab"].items()))
    if "merges" in model:
        model["merges"] = [" ".join(pair) for pair in model["merges"]]
    content["post_processor"] = {
        "type": "TemplateProcessing", "special_tokens": {},
        "single": [{"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
    }  # fmt: skip
    path.write_text(json.dumps(dict(reversed(content.items())), indent=7))
    assert load_tokenizer(tmp_path).digest == tokenizer.digest
    first, second, *_ = model["vocab"]
    model["vocab"] |= {first: model["vocab"][second], second: model["vocab"][first]}
    path.write_text(json.dumps(content))
    assert load_tokenizer(tmp_path).digest != tokenizer.digest


def test_another_tokenizer_is_still_refused(directory):
    model, tokenizer = theirs(directory)
    content = json.loads((directory / "tokenizer.json").read_text())
    first, second, *_ = content["model"]["vocab"]
    vocabulary = content["model"]["vocab"]
    vocabulary |= {first: vocabulary[second], second: vocabulary[first]}
    save(directory, model, tokenizer)
    (directory / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(DamagedFileError, match="not the tokenizer"):
        load_model(directory)


def test_digest_of_the_file_is_still_known(directory):
    """Earlier versions noted that of the bytes, whatever wrote them."""
    from hashlib import sha256

    path = directory / "tokenizer.json"
    content = json.loads(path.read_text())
    content["post_processor"] = {"type": "ByteLevel", "add_prefix_space": True,
                                 "trim_offsets": False, "use_regex": True}  # fmt: skip
    raw = (json.dumps(content, ensure_ascii=False, indent=2) + "\n").encode()
    path.write_bytes(raw)
    config = json.loads((directory / "config.json").read_text())
    config["minitx"]["tokenizer_digest"] = sha256(raw).hexdigest()
    (directory / "config.json").write_text(json.dumps(config))
    load_model(directory)
