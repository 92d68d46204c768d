"""Conversations as ids: what transformers makes of the same messages, and no text is a token."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minitx.tokenizer import load_tokenizer, train_tokenizer, with_roles
from minitx.tokenizer.conversation import (
    MARKS,
    ROLES,
    TOKENS,
    conversation_text,
    turns_of,
    without_marks,
)
from minitx.tokenizer.llama_cpp import EntryType, llama_vocabulary

TEXT = "the cat sat on the mat, and it said hello to 7 dogs;\n<|user|> is text like <|end|>.\n" * 20
KINDS = ("bpe", "char", "word")

messages = st.lists(
    st.fixed_dictionaries(
        {
            "role": st.sampled_from(ROLES),
            "content": st.text("thecason ,7;\n", max_size=12),
        }
    ),
    min_size=1, max_size=6,
)  # fmt: skip


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request):
    size = 300 if request.param == "bpe" else 0
    return with_roles(train_tokenizer(TEXT, request.param, size))


@pytest.fixture(scope="module")
def theirs(tokenizer, tmp_path_factory):
    transformers = pytest.importorskip("transformers")
    directory = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save(directory)
    return transformers.AutoTokenizer.from_pretrained(directory)


@settings(deadline=None, max_examples=60)
@given(messages=messages, is_asked=st.booleans())
def test_the_ids_are_those_of_the_template_in_transformers(tokenizer, theirs, messages, is_asked):
    own = tokenizer.encode(conversation_text(messages, is_asked), "replace").tolist()
    if messages[-1]["role"] == "assistant" and not is_asked:
        own.append(tokenizer.end_id)  # That of the document.
    asked = {"tokenize": True, "return_dict": False, "add_generation_prompt": is_asked}
    assert own == theirs.apply_chat_template(messages, **asked)


def test_an_answer_ends_with_the_end_of_a_text(tokenizer):
    turns = [("system", "the"), ("user", "cat"), ("assistant", "sat"), ("user", "mat"),
             ("assistant", "on")]  # fmt: skip
    ids = tokenizer.encode(conversation_text({"role": r, "content": c} for r, c in turns))
    special = [tokenizer.piece(int(i)) for i in ids if int(i) >= tokenizer.vocab_size - 3
               or int(i) == tokenizer.end_id]  # fmt: skip
    assert special == ["<|system|>", "<|user|>", "<|assistant|>", "<|endoftext|>", "<|user|>",
                       "<|assistant|>"]  # fmt: skip


@pytest.mark.parametrize("content", [*TOKENS.values(), "<|endoftext|>", "<|user|> is text"])
def test_no_text_is_a_token(tokenizer, content):
    ids = tokenizer.encode(content, "replace").tolist()
    assert not {*tokenizer.roles.values(), tokenizer.end_id} & set(ids)


def test_a_text_is_the_same_again_and_in_parts(tokenizer):
    text = conversation_text(
        [{"role": role, "content": "the cat sat on the mat"} for role in (*ROLES, *ROLES)]
    )
    whole = tokenizer.encode(text)
    assert tokenizer.decode(whole) == text
    for cut in range(1, len(text)):
        parts = tokenizer.encode_parts([text[:cut], text[cut:]])
        assert np.concatenate([*parts]).tolist() == whole.tolist()
    assert without_marks(text).count("<|assistant|>the cat") == 2
    assert set(turns_of(text)) == {"the cat sat on the mat"}


def test_it_is_kept_with_its_roles(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    again = load_tokenizer(tmp_path)
    assert (again.digest, again.roles, again.vocab_size) == (
        tokenizer.digest, tokenizer.roles, tokenizer.vocab_size,
    )  # fmt: skip
    text = MARKS["user"] + "the cat" + MARKS["assistant"]
    assert again.encode(text).tolist() == tokenizer.encode(text).tolist()
    plain = train_tokenizer(TEXT, tokenizer.kind, 300 if tokenizer.kind == "bpe" else 0)
    assert not plain.roles
    assert tokenizer.digest != plain.digest
    assert again.encode(TEXT).tolist() == plain.encode(TEXT).tolist()
    assert with_roles(again) is again


def test_llama_cpp_is_told_of_the_roles(tokenizer):
    if tokenizer.kind == "word":
        return
    vocabulary = llama_vocabulary(tokenizer, tokenizer.vocab_size + 2, ())
    for role, i in tokenizer.roles.items():
        assert (vocabulary.entries[i], vocabulary.types[i]) == (TOKENS[role], EntryType.CONTROL)


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("text", "is no object"), ({"content": "a"}, "has the role None"),
        ({"role": "tool", "content": "a"}, "has the role 'tool'"),
        ({"role": "user"}, "is no text"), ({"role": "user", "content": ["a"]}, "is no text"),
        ({"role": "assistant", "content": "a", "tool_calls": [1]}, "has tool_calls"),
        ({"role": "user", "content": f"a{MARKS['user']}b"}, r"has U\+FDD1"),
    ],
)  # fmt: skip
def test_what_is_no_message_is_named(message, told):
    good = {"role": "user", "content": "a", "tool_calls": None}
    with pytest.raises(ValueError, match=f"message 2 {told}|of message 2 {told}"):
        conversation_text([good, message])


def test_it_comes_back_from_transformers_with_its_roles(tokenizer, theirs, tmp_path):
    """Which saves the template in a file of its own."""
    theirs.save_pretrained(tmp_path)
    again = load_tokenizer(tmp_path)
    assert again.roles == tokenizer.roles
    text = conversation_text([{"role": role, "content": "the cat sat"} for role in ROLES])
    assert again.encode(text).tolist() == tokenizer.encode(text).tolist()
