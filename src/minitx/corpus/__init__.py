"""From files to token ids on disk, and from ids to training windows."""

from minitx.corpus.encoded import EncodedCorpus, encode_corpus, load_encoded
from minitx.corpus.encoded_file import encode_file
from minitx.corpus.sources import read_corpus
from minitx.corpus.splitting import SplitCorpus, split_corpus
from minitx.corpus.training_windows import WindowSampler, gather, require_one_window

__all__ = [
    "EncodedCorpus",
    "SplitCorpus",
    "WindowSampler",
    "encode_corpus",
    "encode_file",
    "gather",
    "load_encoded",
    "read_corpus",
    "require_one_window",
    "split_corpus",
]
