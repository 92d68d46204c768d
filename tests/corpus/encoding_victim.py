"""Encodes a corpus in small shards, to be killed: `encoding_victim.py FILE DIRECTORY WORKERS`.

Prints how many bytes had to be encoded, and the digest of all that came of it.
"""

import hashlib
import sys
from pathlib import Path

from minitx.checkpoint.new_run import create_run
from minitx.config import DataConfig
from minitx.corpus import encode_corpus, encoded, read_corpus, shards, split_corpus
from minitx.tokenizer import load_tokenizer

SHORTEST, LONGEST = 4_000, 12_000


def result(data):
    """Of all files that are the same for any way to the end."""
    digest = hashlib.sha256()
    for path in sorted(data.iterdir()):
        if path.suffix in (".ids", ".txt", ".documents"):
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def main(file, directory, workers):
    # The least that is worth a process or a look for what is there, so that all ways are gone.
    shards.SHORTEST = encoded.SHORTEST = SHORTEST
    shards.LONGEST, shards.WORTH_A_PROCESS = LONGEST, 1
    data = DataConfig((file,))
    run = create_run(Path(directory), "victim")
    corpus = read_corpus(data.corpus)
    split = split_corpus(corpus, data, run.data)
    tokenizer = load_tokenizer(Path(file).parent / "tokenizer")
    made = []
    encode_corpus(split, tokenizer, (), int(workers), lambda done, total: made.append(done))
    print(made[-1] if made else 0, result(run.data))


if __name__ == "__main__":
    main(*sys.argv[1:])
