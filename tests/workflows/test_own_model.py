"""A model of a person's own trains, resumes to the bit, and is shown as any other."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from own_models import MODEL, OURS, changed
from safetensors.torch import load_file
from small_models import SHAPE
from small_runs import TINY_MODEL, TINY_TRAIN

from minitx import trust
from minitx.checkpoint import load_model
from minitx.checkpoint.own_code import OwnCode, read_own_code
from minitx.checkpoint.own_model import OwnModel
from minitx.compute import Compute
from minitx.config import SamplingConfig
from minitx.errors import BadInputError
from minitx.generation import generate
from minitx.inspection.mask_check import check_mask, first_leak, future_seen
from minitx.model import KVCache, Trace, Transformer
from minitx.workflows.resume import ResumeRequest, resume
from minitx.workflows.train import TrainRequest, train
from minitx.workflows.tried_model import tried

FLOAT32 = Compute(torch.device("cpu"), torch.float32)
CONFIG = dataclasses.replace(SHAPE, n_heads=2, n_kv_heads=2, dropout=0.0)


def own(text, config=CONFIG):
    torch.manual_seed(0)
    return OwnModel(config, OwnCode("my_model.py", {"my_model.py": text.encode()}))


def request(verses, out, file, **keys):
    train_keys = {**TINY_TRAIN, "steps": 8, "checkpoint_every": 4, "evaluate_every": 4, **keys}
    return TrainRequest(
        data={"corpus": (str(verses),)}, model=dict(TINY_MODEL), train=train_keys, out=out,
        model_file=file,
    )  # fmt: skip


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("own") / "my_model.py"
    path.write_text(MODEL)
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory, verses, file):
    """Trained in eight steps; tests must not change it."""
    return train(request(verses, tmp_path_factory.mktemp("own") / "run", file), []).run


def test_the_run_keeps_the_code_and_says_what_it_is(run, file):
    checkpoint = run / "checkpoints/step-000008"
    assert (checkpoint / "my_model.py").read_text() == MODEL
    loaded = load_model(checkpoint)
    config = loaded.model.config
    # It has the layers and heads that the module has, not those that were asked for.
    assert (config.code_file, config.n_layers, config.n_heads) == ("my_model.py", 2, 3)
    assert config.n_parameters == sum(p.numel() for p in loaded.model.parameters())
    assert config.code_digest == read_own_code(file).digest
    kept = load_file(checkpoint / "model.safetensors")
    assert set(kept) == {n for n, _ in loaded.model.module.named_parameters()}
    for name, parameter in loaded.model.module.named_parameters():
        assert torch.equal(kept[name], parameter)


def test_a_run_that_was_cut_ends_with_the_same_numbers(run, file, tmp_path):
    copy = tmp_path / "cut"
    shutil.copytree(run, copy)
    shutil.rmtree(copy / "checkpoints/step-000008")
    file.write_text("raise SystemExit('the copy in the run is what counts')")
    try:
        resume(ResumeRequest(copy), [])
    finally:
        file.write_text(MODEL)
    for name in ("model.safetensors", "optimizer.safetensors"):
        one, other = ((d / "checkpoints/step-000008" / name).read_bytes() for d in (run, copy))
        assert one == other


def test_the_same_seed_gives_the_same_weights(run, file, verses, tmp_path):
    again = train(request(verses, tmp_path / "again", file), []).run
    other = train(request(verses, tmp_path / "other", file, seed=3), []).run
    weights = [
        (r / "checkpoints/step-000008/model.safetensors").read_bytes() for r in (run, again, other)
    ]
    assert weights[0] == weights[1] != weights[2]


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["generate", "--prompt", "green", "--max-new-tokens", "40"], ""),
        (["generate", "--prompt", "green", "--json", "--num-samples", "3"], '"text"'),
        (["eval", "--holdout"], "my_model.py, 3.37 k parameters"),
        (["attn"], "layers of 3 heads"),
        (["attn", "--rollout", "--json"], '"rollout"'),
        (["attn", "--check-mask"], "No earlier logit moved"),
        (["diagnose"], "none of"),
    ],
)
def test_commands_show_it_as_any_other(words, shown, run, minitx):
    done = minitx(words[0], run, *words[1:])
    assert done.code == 0, done.err
    assert done.out.strip()
    assert shown in done.out


@pytest.mark.parametrize(
    "words",
    [
        ["attn", "--lens"],
        ["attn", "--norms"],
        ["attn", "--ablate"],
        ["attn", "--html", "page.html"],
        ["profile"],
        ["generate", "--quantize", "int8", "--prompt", "a"],
    ],
)
def test_what_needs_its_parts_is_refused_in_one_line(words, run, minitx, inside):
    done = minitx(words[0], run, *words[1:])
    assert done.code == 2
    assert done.err.count("\n") == 1
    assert "needs the parts of a model, and those of my_model.py are not known" in done.err
    assert list(inside.iterdir()) == []


def test_a_report_leaves_out_what_it_can_not_show(run, minitx, inside):
    done = minitx("report", run, "--out", "page.html")
    assert done.code == 0, done.err
    assert "those of my_model.py are not known" in (inside / "page.html").read_text()


def test_it_learns_as_the_model_itself_does(verses, tmp_path):
    """A model of minitx, taken for one's own: the same losses, weights and texts."""
    file = tmp_path / "ours.py"
    file.write_text(OURS)
    keys = {"optimizer": "adamw", "engine": "plain"}
    one = request(verses, tmp_path / "own", file, **keys)
    other = request(verses, tmp_path / "plain", None, **keys)
    mine, plain = (load_model(train(r, []).run / "checkpoints/step-000008") for r in (one, other))
    theirs = dict(plain.model.named_parameters())
    for name, parameter in mine.model.module.named_parameters():
        assert torch.equal(parameter, theirs[name]), name
    config = SamplingConfig(max_new_tokens=60, seed=2)  # beyond the context of 32
    prompts = ["one green", "a", "hanging on the wall"]
    texts = [
        [g.text for g in generate(m.model, m.tokenizer, prompts, config)] for m in (mine, plain)
    ]
    assert texts[0] == texts[1]


