"""A model that is trained on conversations: on their answers alone, and talked with afterwards."""

import contextlib
import copy
import json
import os
import shutil
import subprocess
from pathlib import Path
from random import Random

import jinja2
import numpy as np
import pytest
import torch
from chats import conversations, write_chats
from equal_runs import Cut, assert_equal_runs
from small_runs import TINY_TRAIN

from minitx.checkpoint import load_model
from minitx.checkpoint.rundir import RunDirectory, resolve_checkpoint
from minitx.compute import choose_compute
from minitx.config import SamplingConfig, TrainConfig
from minitx.corpus import load_encoded
from minitx.corpus.answer_targets import answers_in
from minitx.corpus.documents import Reading
from minitx.corpus.sources import documents_of
from minitx.errors import BadInputError, InterruptedRunError
from minitx.tokenizer import load_tokenizer
from minitx.tokenizer.conversation import TEMPLATE, conversation_text
from minitx.training.batches import Batches, PrefetchedBatches
from minitx.training.gradients import StepGradients
from minitx.training.logging.metrics_file import read_metrics
from minitx.workflows.chat import Chat, fitting
from minitx.workflows.load import load
from minitx.workflows.resume import ResumeRequest, resume
from minitx.workflows.train import TrainRequest, train

MODEL = {"n_layers": 2, "n_heads": 2, "n_kv_heads": 2, "d_model": 32, "d_ff": 64,
         "context_length": 48}  # fmt: skip
KEYS = {**TINY_TRAIN, "batch_size": 8, "steps": 24, "evaluate_every": 12, "checkpoint_every": 12,
        "learning_rate": 0.01, "muon_learning_rate": 0.03}  # fmt: skip


def request(chats, out, model=MODEL, **keys):
    return TrainRequest(
        data={"corpus": (str(chats),)}, tokenizer={"kind": "char"} if model else {}, model=model,
        train={**KEYS, **keys}, out=out,
    )  # fmt: skip


@pytest.fixture(scope="module")
def chats(tmp_path_factory):
    return write_chats(tmp_path_factory.mktemp("corpus") / "chats.jsonl")


@pytest.fixture(scope="module")
def run(chats, tmp_path_factory):
    out = tmp_path_factory.mktemp("talking") / "runs" / "chats-001"
    return train(request(chats, out, steps=240, evaluate_every=120, checkpoint_every=120), []).run


@pytest.fixture(scope="module")
def loaded(run):
    return load(run, device="cpu")


GREEDY = SamplingConfig(temperature=0.0, max_new_tokens=20)


def test_it_answers_and_ends_its_answer(loaded):
    chat = Chat(loaded, GREEDY)
    assert "".join(chat.answer("box 3, red?")) == "it is red"
    assert "".join(chat.answer("thanks")) == "welcome"
    assert [m["role"] for m in chat.messages] == ["user", "assistant"] * 2


def test_the_planned_context_has_room_for_a_conversation(chats, minitx, inside):
    done = minitx("plan", chats, "--steps", "1", "--kind", "char", "--pilots", "0")
    assert "context 64" in done.out


def test_only_answers_have_a_gradient(run):
    """What is not a part of one may be anything: the loss of a batch stays as it is."""
    corpus, saved = load_encoded(RunDirectory(run).data), load_model(resolve_checkpoint(run))
    answers = answers_in(corpus.train_ids, saved.tokenizer)
    ids = torch.from_numpy(np.asarray(corpus.train_ids[:49]).astype(np.int64))
    is_answer = torch.from_numpy(answers.at(np.arange(1, 49)))
    targets = torch.where(is_answer, ids[1:], -100)
    losses = saved.model.token_losses(ids[None, :-1], ids[None, 1:])[0]
    loss = saved.model.loss(ids[None, :-1], targets[None])
    torch.testing.assert_close(loss, losses[is_answer].mean())


