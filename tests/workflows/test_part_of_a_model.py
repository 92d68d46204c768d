"""Training a part of a model: `--freeze` and `--lora`."""

import json
from dataclasses import replace

import pytest
import torch
from equal_runs import Cut, assert_equal_runs
from foreign_models import CLASSES, foreign_model, foreign_tokenizer, save_foreign
from safetensors.torch import load_file
from small_models import GPT2, SHAPE
from transformers import AutoModelForCausalLM

from minitx.checkpoint import load_model
from minitx.checkpoint.adapter import ADAPTER_FILE, adapt, adapter_tensors, load_adapter
from minitx.checkpoint.rundir import RunDirectory
from minitx.checkpoint.weights import model_tensors
from minitx.compute import Compute
from minitx.config import TrainConfig
from minitx.engine import choose_engine, decoder, loss_function
from minitx.errors import BadInputError, DamagedFileError, InterruptedRunError
from minitx.model import Transformer
from minitx.training.frozen import freeze, part_of
from minitx.workflows.resume import ResumeRequest, resume
from minitx.workflows.train import TrainRequest, train

LENGTH = {
    "steps": 12, "evaluate_every": 4, "checkpoint_every": 4, "log_every": 2, "batch_size": 4,
    "threads": 1, "dtype": "float32", "device": "cpu", "keep_checkpoints": 9,
}  # fmt: skip


@pytest.fixture(scope="module", params=sorted(CLASSES))
def base(request, tmp_path_factory):
    directory = tmp_path_factory.mktemp(request.param)
    save_foreign(directory, foreign_model(request.param), foreign_tokenizer())
    return directory


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    directory = tmp_path_factory.mktemp("llama")
    save_foreign(directory, foreign_model("llama"), foreign_tokenizer())
    return directory


def further(start, text, out, **keys):
    return TrainRequest(
        data={"corpus": (str(text),)}, out=out, train={**LENGTH, **keys, "start": str(start)}
    )


def last(run):
    return RunDirectory(run).usable_checkpoint("last")


def test_peft_opens_the_update_and_adds_up_to_the_checkpoint(base, verses, tmp_path):
    peft = pytest.importorskip("peft")
    run = train(further(base, verses, tmp_path / "run", lora=3), []).run
    ours = load_model(last(run)).model
    before = load_model(base).model
    assert not any(
        ours.state_dict()[name].equal(weight)
        for name, weight in before.named_parameters()
        if name.startswith("blocks.") and name.endswith("weight")
    )
    assert ours.embedding.weight.equal(before.embedding.weight)
    theirs = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    adapted = peft.PeftModel.from_pretrained(theirs, run / "adapter").eval()
    ids = torch.randint(320, (2, 48), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ours(ids), adapted(ids).logits, atol=1e-5, rtol=1e-5)
    plain = AutoModelForCausalLM.from_pretrained(last(run), dtype=torch.float32).eval()
    torch.testing.assert_close(ours(ids), plain(ids).logits, atol=1e-5, rtol=1e-5)
    assert (run / "adapter/adapter_model.safetensors").read_bytes()
    kept = load_file(last(run) / ADAPTER_FILE)
    beside = load_file(run / "adapter/adapter_model.safetensors")
    assert all(kept[name].equal(beside[name]) for name in kept | beside)


@pytest.mark.parametrize("config", [SHAPE, GPT2])
def test_an_update_is_nothing_at_first_and_then_what_is_added(config, tmp_path):
    torch.manual_seed(0)
    model = Transformer(config).eval()
    ids = torch.arange(12)[None] % 29
    before, names = model(ids), {name for name, _ in model.named_parameters()}
    adapt(model, 2)
    assert model(ids).equal(before)
    learned = {name for name, p in model.named_parameters() if p.requires_grad}
    assert learned == {name for name, _ in model.named_parameters()} - names
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_b" in name:
                parameter.normal_(std=0.3)
    after = model(ids)
    assert not torch.allclose(after, before, atol=1e-2)
    # Added up, it is an ordinary model.
    from safetensors.torch import save_file

    save_file(adapter_tensors(model), tmp_path / "adapter")
    again = adapt(Transformer(config), 2).eval()
    again.load_state_dict({n: p for n, p in model.state_dict().items() if "lora" not in n}, False)
    load_adapter(again, tmp_path / "adapter")
    assert again(ids).equal(after)
    tensors = model_tensors(model)
    assert tensors.keys() == model_tensors(Transformer(config)).keys()
    other = adapt(Transformer(config), 3)
    with pytest.raises(DamagedFileError, match="adapter"):
        load_adapter(other, tmp_path / "adapter")


