"""Models and a server that many tests use."""

import pytest
from small_server import serving

from minitx.workflows.load import load


@pytest.fixture(scope="session")
def loaded(tiny_run):
    return load(tiny_run, device="cpu")


@pytest.fixture(scope="session")
def bpe_loaded(tiny_gpt2_run):
    return load(tiny_gpt2_run, device="cpu")


@pytest.fixture(scope="module")
def server(loaded):
    with serving(loaded, max_tokens=100_000) as found:
        yield found
