import bz2
import gzip
import lzma
import random
import sys
import types

import numpy as np
import pytest

from minitx.evaluation import baselines
from minitx.evaluation.baselines import compress_holdout, compressors


@pytest.fixture(autouse=True)
def _texts_stream_through_in_text(monkeypatch):
    monkeypatch.setattr(baselines, "_AT_ONCE", 1000)


def text(content):
    return np.frombuffer(content, np.uint8)


VOCABULARY = ["to", "be", "or", "not", "that", "is", "the", "question"]
WORDS = " ".join(random.Random(0).choices(VOCABULARY, k=4000))
TRAIN, HOLDOUT = WORDS[:15000].encode(), WORDS[15000:].encode()


@pytest.mark.parametrize(
    ("name", "whole"),
    [
        ("gzip", lambda data: gzip.compress(data, 9)),
        ("bzip2", lambda data: bz2.compress(data, 9)),
        ("xz", lambda data: lzma.compress(data, preset=9 | lzma.PRESET_EXTREME)),
    ],
)
def test_sizes_are_those_of_the_program(name, whole):
    found = compress_holdout(name, text(TRAIN), text(HOLDOUT))
    n = len(HOLDOUT)
    assert found.bits_per_byte_alone == pytest.approx(8 * len(whole(HOLDOUT)) / n, abs=0.01)
    added = len(whole(TRAIN + HOLDOUT)) - len(whole(TRAIN))
    assert found.bits_per_byte == pytest.approx(8 * added / n, abs=0.02)


@pytest.mark.parametrize("name", list(compressors()))
def test_a_holdout_that_repeats_the_train_part_costs_little_after_it(name):
    noise = random.Random(1).randbytes(20_000)
    found = compress_holdout(name, text(noise), text(noise))
    assert found.bits_per_byte_alone > 7.9
    # bzip2 sorts its block rather than pointing back, and gains less.
    assert found.bits_per_byte < (6 if name == "bzip2" else 0.5)


def test_without_a_train_part_the_holdout_stands_alone():
    found = compress_holdout("xz", text(b""), text(HOLDOUT))
    assert found.bits_per_byte == found.bits_per_byte_alone


class _Recorder:
    def __init__(self):
        self.seen = 0

    def compress(self, data):
        self.seen += len(data)
        return b""

    def flush(self):
        return bytes(self.seen // 4)


def test_zstd_of_the_standard_library_is_used_where_it_is(monkeypatch):
    made = []

    def build(options):
        made.append(options)
        return _Recorder()

    parameter = types.SimpleNamespace(
        compression_level="level", window_log="window", enable_long_distance_matching="long"
    )
    module = types.ModuleType("compression.zstd")
    module.CompressionParameter, module.ZstdCompressor = parameter, build
    monkeypatch.setitem(sys.modules, "compression", types.ModuleType("compression"))
    monkeypatch.setitem(sys.modules, "compression.zstd", module)
    assert list(compressors())[-1] == "zstd"
    assert compress_holdout("zstd", text(TRAIN), text(HOLDOUT)).bits_per_byte == pytest.approx(
        2.0, abs=0.01
    )
    assert made[0]["level"] == 19


def test_the_zstandard_package_stands_in_for_it(monkeypatch):
    class Parameters:
        @staticmethod
        def from_level(level, **options):
            return level, options

    class Compressor:
        def __init__(self, compression_params):
            assert compression_params[0] == 19

        def compressobj(self):
            return _Recorder()

    module = types.ModuleType("zstandard")
    module.ZstdCompressionParameters, module.ZstdCompressor = Parameters, Compressor
    monkeypatch.setitem(sys.modules, "compression", None)
    monkeypatch.setitem(sys.modules, "compression.zstd", None)
    monkeypatch.setitem(sys.modules, "zstandard", module)
    assert list(compressors()) == ["gzip", "bzip2", "xz", "zstd"]
    assert compress_holdout("zstd", text(b""), text(HOLDOUT)).bits_per_byte == pytest.approx(
        2.0, abs=0.01
    )


def test_without_either_it_is_left_out(monkeypatch):
    for name in ("compression", "compression.zstd", "zstandard"):
        monkeypatch.setitem(sys.modules, name, None)
    assert list(compressors()) == ["gzip", "bzip2", "xz"]
    assert baselines._zstd() is None