@pytest.mark.parametrize("keys", [{"lora": 2}, {"freeze": "embedding,blocks.0"}])
def test_cuts_do_not_show(keys, llama, verses, tmp_path):
    uncut = train(further(llama, verses, tmp_path / "uncut", **keys), []).run
    with pytest.raises(InterruptedRunError):
        train(further(llama, verses, tmp_path / "cut", **keys), [Cut(6)])
    resume(ResumeRequest(tmp_path / "cut"), [])
    assert_equal_runs(tmp_path / "cut", uncut)


def test_an_update_of_a_model_that_changed_is_not_gone_on_with(verses, tmp_path):
    save_foreign(tmp_path / "base", foreign_model("llama"), foreign_tokenizer())
    run = train(further(tmp_path / "base", verses, tmp_path / "run", lora=2), []).run
    foreign_model("llama", seed=1).save_pretrained(tmp_path / "base")
    with pytest.raises(BadInputError, match="is not there any more"):
        resume(ResumeRequest(run, {"steps": 20}), [])
    load_model(last(run))


FREEZES = [
    ("embedding", {"embedding"}),
    ("blocks", {"blocks.0", "blocks.1"}),
    ("blocks.0-1,norm", {"blocks.0", "blocks.1", "norm"}),
    ("all-but-head", {"embedding", "blocks.0", "blocks.1", "norm"}),
    ("all-but-blocks.1", {"embedding", "blocks.0", "norm", "head"}),
]


@pytest.mark.parametrize(("text", "frozen"), FREEZES)
@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_what_is_frozen_stays_to_the_bit(text, frozen, optimizer, llama, verses, tmp_path):
    run = train(further(llama, verses, tmp_path / "run", freeze=text, optimizer=optimizer), []).run
    before, after = load_model(llama).model, load_model(last(run)).model
    for name, weight in before.named_parameters():
        same = after.state_dict()[name].equal(weight)
        assert same == (part_of(name) in frozen), name
    health = [
        line for line in map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
        if line["kind"] == "health"
    ]  # fmt: skip
    for line in health:
        assert not line["gradient_norms"].keys() & frozen


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("nose", "names 'nose'"),
        ("blocks.2", "names 'blocks.2'"),
        ("blocks.1-2", "names 'blocks.1-2'"),
        ("head", "the head is the embedding here"),
        ("positions", "names 'positions'"),
        ("all-but-nose", "names 'nose'"),
        ("embedding,blocks,norm", "leaves nothing to train"),
        ("embedding,", "names ''"),
    ],
)
def test_parts_that_are_not_there_are_refused(text, told):
    with pytest.raises(BadInputError, match=told):
        freeze(Transformer(SHAPE), text)


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"lora": 2, "freeze": "norm"}, "Give one of them"),
        ({"lora": 2, "shard": True}, "Leave out --shard"),
        ({"freeze": "norm", "shard": True}, "Leave out --shard"),
    ],
)
def test_what_does_not_go_together_is_refused(keys, told):
    with pytest.raises(BadInputError, match=told):
        TrainConfig(steps=1, batch_size=1, learning_rate=0.1, start="x", **keys)


def test_lora_needs_a_model_to_begin_with(verses, minitx):
    done = minitx("train", verses, "--lora", 2, "--steps", 2)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "Name it with --from" in done.err


@pytest.mark.parametrize("text", ["embedding", "blocks.0", "all-but-norm", "norm,blocks.1"])
def test_kernels_leave_what_is_frozen_alone(text):
    compute = Compute(torch.device("cpu"), torch.float32)
    ids, targets = torch.randint(29, (2, 3, 12), generator=torch.Generator().manual_seed(0))
    found = []
    for engine in ("plain", "auto"):
        torch.manual_seed(0)
        model = freeze(Transformer(replace(SHAPE, dropout=0.0)).train(), text)
        loss_function(model, compute, engine)(ids, targets).backward()
        found.append({name: p.grad for name, p in model.named_parameters()})
    for name, plain in found[0].items():
        assert (plain is None) == (found[1][name] is None), name
        if plain is not None:
            torch.testing.assert_close(found[1][name], plain, atol=1e-6, rtol=1e-4)


def test_kernels_leave_an_update_to_the_model():
    compute = Compute(torch.device("cpu"), torch.float32)
    model = adapt(Transformer(SHAPE).train(), 2)
    assert choose_engine(model, compute).engine == "plain"
    assert decoder(model.eval()) is None
