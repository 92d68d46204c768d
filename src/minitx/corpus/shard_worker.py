"""A process that encodes: `python -m minitx.corpus.shard_worker TEXTS DIRECTORY PARENT`.

It reads from its input which shards, a line each, and answers in a line what each became.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

from minitx.corpus.part_text import PartText
from minitx.corpus.shards import Shard, encode_shard
from minitx.errors import BadInputError
from minitx.tokenizer import load_tokenizer


def _serve(texts: Path, directory: Path, parent: int) -> None:
    tokenizer = load_tokenizer(directory)
    for line in sys.stdin:
        shard = Shard(**json.loads(line))
        try:
            part = PartText(texts, shard.part)
            answer = asdict(encode_shard(part, shard, tokenizer, directory, parent))
        except OSError as error:
            answer = {"errno": error.errno}
        except BadInputError as error:
            answer = {"what": error.what, "fix": error.fix}
        try:
            print(json.dumps(answer), flush=True)
        except BrokenPipeError:  # The process that this was done for is gone.
            os._exit(1)


if __name__ == "__main__":
    _serve(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
