import json

import pytest

from minitx.tokenizer import load_tokenizer


@pytest.fixture
def mine(minitx, inside, verses):
    done = minitx("tokenize", verses, "--kind", "bpe", "--vocab-size", 280, "--out", "mine")
    assert done.code == 0, done.err
    return inside / "mine"


def test_a_corpus_is_reported_part_by_part(minitx, verses):
    done = minitx("tokenize", verses, "--kind", "char", "--json")
    values = json.loads(done.out)
    assert set(values["parts"]) == {"train part", "holdout"}
    text = verses.read_bytes().decode()
    cut = text.index("\n", int(len(text) * 0.9) - 1) + 1  # The tail begins with a line.
    train, holdout = values["parts"]["train part"], values["parts"]["holdout"]
    assert (train["bytes"], holdout["bytes"]) == (cut, len(text) - cut)
    assert train["tokens"] == len(train["ids"]) == cut
    assert train["round_trip"] is True
    assert train["bytes_per_token"] == 1.0
    assert train["unknown_rate"] == 0.0
    assert values["kind"] == "char"


def test_the_embedded_default_corpus(minitx):
    done = minitx("tokenize", "--kind", "bpe", "--vocab-size", 300, "--show", 5)
    assert done.code == 0, done.err
    assert "bpe, 300 ids" in done.out


def test_text_pieces_and_ids_agree(minitx, mine):
    text = "10 green bottles, naïve 😀\n\thanging"
    values = json.loads(minitx("tokenize", "--tokenizer", mine, "--text", text, "--json").out)
    tokenizer = load_tokenizer(mine)
    one = values["parts"]["text"]
    assert one["ids"] == tokenizer.encode(text).tolist()
    assert values["pieces"] == [tokenizer.piece(i) for i in one["ids"]]
    assert values["digest"] == tokenizer.digest
    assert one["round_trip"] is True
    done = minitx("tokenize", "--tokenizer", mine, "--decode", json.dumps(one["ids"]))
    assert done.out == text + "\n"


def test_a_pipe_is_encoded_and_shown_with_bars(minitx, mine):
    done = minitx("tokenize", "--tokenizer", mine, stdin="green\nbottle \x1b[31m")
    assert done.code == 0, done.err
    assert "|" in done.out
    assert "⏎" in done.out
    assert "\x1b" not in done.out
    assert "text" in done.out


def test_colour_is_off_where_it_is_not_wanted(minitx, mine, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    coloured = minitx("tokenize", "--tokenizer", mine, "--text", "green bottles").out
    assert "\x1b[" in coloured
    assert "|" not in coloured.splitlines()[0]
    monkeypatch.setenv("NO_COLOR", "1")
    assert "|" in minitx("tokenize", "--tokenizer", mine, "--text", "green bottles").out


@pytest.mark.parametrize("columns", [80, 200])
def test_fits_the_terminal(minitx, verses, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    done = minitx("tokenize", verses, "--kind", "word")
    assert max(map(len, done.out.splitlines())) <= columns


def test_show_none(minitx, mine):
    done = minitx("tokenize", "--tokenizer", mine, "--text", "green", "--show", 0)
    assert "|green" not in done.out
    assert "bytes per token" in done.out


def test_decoded_text_commands_no_terminal(minitx, mine):
    ids = load_tokenizer(mine).encode("a\x1b]0;owned\x07b").tolist()
    done = minitx("tokenize", "--tokenizer", mine, "--decode", " ".join(map(str, ids)))
    assert done.out == "a␛]0;owned␇b\n"
    as_json = minitx("tokenize", "--tokenizer", mine, "--decode", json.dumps(ids), "--json").out
    assert "\x1b" not in as_json
    assert json.loads(as_json)["text"] == "a\x1b]0;owned\x07b"


@pytest.mark.parametrize(
    ("arguments", "stdin", "words"),
    [
        (["--decode", "-"], b"\xff\xfe", "standard input is not UTF-8: byte 0"),
        (["--decode", "9" * 5000], None, "not in the vocabulary"),
        (["--decode", "1 280"], None, "token id 280 is not in the vocabulary of 280"),
        (["--decode", "-"], b"", "there are no token ids"),
        ([], b"bad \xe9", "standard input is not UTF-8: byte 4 is 0xe9"),
        ([], b"\x00", "standard input is binary"),
        (["--show", "-1", "--text", "a"], None, "--show is -1"),
        (["x" * 5000], None, "File name too long"),
        (["--text", "a\udce9"], None, "lone surrogate"),
        (["--text", "a", "--kind", "char"], None, "Give one or the other"),
        (["--text", "a", "--out", "mine/tokenizer.json"], None, "can't be written"),
    ],
)
def test_bad_input_is_one_line(minitx, mine, arguments, stdin, words):
    done = minitx("tokenize", "--tokenizer", mine, *arguments, stdin=stdin)
    assert done.code == 2
    assert done.out == ""
    (line,) = done.err.splitlines()
    assert line.startswith("error: ")
    assert words in line


def test_a_damaged_tokenizer_is_exit_code_3(minitx, mine):
    (mine / "tokenizer.json").write_text('{"model":')
    done = minitx("tokenize", "--tokenizer", mine, "--text", "a")
    assert done.code == 3
    (line,) = done.err.splitlines()
    assert "tokenizer.json is damaged" in line


def test_nothing_to_read_at_a_terminal(minitx, mine, monkeypatch):
    import io

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr("sys.stdin", Terminal())
    done = minitx("tokenize", "--tokenizer", mine)
    assert done.code == 2
    assert "pipe a text in" in done.err
