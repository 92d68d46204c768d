"""The compiled kernels of a training step against the plain formulas in float64.

Tolerances: float32 sums of a few hundred terms keep 5 digits; bfloat16 results have 8 bits, so a
number may be off by a rounding step of what enters and of what leaves, relative to the largest.
"""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from minitx.fast import layers
from minitx.fast.library import library
from minitx.model.transformer import causal_mask, eager_attention, rotary_table, rotate

pytestmark = pytest.mark.skipif(library() is None, reason="no compiled kernels here")
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 2e-2}
EPS = 1e-5

formats = st.sampled_from([torch.float32, torch.bfloat16])
threads = st.sampled_from([1, 2])
sizes = st.integers(1, 70)
seeds = st.integers(0, 2**20)


@pytest.fixture(autouse=True)
def _threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def drawn(seed, *shape, dtype=torch.float32, strided=False):
    """A leaf of this shape; every second element of something larger with `strided`."""
    generator = torch.Generator().manual_seed(seed)
    if strided:
        shape = (*shape[:-1], 2 * shape[-1])
    x = torch.randn(*shape, generator=generator).to(dtype)
    return x[..., ::2] if strided else x


def compare(function, plain, inputs, dtype, seed):
    """Result and gradients of `function` against those of `plain` in float64."""
    mine = [x.detach().requires_grad_() for x in inputs]
    exact = [x.detach().double().requires_grad_() for x in inputs]
    found, right = function(*mine), plain(*exact)
    above = drawn(seed + 1, *right.shape).to(found.dtype) if right.dim() else torch.tensor(1.5)
    found.backward(above)
    right.backward(above.double())
    pairs = [(found, right), *((a.grad, b.grad) for a, b in zip(mine, exact, strict=True))]
    for a, b in pairs:
        scale = max(1.0, float(b.detach().abs().max()))
        torch.testing.assert_close(
            a.detach().double(), b.detach(), atol=TOLERANCE[dtype] * scale, rtol=TOLERANCE[dtype]
        )


@settings(max_examples=25, deadline=None)
@given(formats, formats, threads, st.integers(1, 200), sizes, seeds, st.booleans())
def test_norm(into, out, n_threads, rows, width, seed, strided):
    torch.set_num_threads(n_threads)
    x = drawn(seed, rows, width, dtype=into, strided=strided)
    gain = 1 + 0.1 * drawn(seed + 2, width)
    rough = torch.bfloat16 if torch.bfloat16 in (into, out) else torch.float32
    # A sum over rows that were rounded: rounding errors add up as their root.
    compare(
        lambda x, g: layers.rms_norm(x, g, 0.1, out),
        lambda x, g: F.rms_norm(x, (width,), g, 0.1),
        (x, gain), rough, seed,
    )  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(formats, threads, sizes, sizes, seeds, st.booleans())
def test_swiglu(dtype, n_threads, rows, width, seed, strided):
    torch.set_num_threads(n_threads)

    def plain(x):
        gate, up = x.chunk(2, dim=-1)
        return F.silu(gate) * up

    x = 3 * drawn(seed, rows, 2 * width, dtype=dtype, strided=strided)
    compare(layers.swiglu, plain, (x,), dtype, seed)


@settings(max_examples=25, deadline=None)
@given(formats, threads, sizes, st.sampled_from([2, 65, 1500]), seeds, st.booleans())
def test_cross_entropy(dtype, n_threads, rows, vocab, seed, strided):
    torch.set_num_threads(n_threads)
    targets = torch.randint(vocab, (rows,), generator=torch.Generator().manual_seed(seed))
    targets[1::3] = -100
    logits = 4 * drawn(seed, rows, vocab, dtype=dtype, strided=strided)
    compare(
        lambda x: layers.cross_entropy(x, targets, -100),
        lambda x: F.cross_entropy(x, targets, ignore_index=-100),
        (logits,), dtype, seed,
    )  # fmt: skip


def plain_attention(qkv, heads, kv_heads, gains, tables, mask):
    batch, seq = qkv.shape[:2]
    split = qkv.view(batch, seq, heads + 2 * kv_heads, -1)
    parts = [
        split[:, :, :heads], split[:, :, heads : heads + kv_heads], split[:, :, heads + kv_heads :],
    ]  # fmt: skip
    if gains is not None:
        for i in range(2):
            normed = F.rms_norm(parts[i], parts[i].shape[-1:], gains[i], EPS)
            parts[i] = rotate(normed, *(t.double().unsqueeze(-2) for t in tables))
    q, k, v = (part.transpose(1, 2) for part in parts)
    group = heads // kv_heads
    out, _ = eager_attention(q, k.repeat_interleave(group, 1), v.repeat_interleave(group, 1), mask)
    return out.transpose(1, 2).reshape(batch, seq, -1)


