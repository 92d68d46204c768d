"""Small random models and tokenizers as transformers saves them."""

import json

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

TEXT = (
    "the cat sat on the mat, and the dog sat on the log.\n  'So!' \u00e9t\u00e9 \U0001f600\n" * 20
)
END = "<|end_of_text|>"

ROPES = {
    "default": {"rope_type": "default"},
    "linear": {"rope_type": "linear", "factor": 3.0},
    "llama3": {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    },
}  # fmt: skip

CLASSES = {
    "gpt2": (GPT2Config, GPT2LMHeadModel), "llama": (LlamaConfig, LlamaForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM), "qwen3": (Qwen3Config, Qwen3ForCausalLM),
    "mistral": (MistralConfig, MistralForCausalLM),
}  # fmt: skip


def foreign_model(
    family, seed=0, *, vocab_size=320, context=48, layers=2, heads=4, kv_heads=2, head_dim=6,
    width=24, ff=40, tie=False, rope="default", theta=10_000.0, **more,
):  # fmt: skip
    """A model of a family, whose biases and gains matter."""
    if family == "gpt2":
        values = {
            "n_positions": context, "n_embd": heads * head_dim, "n_layer": layers, "n_head": heads,
            "n_inner": ff,
        }  # fmt: skip
    else:
        values = {
            "max_position_embeddings": context, "hidden_size": width, "num_hidden_layers": layers,
            "num_attention_heads": heads, "num_key_value_heads": kv_heads,
            "intermediate_size": ff, "rms_norm_eps": 1e-5,
            "rope_parameters": {**ROPES[rope], "rope_theta": theta},
        }  # fmt: skip
        if family == "qwen2":
            values["hidden_size"] = heads * head_dim
        else:
            values["head_dim"] = head_dim
        if family == "mistral":
            values["sliding_window"] = None
    kind, model_kind = CLASSES[family]
    config = kind(vocab_size=vocab_size, tie_word_embeddings=tie, **values, **more)
    config._attn_implementation = "eager"
    torch.manual_seed(seed)
    model = model_kind(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * (0.1 if parameter.dim() == 2 else 0.4))
    return model


def foreign_tokenizer(kind="bytes", vocab_size=300):
    """`bytes` as Llama 3 and Qwen have it, `pieces` as Llama 2 and Mistral."""
    if kind == "bytes":
        backend = Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
        backend.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size - 2,
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        backend.train_from_iterator([TEXT], trainer)
        backend.add_special_tokens([END, "<|im_start|>"])
        return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=END, bos_token=END)
    backend = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    backend.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(),
         decoders.Strip(" ", 1, 0)]
    )  # fmt: skip
    special = ["<unk>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=special + [f"<0x{byte:02X}>" for byte in range(256)],
        initial_alphabet=list("abcdeghilmnostu\u2581"),
        limit_alphabet=20,
        show_progress=False,
    )
    backend.train_from_iterator(TEXT.split("\n"), trainer)
    content = json.loads(backend.to_str())
    content["added_tokens"] = [t for t in content["added_tokens"] if t["content"] in special]
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(content)),
        eos_token="</s>", bos_token="<s>", unk_token="<unk>",
    )  # fmt: skip


def save_foreign(directory, model, tokenizer=None, **saving):
    """Write a directory as a hub has it."""
    model.save_pretrained(directory, **saving)
    (tokenizer or foreign_tokenizer()).save_pretrained(directory)
    return directory
