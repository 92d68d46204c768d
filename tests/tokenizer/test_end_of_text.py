"""The end of a document: an id that no text can spell, in every kind of tokenizer."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer

from minitx.errors import BadInputError
from minitx.tokenizer import load_tokenizer, train_tokenizer, with_end_of_text
from minitx.tokenizer.base import END_OF_TEXT, silent_ids

TEXT = "the cat sat on the mat, naïvely <|endoftext|> end of text |> <| <|end\n" * 30
KINDS = {"char": 0, "word": 0, "bpe": 400}
NAMES = ["<|endoftext|>", "<|endo", "ftext|>", "endoftext", "<unk>", "<|", "|>", "<|x|>"]
spelled = st.lists(st.sampled_from(NAMES) | st.text(max_size=4), max_size=9).map("".join)


def from_elsewhere(special):
    """A byte-level BPE as other programs make it, in which these are found before all else."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=350, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    backend.train_from_iterator([TEXT], trainer)
    backend.add_special_tokens(special)
    return json.loads(backend.to_str())


def opened(directory, content):
    directory.mkdir(exist_ok=True)
    (directory / "tokenizer.json").write_text(json.dumps(content))
    return load_tokenizer(directory)


@pytest.fixture(scope="module")
def all_kinds(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tokenizers")
    kinds = {kind: train_tokenizer(TEXT, kind, size) for kind, size in KINDS.items()}
    for kind in KINDS:  # Of earlier versions, which had none.
        content = json.loads(kinds[kind].json_bytes)
        del content["model"]["vocab"][END_OF_TEXT]
        kinds[f"earlier {kind}"] = opened(directory / kind, content)
        assert kinds[f"earlier {kind}"].end_id is None
    for name, special in {
        "none": [], "its own": [END_OF_TEXT], "another": ["<|x|>"],
        "two": ["<|x|>", END_OF_TEXT], "two, the other way": [END_OF_TEXT, "<|x|>"],
    }.items():  # fmt: skip
        kinds[f"from elsewhere with {name}"] = opened(directory / name, from_elsewhere(special))
    return kinds


@settings(deadline=None, max_examples=150)
@given(text=spelled)
def test_no_text_spells_it_and_every_text_comes_back(all_kinds, text):
    text = text.encode("utf-8", "replace").decode()
    for name, given_ in all_kinds.items():
        tokenizer = with_end_of_text(given_)
        end = tokenizer.end_id
        assert end is not None, name
        ids = tokenizer.encode(text, "replace").tolist()
        assert end not in ids, name
        if tokenizer.unknown_id not in ids:
            assert tokenizer.decode(ids) == text, name
            assert tokenizer.decode([end, *ids, end]) == text, name
        if END_OF_TEXT not in text:  # All else means what it meant.
            assert ids == given_.encode(text, "replace").tolist(), name


def test_it_is_the_same_after_it_was_kept(all_kinds, tmp_path):
    for number, (name, given_) in enumerate(all_kinds.items()):
        tokenizer = with_end_of_text(given_)
        assert with_end_of_text(tokenizer) is tokenizer
        tokenizer.save(tmp_path / str(number))
        again = load_tokenizer(tmp_path / str(number))
        assert (again.digest, again.end_id) == (tokenizer.digest, tokenizer.end_id), name
        assert (tokenizer.token_bytes(tokenizer.end_id), tokenizer.piece(tokenizer.end_id)) == (
            b"", END_OF_TEXT,
        )  # fmt: skip
        if given_.end_id is not None:
            assert (tokenizer.end_id, tokenizer.vocab_size) == (given_.end_id, given_.vocab_size)
        else:
            assert tokenizer.end_id == given_.vocab_size == tokenizer.vocab_size - 1
        theirs = AutoTokenizer.from_pretrained(tmp_path / str(number))
        assert (theirs.eos_token, theirs.eos_token_id) == (END_OF_TEXT, tokenizer.end_id), name
        if not tokenizer.backend.get_added_tokens_decoder():
            text = "the cat <|endoftext|>\n<|endoftext|>"
            assert theirs(text).input_ids == tokenizer.encode(text, "replace").tolist(), name
        ids = [*tokenizer.encode("the cat").tolist(), tokenizer.end_id]
        assert theirs.decode(ids, skip_special_tokens=True) == "the cat", name


def test_one_that_takes_any_text_for_a_piece_is_refused(tmp_path):
    content = from_elsewhere([END_OF_TEXT])
    content["pre_tokenizer"]["use_regex"] = False
    content["model"]["ignore_merges"] = True
    with pytest.raises(BadInputError, match="makes one token of the text <|endoftext|>"):
        with_end_of_text(opened(tmp_path, content))


def test_it_is_written_by_who_was_trained_with_it_alone(all_kinds):
    for name, tokenizer in all_kinds.items():
        silent = {tokenizer.unknown_id} - {None}
        if tokenizer.end_id is None or "elsewhere" in name:
            # Nothing, or what a text of such a run could spell.
            assert silent_ids(tokenizer, None) == sorted(silent)
        else:
            assert silent_ids(tokenizer, None) == sorted({*silent, tokenizer.end_id})
        assert silent_ids(tokenizer, tokenizer.end_id) == sorted(silent)
