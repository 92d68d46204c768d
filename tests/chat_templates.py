"""Chat templates as models of other programs have them, and tokenizers that know their tokens."""

from foreign_models import foreign_tokenizer

EACH = "{% for m in messages %}"
TEMPLATES = {
    # As Qwen's and SmolLM's: the end of an answer is not the end of a text.
    "turns": EACH + "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    # As Llama 3's: a beginning, and texts that are trimmed.
    "headers": "{{ bos_token }}" + EACH + "<|im_start|>{{ m['role'] }}<|header_end|>\n\n"
    "{{ m['content'] | trim }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant<|header_end|>\n\n{% endif %}",
    # As Zephyr's: the roles are text.
    "text": EACH + "<|{{ m.role }}|>\n{{ m.content }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}",
    # As Mistral's: nothing stands before an answer, and the roles must take turns.
    "brackets": "{{ bos_token }}" + EACH
    + "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must take turns') }}{% endif %}"
    "{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}",
    # As Qwen 3's: something is put before the last answer alone.
    "thoughts": EACH + "<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
}  # fmt: skip
KINDS = [(name, "bytes") for name in TEMPLATES] + [("brackets", "pieces"), ("text", "pieces")]


def chat_tokenizer(template, kind="bytes", **names):
    """Of transformers, with a chat template by name or as it is written."""
    tokenizer = foreign_tokenizer(kind)
    if kind == "bytes":
        more = ["<|im_end|>", "<|header_end|>"]
        tokenizer.add_special_tokens({"additional_special_tokens": more, **names})
    tokenizer.chat_template = TEMPLATES.get(template, template)
    return tokenizer
