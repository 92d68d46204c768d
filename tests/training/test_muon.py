"""Muon against the singular value decomposition that it stands for."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minitx.training.optimizers.muon import Muon, orthogonalize


def decayed(rows, columns, smallest, generator):
    # A matrix whose singular values fall evenly, on a log scale, from 1 to `smallest`.
    u, _, v = torch.linalg.svd(torch.randn(rows, columns, generator=generator), full_matrices=False)
    values = torch.logspace(0, torch.tensor(smallest).log10(), min(rows, columns))
    return u @ torch.diag(values) @ v, u @ v


@settings(deadline=None, max_examples=40)
@given(
    rows=st.integers(1, 40),
    columns=st.integers(1, 40),
    size=st.sampled_from([1e-12, 1e-3, 1.0, 1e6]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    seed=st.integers(0, 1000),
)
def test_singular_values_come_near_one_and_directions_stay(rows, columns, size, dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    matrix, nearest = decayed(rows, columns, 0.1, generator)
    found = orthogonalize((size * matrix)[None].to(dtype))[0].double()
    values = torch.linalg.svdvals(found)
    within = (0.6, 1.4) if dtype == torch.float32 else (0.3, 2.0)
    assert values.min() > within[0]
    assert values.max() < within[1]
    # The same singular vectors: the polar factor of what comes out is that of what went in.
    u, _, v = torch.linalg.svd(found, full_matrices=False)
    tolerance = 1e-3 if dtype == torch.float32 else 0.5
    assert (u @ v - nearest.double()).abs().max() < tolerance


def test_small_singular_values_are_lifted():
    matrix, _ = decayed(32, 32, 0.01, torch.Generator().manual_seed(0))
    before = torch.linalg.svdvals(matrix / torch.linalg.vector_norm(matrix))
    after = torch.linalg.svdvals(orthogonalize(matrix[None])[0])
    assert after.min() > 0.6
    assert after.min() > 50 * before.min()


def test_zero_stays_zero_and_a_matrix_alone_is_as_in_a_batch():
    assert torch.equal(orthogonalize(torch.zeros(2, 3, 5)), torch.zeros(2, 3, 5))
    batch = torch.randn(3, 8, 5, generator=torch.Generator().manual_seed(0))
    for index in range(3):
        torch.testing.assert_close(
            orthogonalize(batch[index : index + 1])[0], orthogonalize(batch)[index]
        )


def test_a_fused_matrix_is_updated_as_its_parts():
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(10, 6, generator=generator)
    fused = torch.nn.Parameter(weights.clone())
    parts = [torch.nn.Parameter(weights[:4].clone()), torch.nn.Parameter(weights[4:].clone())]
    settings = {"momentum": 0.9, "weight_decay": 0.1, "dtype": torch.float32}
    together = Muon([("qkv", fused, (4, 6))], **settings)
    apart = Muon([(f"{i}", p, (len(p),)) for i, p in enumerate(parts)], **settings)
    for _ in range(3):
        fused.grad = torch.randn(10, 6, generator=generator)
        parts[0].grad, parts[1].grad = fused.grad[:4].clone(), fused.grad[4:].clone()
        together.step(0.1)
        apart.step(0.1)
    torch.testing.assert_close(fused.detach(), torch.cat([p.detach() for p in parts]))


def test_one_step_is_what_the_paper_says():
    generator = torch.Generator().manual_seed(0)
    weights, gradient = torch.randn(2, 6, 4, generator=generator)
    parameter = torch.nn.Parameter(weights.clone())
    parameter.grad = gradient.clone()
    Muon([("w", parameter, (6,))], momentum=0.9, weight_decay=0.5, dtype=torch.float32).step(0.1)
    # From rest, momentum and the look ahead leave the gradient's direction as it is.
    update = orthogonalize(gradient[None])[0] * (6 / 4) ** 0.5
    torch.testing.assert_close(parameter.detach(), weights * (1 - 0.1 * 0.5) - 0.1 * update)


def test_a_missing_gradient_is_an_error():
    parameter = torch.nn.Parameter(torch.ones(2, 2))
    muon = Muon([("w", parameter, (2,))], momentum=0.9, weight_decay=0.0, dtype=torch.float32)
    with pytest.raises(RuntimeError, match="gradient"):
        muon.step(0.1)
