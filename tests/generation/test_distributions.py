"""What generate() says, from prompt to text, is drawn from the exact distribution."""

import math

import pytest
import torch
from transformers import AutoModelForCausalLM

from minitx.checkpoint.huggingface import save_model
from minitx.config import ModelConfig, SamplingConfig
from minitx.generation import generate
from minitx.generation.filters import penalize, reshape
from minitx.model import Transformer
from minitx.tokenizer import train_tokenizer

TOKENIZER = train_tokenizer("abcdefgh", "char", 0)


def make_model(architecture="qwen3"):
    torch.manual_seed(8)
    config = ModelConfig(
        vocab_size=TOKENIZER.vocab_size, context_length=64, n_layers=2, n_heads=2,
        n_kv_heads=1 if architecture == "qwen3" else 2, d_model=16, d_ff=24, head_dim=8,
        architecture=architecture,
    )  # fmt: skip
    model = Transformer(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.25)
    return model


SAMPLERS = {
    "plain": {},
    "temperature": {"temperature": 0.6},
    "top_k": {"top_k": 4},
    "top_p": {"top_p": 0.7},
    "min_p": {"min_p": 0.15},
    "typical_p": {"typical_p": 0.8},
    "repetition": {"repetition_penalty": 1.8},
    "frequency": {"frequency_penalty": 0.7},
    "presence": {"presence_penalty": 0.9},
    "bias": {"logit_bias": {2: 1.0, 5: -1.0}},
    "ban": {"banned_strings": ("c",)},
    "all": {"temperature": 1.2, "top_k": 7, "top_p": 0.95, "min_p": 0.02, "presence_penalty": 0.3},
}


@pytest.mark.parametrize("values", SAMPLERS.values(), ids=SAMPLERS)
def test_first_and_second_token_follow_the_exact_distribution(values):
    """Chi-square over pairs of tokens, 6,000 samples with a fixed seed."""
    n = 6000
    config = SamplingConfig(
        **({"temperature": 1.0} | values), max_new_tokens=2, num_samples=n, seed=21
    )
    model = make_model()
    prompt = "abca"
    given = TOKENIZER.encode(prompt).tolist()
    pairs = torch.tensor([one.ids for one in generate(model, TOKENIZER, [prompt], config)])
    size = TOKENIZER.vocab_size
    expected = torch.zeros(size, size, dtype=torch.float64)
    first = _exact(model, given, config)
    for token in first.nonzero().flatten().tolist():
        expected[token] = first[token] * _exact(model, [*given, token], config)
    hits = torch.zeros(size * size).index_add_(0, pairs[:, 0] * size + pairs[:, 1], torch.ones(n))
    hopes = expected.flatten() * n
    assert float(hopes.sum()) == pytest.approx(n)
    assert float(hits[hopes == 0].sum()) == 0
    full, rare = hopes >= 8, (hopes > 0) & (hopes < 8)
    seen = torch.cat((hits[full], hits[rare].sum()[None])).double()
    hoped = torch.cat((hopes[full], hopes[rare].sum()[None]))
    seen, hoped = seen[hoped >= 8], hoped[hoped >= 8]
    freedom = len(hoped) - 1
    assert freedom >= 3
    chi = float(((seen - hoped) ** 2 / hoped).sum())
    # Wilson and Hilferty: a larger value by chance once in 10,000.
    assert chi < freedom * (1 - 2 / (9 * freedom) + 3.72 * math.sqrt(2 / (9 * freedom))) ** 3


def _exact(model, ids, config):
    """By recomputing and by the documented order, one setting at a time."""
    with torch.no_grad():
        logits = model(torch.tensor([ids]))[:, -1]
    counts = torch.bincount(torch.tensor(ids), minlength=TOKENIZER.vocab_size)[None].float()
    logits = penalize(logits, counts, config)
    for token, value in config.logit_bias.items():
        logits[0, token] += value
    for string in config.banned_strings:
        logits[0, int(TOKENIZER.encode(string)[0])] = -math.inf
    logits[0, [TOKENIZER.unknown_id, TOKENIZER.end_id]] = -math.inf
    return reshape(logits, config)[0].double().softmax(-1)


@pytest.mark.parametrize("architecture", ["qwen3", "gpt2"])
def test_greedy_text_is_that_of_transformers(architecture, tmp_path):
    model = make_model(architecture)
    save_model(tmp_path, model, TOKENIZER)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    prompt = "abcdef"
    ids = torch.tensor([TOKENIZER.encode(prompt).tolist()])
    wanted = theirs.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=40, do_sample=False,
        pad_token_id=0, bad_words_ids=[[TOKENIZER.unknown_id], [TOKENIZER.end_id]],
    )[0, ids.size(1) :].tolist()  # fmt: skip
    config = SamplingConfig(temperature=0.0, max_new_tokens=40)
    assert generate(model, TOKENIZER, [prompt], config)[0].ids == wanted
    assert generate(model, TOKENIZER, [prompt, "a"], config)[0].ids == wanted
