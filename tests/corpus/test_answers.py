"""Which ids are answers, against reading them one by one; and that only these are targets."""

import numpy as np
import pytest
from chats import conversations
from hypothesis import given, settings
from hypothesis import strategies as st

from minitx.corpus import answer_targets as answers_module
from minitx.corpus.answer_targets import Answers, answers_in
from minitx.corpus.training_windows import NO_TARGET, WindowSampler, gather
from minitx.tokenizer import train_tokenizer, with_roles
from minitx.tokenizer.conversation import conversation_text

TALKING = with_roles(train_tokenizer("the cat sat on the mat", "char", 0))
SYSTEM, USER, ASSISTANT = (TALKING.roles[role] for role in ("system", "user", "assistant"))


def read_one_by_one(ids):
    """Whether each is a part of an answer."""
    is_answer, found = False, []
    for i in ids:
        found.append(is_answer and i not in (SYSTEM, USER, ASSISTANT))
        if i in (SYSTEM, USER, ASSISTANT, TALKING.end_id):
            is_answer = i == ASSISTANT
    return found


ids_of_texts = st.lists(
    st.sampled_from([0, 1, 2, SYSTEM, USER, ASSISTANT, TALKING.end_id]), min_size=1, max_size=80
).filter(lambda ids: not _answers_twice(ids))


def _answers_twice(ids):
    # A role after an answer that has not ended: no corpus has it.
    is_open = False
    for i in ids:
        if is_open and i in (SYSTEM, USER, ASSISTANT):
            return True
        is_open = i == ASSISTANT or (is_open and i != TALKING.end_id)
    return False


@settings(deadline=None, max_examples=500)
@given(ids_of_texts)
def test_they_are_those_between_the_assistant_and_the_end(ids):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(answers_module, "_BLOCK", 7)
        found = Answers(np.array(ids, "<u2"), TALKING)
        wanted = read_one_by_one(ids)
        positions = np.arange(len(ids))
        assert found.at(positions).tolist() == wanted
        assert found.share * len(ids) == pytest.approx(sum(wanted))
        for position in positions:
            assert (position in found) == wanted[position]
            later = [i for i in positions if i >= position and wanted[i]]
            first = later[0] if later else wanted.index(True) if any(wanted) else None
            if first is not None:
                assert found.first_from(position) == first
        assert (answers_in(np.array(ids, "<u2"), TALKING) is None) == (ASSISTANT not in ids)


def chats():
    tokenizer = with_roles(
        train_tokenizer("".join(m["content"] for c in conversations() for m in c), "char", 0)
    )
    texts = ([conversation_text(each)] for each in conversations())
    ids = np.concatenate([*tokenizer.encode_documents(texts, 99)])
    return ids, Answers(ids, tokenizer), tokenizer


@pytest.mark.parametrize("context", [8, 32])
def test_only_answers_are_targets_and_each_once_an_epoch(context):
    ids, found, tokenizer = chats()
    sampler = WindowSampler(len(ids), context, seed=1)
    inputs, targets = gather(ids, sampler.windows(0, sampler.per_epoch), context, found)
    is_target = targets != NO_TARGET
    n_answers = int(found.at(np.arange(len(ids))).sum())
    assert is_target.sum() == n_answers
    plain, _ = gather(ids, sampler.windows(0, sampler.per_epoch), context)
    assert np.array_equal(inputs, plain)
    ends = targets[is_target] == tokenizer.end_id
    assert ends.sum() == sum(m["role"] == "assistant" for c in conversations() for m in c)
    for row in range(0, sampler.per_epoch, 3):
        batch = sampler.windows(row, 1)
        _, alone = gather(ids, batch, context, found)
        assert (alone != NO_TARGET).any()  # A batch always has something to learn from.


def test_a_text_without_conversations_is_learned_whole():
    assert answers_in(TALKING.encode("the cat"), TALKING) is None
    plain = train_tokenizer("the cat", "char", 0)
    assert answers_in(plain.encode("the cat"), plain) is None