def test_a_cache_gives_what_the_whole_text_gives():
    model = own(MODEL).eval()
    ids = torch.randint(CONFIG.vocab_size, (3, 10), generator=torch.Generator().manual_seed(1))
    whole = model.module(ids)
    cache = KVCache(CONFIG, 3, 12)
    lengths = torch.tensor([2, 4, 1])
    first = model(ids[:, :4], cache=cache, lengths=lengths, last_only=True)
    for row, length in enumerate(lengths):
        torch.testing.assert_close(first[row, 0], whole[row, length - 1])
    for step in range(3):
        at = lengths + step
        fed = model(ids.gather(1, at[:, None]), cache=cache)
        for row in range(3):
            torch.testing.assert_close(fed[row, 0], whole[row, at[row]])
    with pytest.raises(BadInputError, match="holds"):
        model(ids[:, :9], cache=cache)
    with pytest.raises(BadInputError, match="longer than the context"):
        model(ids.repeat(1, 2))


ATTENTION = """
import torch
from torch import nn
from torch.nn import functional as F

class Mine(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.embed = nn.Embedding(config.vocab_size, 8)
        self.qkv, self.head = nn.Linear(8, 24), nn.Linear(8, config.vocab_size)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

    def forward(self, ids):
        x, n = self.embed(ids), ids.size(1)
        hidden = torch.ones(n, n).triu(1) > 0
        q, k, v = (p.unflatten(-1, (2, 4)).transpose(1, 2) for p in self.qkv(x).chunk(3, -1))
        return self.head(self.attend(x, q, k, v, hidden))

def model(config):
    return Mine(config)
"""
FORMS = {
    "sdpa": "F.scaled_dot_product_attention(q, k, v, is_causal=True)",
    "sdpa with a mask": "F.scaled_dot_product_attention(q, k, v, ~hidden)",
    "flat heads": "(((q @ k.mT / 2).masked_fill(hidden, -torch.inf)).flatten(0, 1).softmax(-1)"
    " @ v.flatten(0, 1)).unflatten(0, (-1, 2))",
    "functional": "F.softmax((q @ k.mT / 2).masked_fill(hidden, -torch.inf), dim=-1) @ v",
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_attention_is_seen_in_every_form(form):
    body = f"""
    def attend(self, x, q, k, v, hidden):
        self.wanted = (q @ k.mT / 2).masked_fill(hidden, -torch.inf).exp()
        return ({form}).transpose(1, 2).flatten(2)
"""
    model = own(ATTENTION.replace("\ndef model", body + "\ndef model")).eval()
    ids = torch.randint(CONFIG.vocab_size, (2, 7))
    trace = Trace()
    with torch.no_grad():
        seen = model(ids, trace=trace)
    wanted = model.module.wanted / model.module.wanted.sum(-1, keepdim=True)
    (weights,) = trace.attention
    torch.testing.assert_close(weights, wanted)
    torch.testing.assert_close(seen, model(ids))
    assert model.attention_shape() == (1, 2)


@pytest.mark.parametrize(
    "form",
    [
        "self.attention(x, x, x, attn_mask=hidden)[0]",
        "self.attention(x, x, x, attn_mask=hidden, need_weights=False)[0]",
        "self.layer(x, src_mask=hidden)",
    ],
)
def test_attention_of_torchs_own_layers_is_seen(form):
    body = f"""
    def attend(self, x, q, k, v, hidden):
        return {form}
"""
    model = own(ATTENTION.replace("\ndef model", body + "\ndef model")).eval()
    ids, trace = torch.randint(CONFIG.vocab_size, (2, 7)), Trace()
    with torch.no_grad():
        seen = model(ids, trace=trace)
        torch.testing.assert_close(seen, model(ids))
    (weights,) = trace.attention
    assert weights.shape == (2, 2, 7, 7)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 2, 7))
    assert not weights.triu(1).any()


