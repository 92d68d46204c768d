"""Speakers and a server that many tests use."""

import pytest
from small_server import serving

from minitx.checkpoint.rundir import resolve_checkpoint
from minitx.workflows.generate import open_speaker


@pytest.fixture(scope="session")
def speaker(tiny_run):
    return open_speaker(resolve_checkpoint(tiny_run), "cpu")


@pytest.fixture(scope="session")
def bpe_speaker(tiny_gpt2_run):
    return open_speaker(resolve_checkpoint(tiny_gpt2_run), "cpu")


@pytest.fixture(scope="module")
def server(speaker):
    with serving(speaker, max_tokens=100_000) as found:
        yield found
