"""Tests of kernels run with the kernels of each family that this processor has."""

import pytest

from minitx.fast.library import has_bfloat16_products, libraries, library

OF_KERNELS = {
    "test_decode_batch": "", "test_decode_one": "", "test_decoder": "", "test_draw": "",
    "test_doors": "test_loss_and_every_gradient_in", "test_optimizer_kernels": "",
    "test_train_kernels": "",
}  # fmt: skip
"""Files with tests of kernels, and how the names of these begin."""


def pytest_generate_tests(metafunc):
    begins = OF_KERNELS.get(metafunc.module.__name__.rpartition(".")[2])
    if begins is not None and metafunc.function.__name__.startswith(begins):
        metafunc.fixturenames.insert(0, "kernel_family")
        families = list(libraries()) or ["none"]
        metafunc.parametrize("kernel_family", families, indirect=True, scope="module")


@pytest.fixture(scope="module")
def kernel_family(request):
    """The name of the family whose kernels compute in this test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINITX_KERNELS", request.param)
        _forget()
        yield request.param
    _forget()


def _forget():
    library.cache_clear()
    has_bfloat16_products.cache_clear()