def test_heads_one_by_one_are_gathered_to_layers():
    body = """
    def attend(self, x, q, k, v, hidden):
        parts = []
        for head in range(2):
            scores = q[:, head] @ k[:, head].mT / 2
            parts.append(scores.masked_fill(hidden, -torch.inf).softmax(-1) @ v[:, head])
        return torch.cat(parts, -1)
"""
    model = own(ATTENTION.replace("\ndef model", body + "\ndef model"),
                dataclasses.replace(CONFIG, n_layers=1))  # fmt: skip
    assert model.attention_shape() == (1, 2)


def test_attention_that_is_not_shown_is_told(verses, tmp_path, minitx):
    file = tmp_path / "no_softmax.py"
    file.write_text(changed(("scores.softmax(-1)", "scores.exp() / scores.exp().sum(-1, True)")))
    made = train(request(verses, tmp_path / "run", file), []).run
    done = minitx("attn", made)
    assert done.code == 2
    assert "no_softmax.py does not show 2 layers of 2 heads" in done.err
    assert minitx("attn", made, "--check-mask").code == 0


SHIFTED = ("triu(1)", "triu(2)")


@pytest.mark.parametrize(
    ("edits", "words"),
    [
        ([SHIFTED], "sees 2 tokens ahead: the mask is shifted, by a token for each layer"),
        ([SHIFTED, ("layers=2", "layers=1")], "sees a token ahead"),
        ([("triu(1) > 0", "triu(1) > 1")], "sees all that comes later"),
        ([("softmax(-1)", "softmax(-2).nan_to_num()")], "sees all that comes later"),
        (
            [("self.one(x)", "self.one(x) - x.mean(1, True) * self.training")],
            "in training, it mixes positions",
        ),
    ],
)
def test_a_leak_is_refused_by_its_kind(edits, words, verses, tmp_path, minitx, inside):
    file = inside / "my_model.py"
    file.write_text(changed(*edits))
    small = ["--layers", "2", "--d-model", "16", "--context", "32", "--steps", "2"]
    done = minitx("train", verses, "--model", file, *small)
    assert done.code == 2
    assert "my_model.py is not causal" in done.err
    assert words in done.err
    assert done.err.count("\n") == 1
    assert not (inside / "runs").exists()
    done = minitx("train", verses, "--model", file, *small, "--no-check")
    assert done.code == 0, done.err
    assert minitx("attn", "--check-mask").code == 1


