"""A format of the corpus is one class that registers itself, also from outside the package."""

import io

import pytest
from corpus_parts import read, text_of

from minitx.corpus import encode_file, load_encoded
from minitx.corpus.documents import Document
from minitx.corpus.readers import BEGINNING, READERS, CorpusReader, format_of
from minitx.errors import BadInputError
from minitx.tokenizer import train_tokenizer

SCRIPT = b"%SCRIPT\n" + b"".join(b"Bee %d|Hello, flower %d!\n" % (i, i % 7) for i in range(400))
SPOKEN = "".join(f"Hello, flower {i % 7}!\n" for i in range(400))


class Script(CorpusReader):
    """What is said in a script: the part of each line after the bar."""

    suffixes = (".script",)

    def recognises(self, name, beginning):
        assert len(beginning) <= BEGINNING
        return super().recognises(name, beginning) or beginning.startswith(b"%SCRIPT")

    def documents(self, file, name, reading):
        yield Document(self.spoken(file, name), name)

    def spoken(self, file, name):
        for number, line in enumerate(file, start=1):
            if number == 1:
                continue
            if b"|" not in line:
                raise BadInputError(f"{name} has no bar in line {number}", "Give each line one")
            yield line.partition(b"|")[2].decode()


@pytest.fixture(autouse=True)
def _script(inside, monkeypatch):
    READERS.names()  # those of minitx come first
    monkeypatch.setattr(READERS, "_kinds", dict(READERS._kinds))
    READERS.register("script")(Script)


def test_it_is_recognised_by_name_and_by_first_bytes(inside):
    (inside / "d").mkdir()
    (inside / "d/play.script").write_bytes(SCRIPT)
    (inside / "d/note.txt").write_text("A note.\n")
    (inside / "d/picture.png").write_bytes(b"\x89PNG\0")
    (inside / "no-suffix").write_bytes(SCRIPT)
    assert read(["d"]) == ["A note.\n", SPOKEN]
    assert read(["no-suffix"]) == [SPOKEN]
    assert read(["-"], io.BytesIO(SCRIPT)) == [SPOKEN]
    assert format_of("note.txt", b"A note.") == "text"
    assert format_of("standard input", b"\xef\xbb\xbfid\tbody\r\n1\tA note.\r\n") == "csv"
    assert format_of("standard input", b'stars,text\n5,"Good,\nand cheap."\n4,So so.\n') == "csv"
    assert format_of("standard input", b"text, they say\nis more, or less\n") == "text"
    assert format_of("standard input", b"id,text\nThis is no table.\n") == "text"
    assert (
        format_of("standard input", b'{"text":"a","body":"b"}\n{"text":"c","body":"d"}\n') != "csv"
    )
    assert format_of("note.txt", b"id,text\n1,A note.\n") == "text"
    assert format_of("no name that says anything", b"") == "text"


def test_its_errors_are_told(inside):
    (inside / "bad.script").write_bytes(SCRIPT + b"silence\n")
    with pytest.raises(BadInputError, match=r"bad\.script has no bar in line 402"):
        read(["bad.script"])


def test_a_file_to_be_scored_is_read_by_it_too(inside):
    (inside / "play.script").write_bytes(SCRIPT)
    tokenizer = train_tokenizer(SPOKEN, "char", 0)
    encoded = encode_file(inside / "play.script", tokenizer)
    assert encoded.ids.tolist() == tokenizer.encode(SPOKEN).tolist()
    assert encoded.content.tobytes() == SPOKEN.encode()


def test_a_model_is_trained_on_it(inside):
    from small_runs import TINY_MODEL, TINY_TRAIN

    from minitx.workflows.train import TrainRequest, train

    (inside / "play.script").write_bytes(SCRIPT)
    request = TrainRequest(
        data={"corpus": ("play.script",)},
        model=TINY_MODEL,
        train={**TINY_TRAIN, "steps": 4},
        out=inside / "run",
    )
    run = train(request, []).run
    corpus = load_encoded(run / "data")
    assert text_of(corpus, "train") + text_of(corpus, "holdout") == SPOKEN
