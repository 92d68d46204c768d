"""`minitx corpus` from the shell."""

import json

import pytest


@pytest.fixture
def table(inside):
    rows = "".join(f'{i % 5},"Review {i}, it was ""fine""."\n' for i in range(60))
    (inside / "table.csv").write_text("stars,review\n" + rows)
    return inside


def test_a_table(minitx, table):
    done = minitx("corpus", "table.csv", "--text-field", "review")
    assert done.code == 0, done.err
    assert "1 csv" in done.out
    assert "an epoch" in done.out
    assert 'table.csv:2\nR e v i e w ␣ 0 , ␣ i t ␣ w a s ␣ " f i n e " . <|endoftext|>' in done.out


def test_a_field_is_a_column_too(minitx, table):
    column, field = (minitx("corpus", "table.csv", f"--text-{what}", "review", "--json").out
                     for what in ("column", "field"))  # fmt: skip
    assert json.loads(column)["formats"] == {"csv": 1}
    assert column == field


def test_json(minitx, table):
    done = minitx("corpus", "table.csv", "--text-field", "review", "--kind", "bpe", "--json")
    values = json.loads(done.out)
    assert values["formats"] == {"csv": 1}
    assert values["tokenizer"]["kind"] == "bpe"
    assert sum(part["documents"] for part in values["parts"].values()) == 60
    assert values["audit"]["share"] >= 0
    assert done.err == ""


@pytest.mark.parametrize("columns", [80, 200])
def test_it_fits_the_terminal(minitx, table, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    done = minitx("corpus", "table.csv", "--text-field", "review")
    assert max(map(len, done.out.splitlines())) <= columns


def test_the_default_and_a_pipe(minitx, inside):
    assert "python-reference" in minitx("corpus").out
    done = minitx("corpus", "-", stdin="A text of its own.\n" * 50)
    assert done.code == 0, done.err
    assert "1 text" in done.out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nothing.txt"], "does not exist"),
        (["empty.txt"], "has no text in it"),
        (["table.csv"], "--text-field"),
        (["table.csv", "--text-field", "text"], "has no column 'text', but stars, review"),
        (["table.csv", "--format", "cvs"], "there is no format 'cvs'"),
        (["plain.txt", "--text-field", "review"], "plain.txt is plain text, without fields"),
    ],
)
def test_what_is_no_corpus_is_refused_in_one_line(minitx, table, arguments, told):
    (table / "empty.txt").write_text("\n")
    (table / "plain.txt").write_text("Of which all is text.\n" * 50)
    done = minitx("corpus", *arguments)
    assert done.code == 2
    assert told in done.err
    assert done.err.count("\n") == 1
    assert done.out == ""