@pytest.mark.parametrize("prefetched", [False, True])
def test_each_answer_counts_alike_in_whatever_pass_it_is(run, prefetched):
    corpus, saved = load_encoded(RunDirectory(run).data), load_model(resolve_checkpoint(run))
    answers = answers_in(corpus.train_ids, saved.tokenizer)
    found = []
    for passes in (1, 2, 4):
        kind = PrefetchedBatches if prefetched else Batches
        batches = kind(corpus.train_ids, 48, 8 // passes, 3, torch.device("cpu"), answers=answers)
        model = copy.deepcopy(saved.model).eval()  # Nothing is dropped.
        config = TrainConfig(
            steps=1, batch_size=8 // passes, accumulation=passes, learning_rate=0.1, engine="plain"
        )
        gradients = StepGradients(model, batches, config, choose_compute("cpu", "float32"))
        with batches if prefetched else contextlib.nullcontext():
            loss = gradients(5)
            counts = {batches.n_targets(i) for i in range(5 * passes, 6 * passes)}
        assert passes == 1 or len(counts) > 1  # Else nothing is tested.
        found.append((loss, [parameter.grad for parameter in model.parameters()]))
    (loss, whole), *divided = found
    for other, parts in divided:
        torch.testing.assert_close(other, loss, rtol=1e-6, atol=1e-7)
        for part, expected in zip(parts, whole, strict=True):
            torch.testing.assert_close(part, expected, rtol=1e-5, atol=1e-7)


def test_the_holdout_is_scored_by_its_answers(run, minitx):
    corpus, tokenizer = load_encoded(RunDirectory(run).data), load(run).tokenizer
    answers = answers_in(corpus.holdout_ids, tokenizer)
    is_answer = answers.at(np.arange(len(corpus.holdout_ids)))
    (told,) = json.loads(minitx("eval", run, "--holdout", "--json").out)["reports"]
    assert told["plain"]["tokens_scored"] == is_answer.sum()
    sizes = [len(tokenizer.token_bytes(int(i))) for i in corpus.holdout_ids[is_answer]]
    assert told["plain"]["bytes_scored"] == sum(sizes)
    # What is counted is held against the answers, too; what is compressed has no figure for them.
    assert not told["baselines"]["compressors"]
    assert told["baselines"]["tokens"] == is_answer.sum()
    last = [line for line in read_metrics(RunDirectory(run).metrics_file)
            if line["kind"] == "evaluation"][-1]  # fmt: skip
    assert last["holdout_loss"] == pytest.approx(told["plain"]["loss"], rel=1e-4)
    assert last["holdout_bits_per_byte"] == pytest.approx(told["plain"]["bits_per_byte"], rel=1e-4)
    assert last["sample_prompt"].startswith("<|user|>")


def test_each_conversation_has_the_loss_of_its_own_answers(run, minitx):
    (told,) = json.loads(minitx("eval", run, "--holdout", "--full", "--json").out)["reports"]
    said = [[m["content"] for m in each if m["role"] == "assistant"] for each in conversations()]
    documents = told["documents"]["best"] + told["documents"]["worst"]
    for document in documents:
        number = int(document["name"].rpartition(":")[2])
        # A character a token, and the end of each.
        assert document["tokens"] == sum(len(text) + 1 for text in said[number - 1])
    assert len(documents) >= 4


def test_it_goes_on_to_the_bit(chats, tmp_path):
    whole = train(request(chats, tmp_path / "whole"), []).run
    cut = tmp_path / "cut"
    with pytest.raises(InterruptedRunError):
        train(request(chats, cut), [Cut(15)])
    resume(ResumeRequest(cut), [])
    assert_equal_runs(whole, cut)


def test_a_run_of_other_text_learns_to_talk(tiny_run, chats, tmp_path):
    """Its tokens keep their ids and weights; the roles are new ones, each another."""
    before = load_model(resolve_checkpoint(tiny_run))
    still = {"learning_rate": 0.0, "muon_learning_rate": 0.0, "steps": 2}
    run = train(request(chats, tmp_path / "run", {}, start=str(tiny_run), **still), []).run
    after = load_model(resolve_checkpoint(run))
    n_ids = before.tokenizer.vocab_size
    assert sorted(after.tokenizer.roles.values()) == [n_ids, n_ids + 1, n_ids + 2]
    old, new = (saved.model.embedding.weight for saved in (before, after))
    assert new[:n_ids].equal(old)
    assert len({tuple(row) for row in new[n_ids:].tolist()}) == 3
    text = "1 green bottle"
    assert after.tokenizer.encode(text).tolist() == before.tokenizer.encode(text).tolist()


@pytest.mark.parametrize(
    ("keys", "told"),
    [({"lora": 2}, "--lora changes no embedding"), ({}, "was not trained on conversations")],
)
def test_what_can_t_talk_is_refused(tiny_run, chats, tmp_path, keys, told):
    with pytest.raises(BadInputError, match=told):
        if keys:
            train(request(chats, tmp_path / "run", {}, start=str(tiny_run), **keys), [])
        else:
            Chat(load(tiny_run), GREEDY)
    assert not (tmp_path / "run").exists()


def test_conversations_and_other_texts_are_not_mixed(chats, verses, tmp_path):
    asked = request(chats, tmp_path / "run")
    asked.data["corpus"] = (str(chats), str(verses))
    with pytest.raises(BadInputError, match="conversations and other texts"):
        train(asked, [])


@pytest.mark.parametrize(
    ("record", "told"),
    [
        ({"messages": [{"role": "user", "content": "a"}]}, "has no answer"),
        ({"messages": [{"role": "assistant", "content": ["a"]}]}, "is no text"),
        ({"messages": [{"role": "tool", "content": "a"}]}, "has the role 'tool'"),
        ({"text": "a"}, "has no messages"),
        ({"messages": [{"role": "assistant", "content": "a"}], "tools": [1]}, "has tools"),
        ({"conversations": [{"from": "tool", "value": "a"}]}, "has the role 'tool'"),
        ({"conversations": [{"from": "gpt"}]}, "is no text"),
    ],
)
def test_a_record_that_is_no_conversation_is_named_and_skipped(
    chats, tmp_path, minitx, record, told
):
    file = tmp_path / "bad.jsonl"
    file.write_text(chats.read_text() + json.dumps(record) + "\n")
    done = minitx("corpus", file)
    assert done.code == 2
    assert f"line 61: {told}" in done.err or f"line 61: message 1 {told}" in done.err \
        or f"line 61: the content of message 1 {told}" in done.err  # fmt: skip
    assert minitx("corpus", file, "--skip-bad").code == 0


def test_a_field_that_is_named_is_read_in_place_of_messages(tmp_path, minitx):
    file = tmp_path / "both.jsonl"
    records = [{"text": f"text {i}", "messages": each} for i, each in enumerate(conversations())]
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    told = json.loads(minitx("corpus", file, "--text-field", "text", "--json").out)
    assert dict(told["formats"]) == {"jsonl": 1}
    assert dict(json.loads(minitx("corpus", file, "--json").out)["formats"]) == {"chats": 1}


def test_a_list_of_conversations_is_read_too(tmp_path, minitx):
    file = tmp_path / "list.json"
    file.write_text(json.dumps([{"id": 1, "messages": each} for each in conversations()]))
    done = minitx("corpus", file)
    assert done.code == 0, done.err
    assert "chats" in done.out


OTHER_NAMES = {"user": "human", "assistant": "gpt"}


def as_others_have_it(messages):
    """With `from` and `value`."""
    return [{"from": OTHER_NAMES.get(m["role"], m["role"]), "value": m["content"]}
            for m in messages]  # fmt: skip


@pytest.mark.parametrize("name", ["others.jsonl", "messages.parquet", "others.parquet",
                                  "messages.arrow", "others.arrow"])  # fmt: skip
def test_other_forms_of_conversations_are_the_same_text(chats, tmp_path, name):
    if name.startswith("others"):
        rows = [{"conversations": as_others_have_it(each)} for each in conversations()]
    else:
        rows = [{"prompt": "a", "messages": each, "text": None} for each in conversations()]
    file = tmp_path / name
    if file.suffix == ".jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pyarrow = pytest.importorskip("pyarrow")
        table = pyarrow.Table.from_pylist(rows)
        if file.suffix == ".parquet":
            pytest.importorskip("pyarrow.parquet").write_table(table, file)
        else:
            with (
                pyarrow.OSFile(str(file), "wb") as out,
                pyarrow.ipc.new_file(out, table.schema) as to,
            ):
                to.write_table(table)
    reading = Reading()
    read, plain = (
        ["".join(document.parts) for document in documents_of(path, reading)]
        for path in (file, chats)
    )
    assert read == plain
    assert reading.formats == {"chats": 2}


def test_a_column_that_is_named_is_read_in_place_of_messages(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    rows = [{"text": "some text", "messages": each} for each in conversations()]
    file = tmp_path / "both.parquet"
    pytest.importorskip("pyarrow.parquet").write_table(pyarrow.Table.from_pylist(rows), file)
    reading = Reading(text_field="text")
    assert ["".join(d.parts) for d in documents_of(file, reading)] == ["some text"] * 60
    assert reading.formats == {"parquet": 1}


def test_the_oldest_exchanges_are_forgotten(loaded):
    turns = [{"role": "system", "content": "be brief"}]
    for _ in range(9):
        turns += [{"role": "user", "content": "thanks"}, {"role": "assistant", "content": "it is"}]
    turns.append({"role": "user", "content": "box 3, red?"})
    kept, config = fitting(turns, loaded, GREEDY)
    assert (kept[0], kept[-1]) == (turns[0], turns[-1])
    assert kept[1]["role"] == "user"
    assert len(kept) < len(turns)
    n_ids = len(loaded.tokenizer.encode(conversation_text(kept, is_asked=True)))
    assert n_ids + config.max_new_tokens <= 48
    chat = Chat(loaded, GREEDY)
    chat.messages = turns
    assert "oldest messages forgotten" in chat.cue


@pytest.mark.parametrize("system", ["b" * 60, "Zulu", "a\ufdd0b"])
def test_a_system_text_that_can_t_be_read_is_refused(loaded, system):
    with pytest.raises(BadInputError, match="takes 6|never saw 'Z'|noncharacter"):
        Chat(loaded, GREEDY, system=system)
    chat = Chat(loaded, GREEDY, system="be brief")
    with pytest.raises(BadInputError, match="takes 6|never saw 'Z'|noncharacter"):
        chat.answer(f"/system {system}")
    assert (chat.system, len(chat.messages)) == ("be brief", 1)
    assert "tokens left" in chat.cue


def test_commands_of_a_conversation(loaded, tmp_path):
    chat = Chat(loaded, GREEDY, system="be brief")
    said = chat.answer("box 3, red?")
    next(said)
    said.close()  # Ctrl-C
    assert [m["role"] for m in chat.messages] == ["system", "user", "assistant"]
    assert chat.messages[2]["content"] in "it is red"
    assert chat.answer("/undo") == ""
    assert len(chat.messages) == 1
    with pytest.raises(BadInputError, match="nothing was said"):
        chat.answer("/undo")
    "".join(chat.answer("thanks"))
    assert chat.answer(f"/save {tmp_path / 'talk.jsonl'}").startswith("wrote 3 messages")
    with pytest.raises(BadInputError, match=r"talk\.jsonl"):
        chat.answer(f"/save {tmp_path / 'talk.jsonl'}")
    with pytest.raises(BadInputError, match="needs a name"):
        chat.answer("/save")
    (line,) = (tmp_path / "talk.jsonl").read_text().splitlines()
    assert json.loads(line)["messages"] == chat.messages
    chat.answer("/system")
    assert chat.messages == []
    assert chat.answer("/temperature 0.5") == ""
    assert "/temperature 0.5" in chat.answer("/settings")
    with pytest.raises(BadInputError, match="no setting"):
        chat.answer("/nonsense")
    with pytest.raises(BadInputError, match="noncharacter"):
        chat.answer("a\ufdd1b")
    assert chat.answer("/help").startswith("Write")
    assert chat.answer(" ") == ""
    assert chat.answer("/quit") is None


def test_it_is_talked_with_through_a_pipe(run, minitx):
    asked = ("chat", run, "--temperature", 0, "--system", "be brief")
    done = minitx(*asked, stdin="box 3, red?\nthanks\n/nonsense\n")
    assert done.code == 0
    assert done.out.splitlines()[:2] == ["it is red", "welcome"]
    assert "there is no setting /nonsense" in done.out
    settings = minitx(*asked, stdin="/settings\n/num-samples 3\n").out
    assert "/temperature 0.0\n" in settings
    assert "num-samples" not in settings.replace("no setting /num-samples", "")


def test_the_card_says_that_it_learned_conversations(run, tiny_run):
    cards = [(resolve_checkpoint(each) / "README.md").read_text() for each in (run, tiny_run)]
    assert ["| conversations | their answers alone" in card for card in cards] == [True, False]


def test_transformers_writes_the_same_answer(run, loaded):
    transformers = pytest.importorskip("transformers")
    directory = resolve_checkpoint(run)
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    model = transformers.AutoModelForCausalLM.from_pretrained(directory)
    messages = [{"role": "user", "content": "box 3, red?"}]
    ids = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_dict=False, return_tensors="pt"
    )
    out = model.generate(ids, do_sample=False, max_new_tokens=20, pad_token_id=0)
    assert tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True) == "it is red"
    assert out[0, -1] == tokenizer.eos_token_id