def test_where_a_leak_comes_in_is_named():
    model = own(changed(SHIFTED))
    leak = first_leak(model, FLOAT32)
    assert leak.place == "blocks.0.out, of my_model.py"
    assert future_seen(model) == 2
    assert first_leak(own(MODEL), FLOAT32) is None
    assert future_seen(own(MODEL)) == 0
    assert future_seen(Transformer(CONFIG)) == 0
    assert not check_mask(model).passed


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def model(config: return 1", "line 1: Python can't read it"),
        ("x = 1", "has no function or class `model`"),
        ("model = 3", "has no function or class `model`"),
        ("def model(config):\n    pass", "gives nothing, not a torch.nn.Module"),
        ("def model(config):\n    return 3", "gives a int, not a torch.nn.Module"),
        ("def model():\n    return 3", "raises TypeError"),
        ("import no_such_package\n", "line 1 raises ModuleNotFoundError: No module named"),
        ("raise SystemExit('bye')", "line 1 raises SystemExit: bye"),
        (changed(("self.blocks(x))", "self.blocks(x)), None")), "gives a tuple, and logits of"),
        (changed(("self.blocks(x))", "self.blocks(x))[:, -1]")), "gives shape (2, "),
        (changed(("self.blocks(x))", "self.blocks(x)).argmax(-1)")), "gives shape (2, "),
        (changed(("self.blocks(x))", "self.blocks(x)) / 0")), "the loss of my_model.py is nan"),
        (changed(("self.blocks(x))", "self.blocks(x)).detach()")), "do not depend on parameters"),
        (changed(("self.blocks(x))", "self.blocks(x)) + torch.rand(1)")), "gives other logits"),
        (changed(("weights = ", "weights = no_such + ")), "line 23 raises NameError: name"),
        (changed(("self.h = h", "self.h = h; self.spare = nn.Linear(2, 2)")),
         "parameter blocks.0.spare.weight of my_model.py gets no gradient"),
        ("from torch import nn\ndef model(config):\n    return nn.Identity()",
         "has no parameters, so there is nothing to train"),
    ],
)  # fmt: skip
def test_what_can_not_train_is_refused_in_one_line(text, words, verses, minitx, inside):
    (inside / "my_model.py").write_text(text)
    done = minitx("train", verses, "--model", "my_model.py", "--steps", "2", "--context", "32",
                  "--layers", "1", "--d-model", "16")  # fmt: skip
    assert done.code == 2, done.err
    assert words in done.err
    assert done.err.count("\n") == 1
    assert done.err.startswith("error: ")
    assert not (inside / "runs").exists()


@pytest.mark.parametrize(
    "name", ["no_such.py", "notes.txt", "my-model.py", "random.py", "torch.py"]
)
def test_a_file_that_can_not_be_the_model_is_refused(name, verses, minitx, inside):
    if not name.startswith("no_such"):
        (inside / name).write_text(MODEL)
    done = minitx("train", verses, "--model", name, "--steps", "2")
    assert done.code == 2
    assert done.err.startswith("error: ")
    assert name in done.err
    assert done.err.count("\n") == 1


def test_files_beside_it_are_kept_and_each_model_has_its_own(tmp_path):
    for number in (1, 2):
        place = tmp_path / str(number)
        (place / "folder").mkdir(parents=True)
        (place / "folder/__init__.py").write_text("")
        (place / "inner.py").write_text(f"NUMBER = {number}\n")
        (place / "block.py").write_text("import inner\nNUMBER = inner.NUMBER\n")
        (place / "random.py").write_text("raise RuntimeError('that of Python is meant')")
        (place / "mine.py").write_text(
            "import random\nimport torch\nfrom block import NUMBER\n"
            "def model(config):\n    return torch.nn.Linear(NUMBER, 1)\n"
        )
    one, two = (read_own_code(tmp_path / str(number) / "mine.py") for number in (1, 2))
    assert sorted(one.sources) == ["block.py", "inner.py", "mine.py"]
    assert one.digest != two.digest
    assert [code.build(CONFIG).in_features for code in (one, two, one)] == [1, 2, 1]
    (tmp_path / "1/block.py").write_text("import folder")
    with pytest.raises(BadInputError, match="imports the folder folder"):
        read_own_code(tmp_path / "1/mine.py")


