"""A run that was killed while it encoded: what to do is said, and does what it says."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from small_runs import TINY_MODEL, TINY_TRAIN

from minitx.corpus import encoded, shards
from minitx.errors import BadInputError
from minitx.workflows.resume import ResumeRequest, resume
from minitx.workflows.train import TrainRequest, train

REQUEST = {
    "data": {"corpus": ["notes.jsonl"], "workers": 1},
    "tokenizer": {"kind": "bpe", "vocab_size": 300},
    "model": TINY_MODEL,
    "train": {**TINY_TRAIN, "steps": 1},
}
KILLED = """
import json, os, sys
from pathlib import Path
from minitx.corpus import encoded, shards
from minitx.workflows.train import TrainRequest, train
shards.SHORTEST, shards.LONGEST, encoded.SHORTEST = 4_000, 12_000, 4_000
encode = encoded.encode_shards
def half(planned, *rest):
    encode(planned[: len(planned) // 2], *rest)
    os._exit(9)
encoded.encode_shards = half
request = json.loads(sys.argv[1])
train(TrainRequest(**request, out=Path(sys.argv[2]) if sys.argv[2:] else None), [])
"""


@pytest.mark.parametrize("out", [[], ["run"]], ids=["a free name", "a name of its own"])
def test_the_same_command_encodes_only_what_is_left(inside, monkeypatch, out):
    texts = [f"Note {i} of {i * i % 97}, which says: to be, or not to be.\n" for i in range(3000)]
    Path("notes.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    command = [sys.executable, "-c", KILLED, json.dumps(REQUEST), *out]
    assert subprocess.run(command, check=False).returncode == 9
    (killed,) = map(Path, out or ["runs/notes-001"])
    there = {path.stem for path in (killed / "data/shards").glob("*.json")}
    assert len(there) > 3
    with pytest.raises(BadInputError, match="no checkpoint yet") as caught:
        resume(ResumeRequest(killed), [])
    assert "give its minitx train command again, which encodes only" in caught.value.fix

    for module in (shards, encoded):
        monkeypatch.setattr(module, "SHORTEST", 4_000)
    monkeypatch.setattr(shards, "LONGEST", 12_000)
    made, encode = [], encoded.encode_shards

    def counted(planned, *rest):
        made.extend(planned)
        return encode(planned, *rest)

    monkeypatch.setattr(encoded, "encode_shards", counted)
    finished = train(TrainRequest(**REQUEST, out=killed if out else None), [])
    assert finished.run == (killed if out else Path("runs/notes-002"))
    noted = json.loads((finished.run / "data/corpus.json").read_text())["shards"]
    keys = {shard["key"] for part in noted.values() for shard in part}
    assert there < keys
    assert len(made) == len(keys) - len(there)
