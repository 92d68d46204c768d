"""Files of tokenizers: ours and GPT-2's kind open, here and in transformers; damaged ones don't."""

import copy
import json
import os
import time

import pytest

from minitx.errors import BadInputError, DamagedFileError, MinitxError
from minitx.tokenizer import kinds, load_tokenizer, train_tokenizer

TEXT = (
    "The  quick brown fox\n\njumps over 12 lazy dogs, doesn't it?\tnaïve café 中文 \r\n end. " * 4
)
SIZES = {"bpe": 300, "char": 0, "word": 0}
SAMPLES = [
    "The  quick brown fox\n\njumps",
    " leading and trailing ",
    "doesn't , . ! ? it",
    "naïve café 中文\r\n\tend",
    "<unk> unseen žluť 👩‍💻",
    "\n",
]


@pytest.fixture(params=["bpe", "char", "word"])
def saved(request, tmp_path):
    tokenizer = train_tokenizer(TEXT, request.param, SIZES[request.param])
    tokenizer.save(tmp_path / "made" / "here")
    return tokenizer, tmp_path / "made" / "here"


def test_what_is_saved_loads(saved):
    tokenizer, directory = saved
    again = load_tokenizer(directory)
    assert type(again) is type(tokenizer)
    assert again.kind == tokenizer.kind
    assert again.digest == tokenizer.digest
    assert again.json_bytes == tokenizer.json_bytes == (directory / "tokenizer.json").read_bytes()
    assert again.vocab_size == tokenizer.vocab_size
    assert again.unknown_id == tokenizer.unknown_id
    for text in SAMPLES:
        ids = tokenizer.encode(text, unknown="replace")
        assert again.encode(text, unknown="replace").tolist() == ids.tolist()
        assert again.decode(ids) == tokenizer.decode(ids)


def test_transformers_opens_it_and_agrees(saved):
    transformers = pytest.importorskip("transformers")
    tokenizer, directory = saved
    other = transformers.AutoTokenizer.from_pretrained(directory)
    assert len(other) == tokenizer.vocab_size
    for text in SAMPLES:
        ids = tokenizer.encode(text, unknown="replace").tolist()
        assert other.encode(text) == ids
        assert other.decode(ids) == tokenizer.decode(ids)


def test_what_transformers_saves_is_the_same_tokenizer(saved, tmp_path):
    transformers = pytest.importorskip("transformers")
    tokenizer, directory = saved
    transformers.AutoTokenizer.from_pretrained(directory).save_pretrained(tmp_path / "other")
    again = load_tokenizer(tmp_path / "other")
    assert again.kind == tokenizer.kind
    for text in SAMPLES:
        ids = tokenizer.encode(text, unknown="replace").tolist()
        assert again.encode(text, unknown="replace").tolist() == ids


def gpt2_like():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator([TEXT], trainer)
    return backend


def write(directory, content):
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    (directory / "tokenizer.json").write_bytes(raw)
    return directory


def test_gpt2_s_kind_is_bpe(tmp_path, monkeypatch):
    from minitx.tokenizer import base

    backend = gpt2_like()
    content = json.loads(backend.to_str())
    del content["model"]["type"], content["normalizer"], content["pre_tokenizer"]["use_regex"]
    tokenizer = load_tokenizer(write(tmp_path, content))
    assert tokenizer.kind == "bpe"
    assert tokenizer.vocab_size == backend.get_vocab_size()
    text = TEXT + "a<|endoftext|>\nb <|endoftext|> c\n\n  d" + "\nlines" * 20
    monkeypatch.setattr(base, "_CHUNK", 10)
    monkeypatch.setattr(base, "_CHUNKS_AT_ONCE", 1)
    assert len(list(tokenizer.encode_parts(text))) > 5
    assert tokenizer.encode(text).tolist() == backend.encode(text).ids
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.token_bytes(0) == b"<|endoftext|>"
    # Kept and opened again it is the same.
    tokenizer.save(tmp_path / "again")
    assert load_tokenizer(tmp_path / "again").digest == tokenizer.digest


