"""Conversations of models of other programs: the ids of transformers, and where answers are."""

import numpy as np
import pytest
import transformers
from chat_templates import KINDS, TEMPLATES, chat_tokenizer
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from minitx.corpus import answer_targets
from minitx.corpus.answer_targets import answers_in
from minitx.errors import BadInputError
from minitx.tokenizer import load_tokenizer, with_roles
from minitx.tokenizer.conversation import conversation_text, messages_in

contents = st.text("thecason ,7;\n\u00e9", min_size=1, max_size=12)


@st.composite
def conversations(draw):
    """Exchanges, at times with a system text before and without an answer to the last."""
    n = draw(st.integers(1, 4))
    turns = [(role, draw(contents)) for _ in range(n) for role in ("user", "assistant")]
    if draw(st.booleans()):
        turns.insert(0, ("system", draw(contents)))
    turns = turns[:-1] if draw(st.booleans()) else turns
    return [{"role": role, "content": content} for role, content in turns]


@pytest.fixture(scope="module", params=KINDS, ids="-".join)
def theirs(request):
    return chat_tokenizer(*request.param)


@pytest.fixture(scope="module")
def own(theirs, tmp_path_factory):
    directory = tmp_path_factory.mktemp("tokenizer")
    theirs.save_pretrained(directory)
    return with_roles(load_tokenizer(directory))


def their_ids(theirs, messages, is_asked):
    asked = {"tokenize": True, "return_dict": False, "add_generation_prompt": is_asked}
    return theirs.apply_chat_template(messages, **asked)


@settings(deadline=None, max_examples=60)
@given(messages=conversations())
def test_the_ids_are_those_of_transformers(theirs, own, messages):
    is_asked = messages[-1]["role"] == "user"
    # A tokenizer joins the line end before an answer to one that it begins with; a model that is
    # asked never sees that.
    assume(not any(m["role"] == "assistant" and m["content"][0] in "\n " for m in messages))
    text = conversation_text(messages, is_asked)
    assert messages_in(text) == (messages, is_asked)
    try:
        expected = their_ids(theirs, messages, is_asked)
    except Exception:
        with pytest.raises(BadInputError, match="refuses it|takes no system"):
            own.encode(text)
    else:
        ids = own.encode(text)
        assert ids.tolist() == expected
        # SentencePiece puts a space after a special token.
        assert own.decode(ids) == own.written(text) or not own._may_cut


@settings(deadline=None, max_examples=60)
@given(several=st.lists(conversations(), min_size=1, max_size=3))
def test_answers_are_what_follows_on_what_is_asked(own, several):
    ids, expected = [], []
    for messages in several:
        try:
            whole = own.encode(conversation_text(messages, messages[-1]["role"] == "user"))
        except BadInputError:
            assume(False)
        is_answer = np.zeros(len(whole), bool)
        for i, message in enumerate(messages):
            if message["role"] == "assistant":
                start = len(own.encode(conversation_text(messages[:i], True)))
                end = start + whole[start:].tolist().index(own.template.end_id)
                is_answer[start : end + 1] = True
        ids += [*whole, own.end_id]
        expected += [*is_answer, False]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(answer_targets, "_BLOCK", 5)
        answers = answers_in(np.array(ids, np.uint16), own)
    if answers is None:
        assert not any(expected)
    else:
        # What is asked last has no answer: what follows is taken for one up to the next end.
        found = answers.at(np.arange(len(ids)))
        complete = [m[-1]["role"] == "assistant" for m in several]
        if all(complete):
            assert found.tolist() == expected
            assert answers.share == pytest.approx(np.mean(expected))
        assert (found | ~np.array(expected)).all()


def test_a_text_that_is_no_conversation_is_as_before(theirs, own):
    text = "the cat sat.\n<|im_start|>" * 40
    assert own.encode(text).tolist() == theirs(text, add_special_tokens=False).input_ids
    parts = [text[:100], text[100:]]
    assert np.concatenate([*own.encode_parts(parts)]).tolist() == own.encode(text).tolist()
    assert answers_in(own.encode("the cat sat"), own) is None


def test_a_text_that_quotes_a_conversation_is_learned_whole(own):
    turns = [{"role": "user", "content": "cat"}, {"role": "assistant", "content": "dog"}]
    quoted = own.written(conversation_text(turns))
    assert answers_in(own.encode(conversation_text(turns)), own) is not None
    assert answers_in(own.encode(f"the cat said:\n{quoted}\nso"), own) is None


@pytest.mark.parametrize(
    ("template", "told"),
    [
        ("{% for m in messages %}{{ m.content }", "it is no Jinja"),
        ("{{ raise_exception('not today') }}", "not today"),
        ("{{ messages[7].content }}", "refuses it"),
        ("{% for m in messages %}{{ m.content }}\n{% endfor %}", "special token ends"),
        (
            TEMPLATES["turns"].replace("assistant\n{% endif", "assistant\n<think>\n{% endif"),
            "stands 0 times",
        ),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
    ],
)
def test_a_template_of_which_answers_are_not_known_is_refused(tmp_path, template, told):
    theirs = chat_tokenizer(template)
    theirs.save_pretrained(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    assert not tokenizer.writes_chats
    assert len(tokenizer.encode("the cat")) > 0
    with pytest.raises(BadInputError, match=told):
        with_roles(tokenizer)


def test_one_without_a_template_gets_the_roles_of_minitx(tmp_path):
    theirs = chat_tokenizer(None)
    theirs.save_pretrained(tmp_path / "before")
    before = load_tokenizer(tmp_path / "before")
    own = with_roles(before)
    assert sorted(own.roles.values())[-1] == own.vocab_size - 1
    own.save(tmp_path / "after")
    again = load_tokenizer(tmp_path / "after")
    assert (again.digest, again.roles, again.end_id) == (own.digest, own.roles, own.end_id)
    text = "the cat sat on the mat, \u00e9t\u00e9"
    assert again.encode(text).tolist() == before.encode(text).tolist()
    assert again.token_bytes(int(before.encode("<|im_start|>")[0])) == b"<|im_start|>"
    for spelled in ("<|im_start|>", "<|user|>"):
        assert len(again.encode(spelled)) > 1
    opened = transformers.AutoTokenizer.from_pretrained(tmp_path / "after")
    messages = [{"role": "user", "content": text}, {"role": "assistant", "content": "so"}]
    expected = opened.apply_chat_template(messages, return_dict=False)
    assert [*again.encode(conversation_text(messages)), again.end_id] == expected
    chat_tokenizer(None, "pieces").save_pretrained(tmp_path / "pieces")
    with pytest.raises(BadInputError, match="SentencePiece tokenizer without"):
        with_roles(load_tokenizer(tmp_path / "pieces"))


def test_a_message_that_spells_what_begins_an_answer_is_refused(own):
    spelled = own.template._opening
    messages = [{"role": "user", "content": f"a{spelled}b"}]
    with pytest.raises(BadInputError, match="stands 2 times"):
        own.encode(conversation_text(messages, True))


def test_another_template_is_another_tokenizer(tmp_path):
    digests = set()
    for name in ("turns", "headers"):
        chat_tokenizer(name).save_pretrained(tmp_path / name)
        digests.add(load_tokenizer(tmp_path / name).digest)
    assert len(digests) == 2