def test_llama_cpp_and_ollama_are_given_the_template(run, inside, minitx):
    gguf = pytest.importorskip("gguf")
    for name in ("b.gguf", "a.gguf"):  # A Modelfile of ours is written again.
        assert minitx("export", run, "--gguf", name).code == 0
    fields = gguf.GGUFReader(inside / "a.gguf").fields
    assert fields["tokenizer.chat_template"].contents() == TEMPLATE
    names = fields["tokenizer.ggml.tokens"].contents()
    assert names[-3:] == ["<|system|>", "<|user|>", "<|assistant|>"]
    ending = fields["tokenizer.ggml.eos_token_id"].contents()
    assert names[ending] == "<|endoftext|>"
    modelfile = (inside / "Modelfile").read_text()
    assert "{{ range .Messages }}<|{{ .Role }}|>" in modelfile
    assert 'PARAMETER repeat_penalty 1\nPARAMETER stop "<|system|>"\n' in modelfile


@pytest.mark.skipif(not shutil.which("go"), reason="no go")
def test_go_writes_the_conversations_of_the_modelfile(run, inside, minitx):
    pytest.importorskip("gguf")
    assert minitx("export", run, "--gguf", "a.gguf").code == 0
    template = (inside / "Modelfile").read_text().split('"""')[1]
    random = Random(0)
    odd = [
        "a",
        " ",
        "\n",
        "{{ .X }}",
        '"',
        "<|user|>",
        "&lt;<b>",
        "\\",
        "'",
        "`",
        "日本",
        "\U0001f642",
    ]
    talks = []
    for _ in range(300):
        roles = ["system"] * random.randrange(2) + ["user", "assistant"] * random.randrange(1, 6)
        roles = roles[: len(roles) - random.randrange(2)]
        contents = ["".join(random.choices(odd, k=random.randrange(9))) for _ in roles]
        talks.append(
            [{"Role": role, "Content": text} for role, text in zip(roles, contents, strict=True)]
        )
    done = subprocess.run(
        ["go", "run", Path(__file__).with_name("ollama_template.go")], check=True,
        input=json.dumps({"Template": template, "Talks": talks}), capture_output=True, text=True,
        env={**os.environ, "GOCACHE": str(inside / "go")}, timeout=200,
    )  # fmt: skip
    for talk, theirs in zip(talks, json.loads(done.stdout), strict=True):
        messages = [{"role": turn["Role"], "content": turn["Content"]} for turn in talk]
        ours = jinja2.Template(TEMPLATE).render(
            messages=messages, eos_token="<|endoftext|>", add_generation_prompt=True
        )
        assert theirs == ours


NODE_LLAMA_CPP = os.environ.get("NODE_LLAMA_CPP", "")
"""A folder in which `npm install node-llama-cpp` was run."""


@pytest.mark.skipif(
    not (NODE_LLAMA_CPP and shutil.which("node")), reason="no node, or NODE_LLAMA_CPP is not set"
)
def test_llama_cpp_says_the_same(run, inside, minitx):
    pytest.importorskip("gguf")
    assert minitx("export", run, "--gguf", "a.gguf").code == 0
    script = Path(__file__).with_name("llama_chat.mjs")
    done = subprocess.run(
        ["node", script, NODE_LLAMA_CPP, "a.gguf"], input='["box 3, red?", "thanks"]',
        capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == ["it is red", "welcome"]


def test_tokenize_learns_the_turns_and_knows_the_roles(chats, run, minitx, inside):
    assert minitx("tokenize", chats, "--kind", "char", "--out", "tokenizer").code == 0
    tokenizer = load_tokenizer(inside / "tokenizer")
    assert tokenizer.digest == load(run).tokenizer.digest
    assert tokenizer.encode("\ufdd1").tolist() == [tokenizer.roles["user"]]
