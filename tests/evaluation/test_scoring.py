import math
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minitx.config import ModelConfig
from minitx.errors import BadInputError
from minitx.evaluation import scoring
from minitx.evaluation.scoring import Windows, count_targets, score, token_losses, windows_for
from minitx.model import Transformer
from minitx.training.observer import perplexity

CONFIG = ModelConfig(
    vocab_size=11, context_length=8, n_layers=1, n_heads=2, n_kv_heads=1, d_model=8, d_ff=16,
    head_dim=4, dropout=0.1,
)  # fmt: skip


def build(seed=0):
    torch.manual_seed(seed)
    return Transformer(CONFIG)


def random_ids(n, seed=0):
    return np.random.default_rng(seed).integers(0, CONFIG.vocab_size, n).astype(np.uint16)


def brute_force(model, ids, context_length, stride):
    """Each target by a pass of its own, from the ids that the window rule gives it."""
    model.eval()
    losses = []
    n_targets = len(ids) - 1
    for target in range(n_targets):
        if target < context_length or stride == context_length:
            start = target // context_length * context_length
        else:
            end = context_length + -(-(target + 1 - context_length) // stride) * stride
            start = min(end, n_targets) - context_length
        seen = torch.tensor(ids[start : target + 1].astype(np.int64))[None]
        with torch.no_grad():
            logits = model.double()(seen)[0, -1]
        losses.append(-float(logits.log_softmax(-1)[int(ids[target + 1])]))
    model.float()
    return losses


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 60), st.integers(1, 8), st.data())
def test_each_target_once_with_the_context_that_the_stride_promises(n, context_length, data):
    stride = data.draw(st.integers(1, context_length))
    windows_at_once = data.draw(st.sampled_from([None, 1, 3]))
    model, ids = build(), random_ids(n)
    expected = brute_force(model, ids, context_length, stride)
    windows = Windows(context_length, stride)
    with pytest.MonkeyPatch.context() as patch:
        if windows_at_once is not None:
            patch.setitem(scoring._BATCH_TOKENS, "cpu", windows_at_once * context_length)
        chunks = list(token_losses(model, ids, windows))
        found = score(model, ids, windows)
    index = np.concatenate([chunk.index for chunk in chunks])
    losses = np.concatenate([chunk.losses for chunk in chunks])
    position = np.concatenate([chunk.position for chunk in chunks])
    assert index.tolist() == list(range(1, n))
    assert losses == pytest.approx(expected, rel=2e-5)
    enough = np.minimum(index - 1, context_length - stride)
    assert (position >= enough).all()
    assert (position < context_length).all()
    assert found.n_tokens == n - 1 == count_targets(n, windows)
    assert found.loss == pytest.approx(np.mean(expected), rel=2e-5)
    assert perplexity(found.loss) == pytest.approx(math.exp(np.mean(expected)), rel=1e-4)


@settings(deadline=None, max_examples=60)
@given(st.integers(2, 400), st.integers(1, 8), st.integers(0, 500), st.data())
def test_a_part_is_spread_evenly_and_never_counts_twice(n, context_length, max_tokens, data):
    stride = data.draw(st.integers(1, context_length))
    ids = random_ids(n)
    windows = Windows(context_length, stride, max_tokens)
    chunks = list(token_losses(build(), ids, windows))
    index = np.concatenate([chunk.index for chunk in chunks])
    assert (np.diff(index) > 0).all()
    assert index[0] >= 1
    assert index[-1] < n
    assert len(index) == count_targets(n, windows)
    if max_tokens == 0 or max_tokens >= n - 1:
        assert len(index) == n - 1
    else:
        assert max_tokens / 2 - stride <= len(index) <= max_tokens
        if stride == context_length and max_tokens >= context_length:
            assert len(index) == max_tokens // context_length * context_length
            starts = index[::context_length]
            gaps = np.diff(starts)
            assert len(gaps) == 0 or gaps.max() - gaps.min() <= 1


def test_the_sum_is_double_precision():
    class Flat(Transformer):
        def token_losses(self, ids, targets):
            return torch.full(targets.shape, 0.1, dtype=torch.float32)

    ids = np.zeros(400_001, dtype=np.uint16)
    found = score(Flat(CONFIG), ids)
    # Summed one by one in float32 this is off by more than 1e-3.
    assert found.total_nats == pytest.approx(400_000 * float(np.float32(0.1)), rel=1e-12)


def test_confidence_comes_with_the_same_losses():
    model, ids = build(), random_ids(50)
    windows = windows_for(model)
    plain = next(token_losses(model, ids, windows))
    chunk = next(token_losses(model, ids, windows, with_confidence=True))
    assert chunk.losses == pytest.approx(plain.losses, abs=1e-6)
    assert plain.confidence.size == 0 == plain.correct.size
    seen = torch.tensor(ids[:8].astype(np.int64))[None]
    with torch.no_grad():
        probabilities = model.eval()(seen)[0].softmax(-1)
    assert chunk.confidence[:8] == pytest.approx(probabilities.max(-1).values.numpy(), abs=1e-6)
    assert chunk.correct[:8].tolist() == [
        int(p.argmax()) == ids[i + 1] for i, p in enumerate(probabilities)
    ]


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_is_put_back_and_dropout_is_off(training):
    model, ids = build().train(training), random_ids(60)
    first, second = score(model, ids), score(model, ids)
    assert first == second
    assert model.training is training


def test_the_model_can_be_trained_after_being_scored():
    model, ids = build(), random_ids(20)
    score(model, ids)
    batch = torch.tensor(ids.astype(np.int64))[None, :8]
    model.loss(batch, batch).backward()
    assert model.embedding.weight.grad is not None


def test_bfloat16_is_close_and_not_the_same():
    model, ids = build(), random_ids(60)
    exact = score(model, ids)
    rounded = score(model, ids, windows_for(model, autocast_dtype=torch.bfloat16))
    assert rounded.loss == pytest.approx(exact.loss, rel=0.02)
    assert rounded.loss != exact.loss


def test_progress_adds_up(monkeypatch):
    monkeypatch.setitem(scoring._BATCH_TOKENS, "cpu", 2 * 8)
    told = []
    score(build(), random_ids(100), Windows(8, 8), told.append)
    assert sum(told) == 99
    assert len(told) == 7


@pytest.mark.parametrize(
    ("n", "options", "word"),
    [
        (0, {}, "0 tokens"),
        (1, {}, "1 token can't"),
        (9, {"context_length": 9}, "context length is 9"),
        (9, {"context_length": 0}, "context length is 0"),
        (9, {"stride": 0}, "stride is 0"),
        (9, {"stride": 9}, "stride is 9"),
        (9, {"context_length": 4, "stride": 5}, "stride is 5"),
    ],
)
def test_what_cannot_be_scored_is_refused_at_once(n, options, word):
    with pytest.raises(BadInputError, match=word):
        token_losses(build(), random_ids(n), windows_for(build(), **options))


def test_a_memory_map_streams(tmp_path, monkeypatch):
    monkeypatch.setitem(scoring._BATCH_TOKENS, "cpu", 64 * 8)
    path = tmp_path / "ids"
    n = 400_000
    random_ids(n).tofile(path)
    ids = np.memmap(path, dtype="<u2", mode="r")
    tracemalloc.start()
    found = score(build(), ids, Windows(8, 8))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.n_tokens == n - 1
    # Read at once, the ids alone would take 3.2 MB as int64.
    assert peak < 800_000