@pytest.fixture
def stranger(monkeypatch, tmp_path):
    """Somebody who has trained nothing here."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(trust, "_known", set())
    monkeypatch.setattr(trust, "_all", False)


def test_code_from_elsewhere_is_not_run_without_a_word(run, minitx, tmp_path, stranger):
    place = tmp_path / "theirs"
    shutil.copytree(run, place)
    for words in (["generate", "--prompt", "a"], ["eval"], ["attn"], ["resume", "--steps", "9"]):
        done = minitx(words[0], place, *words[1:])
        assert done.code == 2
        assert "holds code of its own, my_model.py" in done.err
        assert done.err.count("\n") == 1
    assert minitx("attn", place, "--check-mask", "--trust-code").code == 0
    # The same code is trusted from then on, also by another process, and no other.
    trust._all = False
    trust._known.clear()
    assert minitx("eval", place, "--quick").code == 0


def test_code_that_was_changed_is_not_run(run, minitx, tmp_path, stranger):
    place = tmp_path / "theirs"
    shutil.copytree(run, place)
    for code in place.rglob("*.py"):
        code.write_text(f"open({str(tmp_path / 'was_run')!r}, 'w')\n" + MODEL)
    assert minitx("eval", place, "--trust-code").code == 3
    for config in list(place.rglob("config.json")):  # ... nor if its config was changed to fit
        values = json.loads(config.read_text())
        sources = {"my_model.py": config.with_name("my_model.py").read_bytes()}
        values["minitx"]["model"]["code_digest"] = OwnCode("my_model.py", sources).digest
        config.write_text(json.dumps(values))
        config.with_name("manifest.json").unlink()
        config.parent.rename(tmp_path / config.parent.name)
    trust._all = False
    done = minitx("eval", tmp_path / "step-000008", tmp_path / "theirs/data/holdout.txt")
    assert "it was not trained with it here" in done.err
    assert not (tmp_path / "was_run").exists()


def test_weights_that_do_not_fit_are_told(run, tmp_path):
    from safetensors.torch import save_file

    place = tmp_path / "step-000008"
    shutil.copytree(run / "checkpoints/step-000008", place)
    tensors = load_file(place / "model.safetensors")
    for change in ({"blocks.0.up.bias": torch.ones(3)}, {"more": torch.ones(1)}):
        save_file(tensors | change, place / "model.safetensors")
        with pytest.raises(Exception, match=f"{next(iter(change))}") as told:
            load_model(place)
        assert told.value.exit_code == 3


def test_the_config_of_such_a_run_needs_the_file(run, minitx, inside, verses):
    done = minitx("train", verses, "--config", run / "run.toml", "--steps", "2")
    assert done.code == 2
    assert "Name it with --model" in done.err


def test_muon_takes_the_matrices_that_are_no_tables():
    names = {name for name, _, _ in own(MODEL).matrices()}
    parts = ("qkv", "out", "up", "down")
    assert names == {f"module.blocks.{i}.{part}.weight" for i in range(2) for part in parts}


def test_buffers_that_change_are_kept(verses, tmp_path):
    file = tmp_path / "counts.py"
    file.write_text(
        changed(
            ("self.head = ", 'self.register_buffer("calls", torch.tensor(0)); self.head = '),
            ("x = self.tokens", "self.calls += self.training; x = self.tokens"),
        )
    )  # fmt: skip
    made = train(request(verses, tmp_path / "run", file), []).run
    kept = load_file(made / "checkpoints/step-000008/model.safetensors")
    assert int(kept["calls"]) >= 8


def test_what_is_tried_leaves_no_trace_in_what_is_trained():
    code = OwnCode("my_model.py", {"my_model.py": MODEL.encode()})
    before = torch.random.get_rng_state()
    config = tried(CONFIG, code, FLOAT32, seed=5)
    assert torch.equal(before, torch.random.get_rng_state())
    assert (config.n_layers, config.n_heads, config.n_kv_heads) == (2, 3, 3)


def test_several_processes_train_it(verses, file, tmp_path, minitx_process):
    command = ["train", verses, "--model", file, "--layers", "2", "--d-model", "16", "--context",
               "32", "--steps", "4", "--threads", "1", "--dtype", "float32"]  # fmt: skip
    losses = []
    for n in (1, 2):
        out = tmp_path / str(n)
        done = minitx_process(*command, "--accumulation", "2", "--processes", n, "--out", out)
        assert done.code == 0, done.err
        lines = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
        losses.append([line["holdout_loss"] for line in lines if line["kind"] == "evaluation"])
    np.testing.assert_allclose(*losses, rtol=1e-4)
