"""One text keeps its tail as holdout: cut at a line, or at a character where there is no line."""

from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given
from hypothesis import strategies as st

from minitx.config import DataConfig
from minitx.corpus import read_corpus, split_corpus
from minitx.errors import BadInputError


@given(st.text("a é日😀\n", min_size=1, max_size=60), st.sampled_from([0.1, 0.3, 0.5, 0.9]))
def test_the_tail_begins_with_a_line_or_a_character(text, fraction):
    with TemporaryDirectory() as place:
        path = Path(place) / "text.txt"
        path.write_bytes(text.encode())
        data = DataConfig((str(path),), holdout_fraction=fraction)
        try:
            split = split_corpus(read_corpus([str(path)]), data, Path(place) / "data")
        except BadInputError:
            is_in_the_first = len(text.encode()) * (1 - fraction) < len(text[0].encode())
            assert not text.strip() or len(text) == 1 or is_in_the_first
            return
        train, holdout = split.train.text(), split.holdout.text()
        assert train + holdout == text
        assert train
        assert holdout
        if "\n" in text[:-1]:
            assert train.endswith("\n")