def check_attention(dtype, seq, kv_heads, group, head_dim, seed, normed, strided, mask):
    heads = kv_heads * group
    qkv = drawn(seed, 2, seq, (heads + 2 * kv_heads) * head_dim, dtype=dtype, strided=strided)
    if not normed:
        compare(
            lambda x: layers.attend(x, heads, kv_heads, None, None, 0.0),
            lambda x: plain_attention(x, heads, kv_heads, None, None, mask),
            (qkv,), dtype, seed,
        )  # fmt: skip
        return
    tables = [t.to(dtype) for t in rotary_table(torch.arange(seq), head_dim, 100.0)]
    gains = [1 + 0.2 * drawn(seed + i, head_dim) for i in (2, 3)]
    compare(
        lambda x, g, h: layers.attend(x, heads, kv_heads, (g, h), tables, EPS),
        lambda x, g, h: plain_attention(x, heads, kv_heads, (g, h), tables, mask),
        (qkv, *gains), dtype, seed,
    )  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(
    formats, threads, st.sampled_from([1, 2, 31, 33, 64, 65, 130]), st.integers(1, 2),
    st.integers(1, 3), st.sampled_from([2, 6, 16, 32, 50]), seeds, st.booleans(), st.booleans(),
)  # fmt: skip
def test_attention(dtype, n_threads, seq, kv_heads, group, head_dim, seed, normed, strided):
    torch.set_num_threads(n_threads)
    mask = causal_mask(seq, seq)
    check_attention(dtype, seq, kv_heads, group, head_dim, seed, normed, strided, mask)


def test_attention_that_saw_one_later_position_would_be_noticed():
    leaking = causal_mask(33, 33)
    leaking[7, 8] = True
    with pytest.raises(AssertionError):
        check_attention(torch.float32, 33, 1, 2, 16, 0, True, False, leaking)


def test_attention_to_the_past_does_not_change_with_what_follows():
    qkv = drawn(0, 1, 70, 3 * 32)
    changed = qkv.clone()
    changed[:, 40:] += 5
    first, second = (
        layers.attend(x.requires_grad_(), 2, 2, None, None, 0.0) for x in (qkv, changed)
    )
    assert torch.equal(first[:, :40], second[:, :40])
    assert not torch.allclose(first[:, 40:], second[:, 40:])
    grad = torch.autograd.grad(first[:, :40].sum(), qkv)[0]
    assert torch.count_nonzero(grad[:, 40:]) == 0


def test_any_number_of_threads_gives_the_same_numbers():
    gain = torch.ones(24, requires_grad=True)
    found = []
    for n in (1, 2, 1):
        torch.set_num_threads(n)
        inputs = [
            (lambda x: layers.rms_norm(x, gain, EPS, torch.bfloat16), drawn(0, 333, 24)),
            (lambda x: layers.attend(x, 2, 1, None, None, 0.0), drawn(0, 3, 65, 32)),
            (lambda x: layers.cross_entropy(x, torch.arange(70), -100), drawn(0, 70, 90)),
        ]
        results = []
        for function, given_x in inputs:
            x = given_x.requires_grad_()
            gain.grad = None
            out = function(x)
            out.sum().backward()
            results += [out.detach(), x.grad, gain.grad]
        found.append([r for r in results if r is not None])
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_stays_none(bad):
    def broken(function, x, row):
        x[row] = bad
        x.requires_grad_()
        out = function(x)
        out.sum().backward()
        return out.detach(), x.grad

    gain = torch.ones(24)
    for out_format in (torch.float32, torch.bfloat16):
        out, grad = broken(
            lambda x, f=out_format: layers.rms_norm(x, gain, EPS, f), drawn(0, 5, 24), (2, 3)
        )
        assert not out[2].isfinite().all()
        assert not grad[2].isfinite().all()
        assert out[[0, 1, 3, 4]].isfinite().all()
    for place in ((2, 3), (2, 13)):
        out, _ = broken(layers.swiglu, drawn(0, 5, 20), place)
        assert not out[2].isfinite().all()
    out, grad = broken(
        lambda x: layers.attend(x, 1, 1, None, None, 0.0), drawn(0, 1, 70, 48), (0, 40, 3)
    )
    assert not out[0, 40].isfinite().all()
    assert out[0, :36].isfinite().all()
    if bad > 0 or math.isnan(bad):
        loss, _ = broken(
            lambda x: layers.cross_entropy(x, torch.zeros(3, dtype=torch.int64), -100),
            drawn(0, 3, 9), (1, 4),
        )  # fmt: skip
        assert not loss.isfinite()


def test_targets_that_are_no_tokens_are_refused_and_none_at_all_give_nan():
    logits = drawn(0, 3, 5).requires_grad_()
    for wrong in (5, -1):
        with pytest.raises(IndexError, match="1 targets are not among the 5 tokens"):
            layers.cross_entropy(logits, torch.tensor([0, wrong, 1]), -100)
    assert layers.cross_entropy(logits, torch.full((3,), -100), -100).isnan()