@pytest.mark.parametrize("between", ["", " ", "\n"])
def test_gpt2_s_kind_is_cut_within_a_line_and_never_within_an_added_token(
    tmp_path, monkeypatch, between
):
    from minitx.tokenizer import base

    backend = gpt2_like()
    backend.add_special_tokens(["<|a|b|c|d|>"])
    tokenizer = load_tokenizer(write(tmp_path, json.loads(backend.to_str())))
    text = between.join(
        ["it's", "a<|a|b|c|d|>b,", "naïve中文", "<|endoftext|>", "we'll", "!!!"] * 30
    )
    whole = backend.encode(text).ids
    for size in range(12, 40):
        monkeypatch.setattr(base, "_CHUNK", size)
        assert tokenizer.encode(text).tolist() == whole
    monkeypatch.setattr(base, "_CHUNKS_AT_ONCE", 1)
    assert len(list(tokenizer.encode_parts(text[i : i + 9] for i in range(0, len(text), 9)))) > 9


def test_a_token_with_a_space_in_it_is_never_cut(tmp_path, monkeypatch):
    from minitx.tokenizer import base

    backend = gpt2_like()
    backend.add_special_tokens(["to be"])
    tokenizer = load_tokenizer(write(tmp_path, json.loads(backend.to_str())))
    monkeypatch.setattr(base, "_CHUNK", 2)
    assert tokenizer.encode("or to be or to be").tolist() == backend.encode("or to be or to be").ids


def test_tokenizers_that_can_t_be_cut_are_encoded_whole(tmp_path, monkeypatch):
    from minitx.tokenizer import base

    backend = gpt2_like()
    plain = json.loads(backend.to_str())
    (first,), after = plain["added_tokens"], backend.get_vocab_size()
    monkeypatch.setattr(base, "_CHUNK", 10)
    for change in (
        {"normalizer": {"type": "NFC"}},
        {"added_tokens": [{**first, "rstrip": True}]},
        {"added_tokens": [first, {**first, "id": after, "content": "o>\nt"}]},
        {"pre_tokenizer": {**plain["pre_tokenizer"], "add_prefix_space": True}},
        {
            "pre_tokenizer": {
                "type": "Sequence",
                "pretokenizers": [
                    {"type": "Split", "pattern": {"Regex": r"\s+"}, "behavior": "Isolated",
                     "invert": False},
                    {**plain["pre_tokenizer"], "use_regex": False},
                ],
            }
        },
    ):  # fmt: skip
        content = {**plain, **change}
        text = "one\n two <|endoftext|>\nthree e\u0301\nfour <|endo>\nto>\nt five"
        tokenizer = load_tokenizer(write(tmp_path, content))
        from tokenizers import Tokenizer

        assert (
            tokenizer.encode(text).tolist()
            == Tokenizer.from_str(json.dumps(content)).encode(text).ids
        )


def test_padding_truncation_and_templates_of_a_file_are_not_used(tmp_path):
    tokenizer = train_tokenizer(TEXT, "bpe", 300)
    content = json.loads(tokenizer.json_bytes)
    content["truncation"] = {
        "direction": "Right", "max_length": 1, "strategy": "LongestFirst", "stride": 0,
    }  # fmt: skip
    content["padding"] = {
        "strategy": {"Fixed": 10**12}, "direction": "Right", "pad_to_multiple_of": None,
        "pad_id": 0, "pad_type_id": 0, "pad_token": "x",
    }  # fmt: skip
    content["post_processor"] = {
        "type": "TemplateProcessing", "single": [], "pair": [], "special_tokens": {},
    }  # fmt: skip
    loaded = load_tokenizer(write(tmp_path, content))
    assert loaded.encode(TEXT).tolist() == tokenizer.encode(TEXT).tolist()


SOUND = {kind: json.loads(train_tokenizer(TEXT, kind, SIZES[kind]).json_bytes) for kind in SIZES}


def changed(kind, *path, to):
    content = copy.deepcopy(SOUND[kind])
    at = content
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = to
    return content


def added(content, **more):
    flags = ("special", "lstrip", "rstrip", "normalized", "single_word")
    return {"id": 300, "content": content, **dict.fromkeys(flags, False), **more}


