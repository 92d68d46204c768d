"""What `minitx corpus` shows of a corpus, whatever is in it."""

import io
import json

import pytest
from rich.cells import cell_len
from rich.console import Console

from minitx.config import DataConfig
from minitx.report.terminal.corpus_view import corpus_view, print_corpus
from minitx.workflows.corpus import study_corpus

CORPORA = {
    "prose": ["To be, or not to be: that is the question.\n" * 9] * 3,
    "right to left": ["שלום עולם.\n", "مرحبا بالعالم.\n"] * 30,
    "without spaces": ["人之初性本善" * 40],
    "commands": ["\x1b[2J\x07 [bold]markup[/bold] [/] \u202e\r\n" + str(i) for i in range(40)],
    "one long line": ["x" * 5000],
}


def studied(directory, texts, **data):
    path = directory / "notes.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return study_corpus(DataConfig((str(path),), **data), {})


def drawn(study, width, ascii_only=False):
    file = io.StringIO()
    console = Console(file=file, width=width)
    console.print(corpus_view(study, ascii_only))
    return file.getvalue()


@pytest.mark.parametrize("name", CORPORA)
def test_it_fits_and_no_text_commands_the_terminal(tmp_path, name):
    study = studied(tmp_path, CORPORA[name])
    for width in (60, 80, 200):
        shown = drawn(study, width)
        assert max(map(cell_len, shown.splitlines())) <= width
        assert not set("\x1b\x07\r\u202e") & set(shown)
        assert "…" not in shown
        assert "None" not in shown
    assert drawn(study, 80, ascii_only=True).replace("─", "-").isascii()


def test_markup_in_a_text_stands_as_it_is(tmp_path):
    study = studied(tmp_path, CORPORA["commands"])
    assert "[ b o l d ]" in drawn(study, 200)


def test_what_to_mend_is_told_with_how_often(tmp_path):
    texts = ["caf\u00c3\u00a9\ufffd\r\n"] + [f"note {i}\n" for i in range(30)] + ["note 1\n"] * 2
    told = " ".join(drawn(studied(tmp_path, texts), 200).split())
    assert "1 characters that an earlier conversion lost (U+FFFD)" in told
    assert "1 characters whose UTF-8 was encoded twice" in told
    assert "1 carriage returns" in told
    assert "control characters" not in told
    assert "2 documents are copies of an earlier one; --dedup leaves them out" in told
    told = " ".join(drawn(studied(tmp_path, texts, dedup=True), 200).split())
    assert "left out 2 documents: duplicates" in told
    assert "copies" not in told


def test_json_is_one_line_that_commands_nothing(tmp_path, capsys):
    study = studied(tmp_path, CORPORA["commands"])
    print_corpus(study, as_json=True)
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert out.rstrip("\n").isprintable()
    values = json.loads(out)
    assert "\u202e" in values["shown"][0]["pieces"]
    assert values["problems"]["controls"] == 80