VOCABULARY = SOUND["bpe"]["model"]["vocab"]
N = len(VOCABULARY)
DAMAGED = {
    "empty file": b"",
    "binary": b"\xff\xfe\x00\x01",
    "cut off": json.dumps(SOUND["bpe"]).encode()[:-500],
    "nested": b"[" * 2_000_000,
    "nested model": b'{"model":' * 200_000,
    "nested in a sound one": json.dumps(SOUND["bpe"]).encode()[:-1] + b',"x":' + b"[" * 90_000,
    "no object": b"[]",
    "no model": {"added_tokens": []},
    "model of null": {"model": None},
    "vocabulary of null": changed("bpe", "model", "vocab", to=None),
    "vocabulary empty": changed("bpe", "model", "vocab", to={}),
    "vocabulary a list": changed("bpe", "model", "vocab", to=["a"]),
    "huge id": changed("bpe", "model", "vocab", to={**VOCABULARY, "zz": 2**40}),
    "enormous id": changed("bpe", "model", "vocab", to={**VOCABULARY, "zz": 10**40}),
    "negative id": changed("bpe", "model", "vocab", to={**VOCABULARY, "zz": -1}),
    "id twice": changed("bpe", "model", "vocab", to={**VOCABULARY, "zz": 5}),
    "id twice and one skipped": changed(
        "bpe", "model", "vocab", to={**VOCABULARY, "zz": 5, "yy": N + 1}
    ),
    "id of text": changed("bpe", "model", "vocab", to={**VOCABULARY, "zz": "5"}),
    "id of a fraction": changed("bpe", "model", "vocab", to={**VOCABULARY, "zz": float(N)}),
    "id true": changed("word", "model", "vocab", to={"<unk>": False, "a": True}),
    "id a list": changed("bpe", "model", "vocab", to={**VOCABULARY, "zz": [N]}),
    "token of no bytes": changed("bpe", "model", "vocab", to={**VOCABULARY, "中": N}),
    "merge of strangers": changed("bpe", "model", "merges", to=[["zzz", "yyy"]]),
    "merges of text": changed("bpe", "model", "merges", to="abc"),
    "bad expression": changed(
        "bpe", "pre_tokenizer", "pretokenizers", 0, "pattern", to={"Regex": "("}
    ),
    "step a list": changed("bpe", "pre_tokenizer", to=[]),
    "normalizer of text": changed("bpe", "normalizer", to="lower"),
    "added of text": changed("bpe", "added_tokens", to={"a": 1}),
    "added a number": changed("bpe", "added_tokens", to=[3]),
    "added without id": changed("bpe", "added_tokens", to=[{"content": "x"}]),
    "added far off": changed("bpe", "added_tokens", to=[added("x", id=10**9)]),
    "added by the million": changed(
        "bpe", "added_tokens", to=[added(f"x{i}", id=N + i) for i in range(70_000)]
    ),
    "characters of two": changed("char", "model", "vocab", to={"ab": 0, "<unk>": 1}),
    "half a character": changed("char", "model", "vocab", to={"\ud800": 0, "<unk>": 1}),
    "word of no bytes": changed("word", "model", "vocab", to={"\u4e2d": 0, "<unk>": 1}),
    "no unknown": changed("word", "model", "vocab", to={"a": 0}),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_files_are_told_at_once(tmp_path, name):
    write(tmp_path, DAMAGED[name])
    begin = time.process_time()
    with pytest.raises(DamagedFileError, match=r"tokenizer\.json is damaged") as caught:
        load_tokenizer(tmp_path)
    assert time.process_time() - begin < 2  # However busy the machine is.
    assert "\n" not in str(caught.value)


FOREIGN = {
    "unigram": ({"model": {"type": "Unigram", "vocab": [["a", 0.0]]}}, "Unigram"),
    "word piece": ({"model": {"type": "WordPiece", "vocab": {"a": 0}}}, "WordPiece"),
    "no type": ({"model": {"vocab": {"a": 0}}}, "None"),
    "BPE of characters": (changed("bpe", "pre_tokenizer", to=None), "not over bytes"),
    "no decoder": (changed("bpe", "decoder", to=None), "decoder"),
    "lower case": (changed("bpe", "normalizer", to={"type": "Lowercase"}), "Lowercase"),
    "dropout": (changed("bpe", "model", "dropout", to=0.1), "dropout"),
    "suffix": (changed("bpe", "model", "end_of_word_suffix", to="</w>"), "end_of_word_suffix"),
    "bytes lacking": (
        {**SOUND["bpe"], "model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}},
        "256 bytes",
    ),
    "words cut elsewhere": (
        changed("word", "pre_tokenizer", to={"type": "Whitespace"}), "cut in another way"
    ),
    "words by another pattern": (
        changed("word", "pre_tokenizer", "pretokenizers", 0, "pattern", to={"Regex": "a"}),
        "cut in another way",
    ),
    "words with a space before": (
        changed("word", "pre_tokenizer", "pretokenizers", 1, "add_prefix_space", to=True),
        "cut in another way",
    ),
    "words not cut": (changed("word", "pre_tokenizer", to=None), "cut in another way"),
    "words in lower case": (
        changed("word", "normalizer", to={"type": "Lowercase"}), "cut in another way"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FOREIGN)
def test_other_kinds_are_refused_with_the_reason(tmp_path, name):
    content, reason = FOREIGN[name]
    with pytest.raises(BadInputError, match=reason) as caught:
        load_tokenizer(write(tmp_path, content))
    assert "byte-level BPE such as GPT-2's" in str(caught.value)


@pytest.mark.parametrize("kind", ["bpe", "char", "word"])
def test_a_flipped_byte_is_an_error_of_ours_or_another_tokenizer(tmp_path, kind):
    sound = train_tokenizer(TEXT, kind, SIZES[kind])
    for at in range(0, len(sound.json_bytes), max(1, len(sound.json_bytes) // 60)):
        raw = bytearray(sound.json_bytes)
        raw[at] ^= 1 << (at % 7)
        try:
            loaded = load_tokenizer(write(tmp_path, bytes(raw)))
        except MinitxError:
            continue
        assert loaded.digest != sound.digest or json.loads(bytes(raw)) == SOUND[kind]


@pytest.mark.parametrize("kind", ["char", "word"])
def test_plain_entries_of_earlier_versions_mean_the_same(tmp_path, kind):
    ours = train_tokenizer(TEXT, kind, 0)
    content = copy.deepcopy(SOUND[kind])
    content["pre_tokenizer"] = content["pre_tokenizer"]["pretokenizers"][0]
    content["decoder"]["decoders"][1] = {"type": "Fuse"}
    pieces = [ours.decode([i]) for i in range(ours.vocab_size - 2)]
    content["model"]["vocab"] = {piece: i for i, piece in enumerate([*pieces, "<unk>"])}
    earlier = load_tokenizer(write(tmp_path, content))
    text = TEXT + " \u4e2d\u6587 never \x00 <unk>"
    ids = ours.encode(text, "replace")
    assert (earlier.encode(text, "replace") == ids).all()
    assert earlier.decode(ids) == ours.decode(ids) == earlier.backend.decode(ids.tolist())
    assert earlier.unknown_characters(text) == ours.unknown_characters(text)


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(BadInputError, match=r"gone does not exist. Name a directory"):
        load_tokenizer(tmp_path / "gone")
    with pytest.raises(BadInputError, match=r"has no tokenizer.json. Make one with"):
        load_tokenizer(tmp_path)
    write(tmp_path, b"{}")
    with pytest.raises(BadInputError, match="is a file"):
        load_tokenizer(tmp_path / "tokenizer.json")


def test_a_file_too_large_is_not_read(tmp_path):
    write(tmp_path, b"")
    os.truncate(tmp_path / "tokenizer.json", kinds.LARGEST_FILE + 1)
    with pytest.raises(DamagedFileError, match="67,108,865 bytes"):
        load_tokenizer(tmp_path)


def test_unreadable_and_unwritable(tmp_path, monkeypatch):
    tokenizer = train_tokenizer(TEXT, "char", 0)
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInputError, match=r"can't be written to .*file"):
        tokenizer.save(tmp_path / "file")
    tokenizer.save(tmp_path)

    def refuse(path, largest):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(kinds, "read_bounded", refuse)
    with pytest.raises(BadInputError, match=r"can't be read \(Permission denied\)"):
        load_tokenizer(tmp_path)


def test_an_interrupt_is_no_damage(tmp_path, monkeypatch):
    def interrupt(content):
        raise KeyboardInterrupt

    monkeypatch.setattr(kinds, "_require_vocabulary", interrupt)
    train_tokenizer(TEXT, "char", 0).save(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("value", [b"{}", b"[]", b"0", b'"ab"'])
def test_file_made_to_fill_the_memory_is_refused_unparsed(tmp_path, monkeypatch, value):
    count = kinds._MOST_VALUES + 2
    (tmp_path / "tokenizer.json").write_bytes(b"[" + b",".join([value] * count) + b"]")
    monkeypatch.setattr(json, "loads", None)
    with pytest.raises(DamagedFileError, match="more values than any tokenizer"):
        load_tokenizer(tmp_path)
