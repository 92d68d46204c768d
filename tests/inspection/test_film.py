"""When the film of a run has a moment, and that each is what the model does at that step."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_runs import TINY_MODEL, TINY_TRAIN

from minitx.checkpoint.own_code import OwnCode
from minitx.checkpoint.own_model import OwnModel
from minitx.config import AttentionRequest, ModelConfig, SamplingConfig, TrainConfig
from minitx.generation import generate
from minitx.inspection import film_recorder
from minitx.inspection.attention_maps import read_attention
from minitx.inspection.film import Film, LensMoment, Moment, read_film
from minitx.inspection.film_recorder import FilmRecorder, is_moment, moment_count, planned_steps
from minitx.inspection.head_roles import measure_heads, read_patterns
from minitx.inspection.logit_lens import read_logit_lens
from minitx.inspection.probe_texts import repeat_probe
from minitx.model import Transformer
from minitx.report.attention.film_view import film_parts, induction_told
from minitx.tokenizer import train_tokenizer

TRAIN = TrainConfig(**{**TINY_TRAIN, "learning_rate": 0.01})
TEXT = "the cat sat on the mat, and 7 dogs ran;\nthe dog sat on the cat, and 9 cats ran.\n" * 20


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXT, "char", 0)


def config_of(tokenizer, **changes):
    shape = {**TINY_MODEL, "head_dim": 8, **changes}
    return ModelConfig(vocab_size=tokenizer.vocab_size, **shape)


def recorder(model, tokenizer, lines=None, text=TEXT, **changes):
    lines = [] if lines is None else lines
    return FilmRecorder(model, tokenizer, tokenizer.encode(text), TRAIN, lines.append, **changes)


def model_of(tokenizer, seed=0, **changes):
    torch.manual_seed(seed)
    return Transformer(config_of(tokenizer, **changes))


@given(st.integers(30, 20_000), st.integers(4, 40))
def test_moments_are_early_and_late_and_about_as_many_as_planned(steps, count):
    planned = planned_steps(steps)
    assert steps / math.sqrt(2) <= planned * (1 + 1e-12)
    assert planned <= steps
    moments = [step for step in range(steps + 1) if is_moment(step, planned, count)]
    assert moments[0] == 0
    assert 0.6 * min(count, steps) <= len(moments) <= 1.5 * count + 1
    if steps > 40 * count:
        half = sum(step <= steps / 2 for step in moments)
        assert len(moments) / 2 < half < 0.9 * len(moments)
        gaps = np.diff(moments)
        assert gaps.max() < 2.5 * steps / count
        assert gaps[-1] > gaps[0]


def test_a_clock_that_estimates_anew_moves_no_moment():
    assert {planned_steps(steps) for steps in range(1024, 1448)} == {1024.0}
    assert not any(is_moment(step, 1000.0, 0) for step in range(1000))


def test_the_film_takes_a_hundredth_of_the_operations(tokenizer):
    config = config_of(tokenizer, d_model=256, d_ff=512, n_layers=4, context_length=128)
    counts = [moment_count(config, TRAIN, steps, "cpu") for steps in (10, 1000, 10**4, 10**7)]
    assert counts[0] == 0
    assert counts == sorted(counts)
    assert counts[-1] == film_recorder.MOST
    # Twice the steps, twice the moments; and fewer where a moment's share is larger.
    few = moment_count(config, TRAIN, 3000, "cpu")
    assert 1.8 <= moment_count(config, TRAIN, 6000, "cpu") / few <= 2.3
    wide = TrainConfig(**{**vars(TRAIN), "batch_size": 32})
    assert moment_count(config, wide, 3000, "cpu") > few


def test_each_figure_is_that_of_the_model(tokenizer):
    """Against the same measured elsewhere: maps, losses in float64, lens, greedy text."""
    model = model_of(tokenizer)
    made = recorder(model, tokenizer)
    moment = made.look(3)
    ids = tokenizer.encode("".join(moment.tokens))
    assert len(ids) == len(moment.tokens) == 21  # Two thirds of the context.
    assert "".join(moment.tokens) in TEXT
    maps = read_attention(model, tokenizer, ids)
    for layer in range(2):
        for head in range(2):
            distance = np.abs(moment.map(layer, head) - maps.head(layer, head))
            assert distance.max() <= 0.004
    probe = repeat_probe(tokenizer.vocab_size, 32, film_recorder.PROBES, 0)
    heads = measure_heads(read_patterns(model, probe, made._windows), 2)  # A pass for each text.
    assert moment.roles == tuple(head.role for head in heads)
    strengths = [head.scores["induction"].strength for head in heads]
    assert moment.induction == pytest.approx(strengths, abs=1e-3)
    exact = model_of(tokenizer).double().eval()
    windows = torch.from_numpy(made._windows)
    logits = exact(windows[:, :-1])
    losses = torch.nn.functional.cross_entropy(logits.mT, windows[:, 1:], reduction="none")
    assert moment.loss == pytest.approx(float(losses.detach().mean()), abs=1e-4)
    is_digit = torch.tensor([tokenizer.piece(i).isdigit() for i in range(tokenizer.vocab_size)])
    digits = losses[is_digit[windows[:, 1:]]]
    assert moment.classes["digit"] == pytest.approx(float(digits.detach().mean()), abs=1e-4)
    lens = read_logit_lens(model, ids.astype(np.int64))
    for kept in moment.lens:
        assert kept.following == moment.tokens[kept.position + 1]
        np.testing.assert_allclose(kept.chances, lens.next_probability[:, kept.position], atol=1e-4)
        best = [tokenizer.piece(int(i)) for i in lens.top_ids[:, kept.position, 0]]
        assert [guesses[0][0] for guesses in kept.likeliest] == best
    config = SamplingConfig(temperature=0.0, max_new_tokens=11)
    (said,) = generate(model, tokenizer, ["".join(moment.tokens)], config)
    assert moment.sample == said.text


def test_the_model_is_left_as_it_was(tokenizer):
    model = model_of(tokenizer, dropout=0.5).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    made, random = recorder(model, tokenizer), torch.get_rng_state()
    made.look(0)
    assert model.training
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_moments_that_are_kept_already_are_not_kept_again(tokenizer, monkeypatch):
    monkeypatch.setattr(film_recorder, "SHARE", 1e9)
    lines = []
    made = recorder(model_of(tokenizer), tokenizer, lines, last_step=5)
    assert [made.record(step, 20) for step in (0, 5, 6)] == [False, False, True]
    assert [line["step"] for line in lines] == [6]


def test_a_film_that_was_begun_has_an_end(tokenizer, monkeypatch):
    lines = []
    made = recorder(model_of(tokenizer), tokenizer, lines)
    monkeypatch.setattr(film_recorder, "SHARE", 1e9)
    made.record(0, 5000)
    monkeypatch.setattr(film_recorder, "SHARE", 0.0)  # As if fewer steps fitted the time after all.
    assert [made.record(step, 9) for step in (8, 9)] == [False, True]
    assert not recorder(model_of(tokenizer), tokenizer, lines).record(9, 9)


def test_the_prompt_follows_from_the_seed_and_leaves_room(tokenizer):
    model = model_of(tokenizer)
    tokens = [recorder(model, tokenizer).look(step).tokens for step in (0, 9)]
    assert tokens[0] == tokens[1]
    wide = recorder(model_of(tokenizer, context_length=512, n_layers=2), tokenizer).look(0)
    assert len(wide.tokens) == film_recorder.TEXT
    assert wide.sample
    many = model_of(tokenizer, n_layers=40, n_heads=12, n_kv_heads=12, context_length=512)
    moment = recorder(many, tokenizer).look(0)
    assert len(moment.packed) <= film_recorder.MAP_BYTES
    assert len(moment.tokens) >= 8


@pytest.mark.parametrize("text", ["t", "th", "the cat sat"])
def test_a_text_of_a_few_tokens_has_a_film_as_far_as_it_goes(tokenizer, text):
    moment = recorder(model_of(tokenizer), tokenizer, text=text).look(0)
    assert 1 <= len(moment.tokens) <= len(text)
    assert json.loads(json.dumps(moment.to_line(), allow_nan=True))["step"] == 0


def test_a_model_that_broke_is_filmed_too(tokenizer, tmp_path):
    from minitx.training.logging.metrics_file import MetricsFile

    model = model_of(tokenizer)
    torch.nn.init.constant_(model.embedding.weight, math.nan)
    file = MetricsFile(tmp_path / "film.jsonl")
    file.write(recorder(model, tokenizer).look(4).to_line())
    file.close()
    (moment,) = read_film(tmp_path / "film.jsonl").moments
    assert math.isnan(moment.loss)
    assert moment.sample == ""
    assert not moment.map(0, 0).any()
    parts = film_parts(Film((moment,)), AttentionRequest(film=True), "blocks", 80)
    assert len(list(parts)) > 5


SILENT = """
import torch
from torch import nn

class Silent(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.table = nn.Embedding(size, size)

    def forward(self, ids):
        return self.table(ids)

def model(config):
    return Silent(config.vocab_size)
"""


def test_a_model_of_ones_own_that_shows_no_attention_has_losses_and_samples(tokenizer):
    code = OwnCode("silent.py", {"silent.py": SILENT.encode()})
    moment = recorder(OwnModel(config_of(tokenizer), code), tokenizer).look(0)
    assert (moment.layers, moment.heads, moment.maps, moment.roles) == (0, 0, "", ())
    assert moment.lens == ()
    assert moment.sample
    assert moment.loss > 0
    assert Moment.from_line(json.loads(json.dumps(moment.to_line()))).tokens == moment.tokens


def made_up(step, induction=(0.0,), roles=(None,)):
    lens = (LensMoment(0, "b", (0.1, 0.9), ((("b", 0.9),), (("a", 0.8),))),)
    return Moment(
        step, ("a", "b"), 1, 1, roles, (0.0,), induction, 1.0, {"space": 2.0}, lens, "text", "AAAA"
    )


def test_induction_appears_where_it_stays():
    strengths = [0.0, 0.5, 0.1, 0.3, 0.8]
    film = Film(tuple(made_up(10 * i, (value,)) for i, value in enumerate(strengths)))
    assert film.induction_since.step == 30
    assert "from step 30 on; at the end head 0.0 has most of it, 80 %" in induction_told(film)
    assert Film((made_up(0),)).induction_since is None
    none = "No head did induction at any moment: the strongest had 20 %, under 30 %."
    assert induction_told(Film((made_up(0), made_up(9, (0.2,))))) == none
    assert "was not measured" in induction_told(Film((made_up(0, ()),)))
    assert "at step 10 head 0.0 has most of it, 50 %" in induction_told(Film(film.moments[:3]))
    assert Film((made_up(0, (math.nan,)),)).induction_since is None
    assert "had 0 %" in induction_told(Film((made_up(0, (math.nan,)),)))
    assert [film.at(step).step for step in (0, 14, 16, 99)] == [0, 10, 20, 40]
    assert [moment.step for moment in film.spread(3)] == [0, 20, 40]


def test_lines_that_can_not_be_used_are_passed_over(tmp_path):
    line = {**made_up(7).to_line()}
    wrong = [
        {**line, "step": 8, "maps": "AA"}, {**line, "step": 9, "roles": [None, None]},
        {**line, "step": 10, "lens": [{"odd": 1}]}, {"kind": "moment", "step": 11},
        {**line, "step": 12, "layers": "2"}, {**line, "step": 13, "kind": "other"},
        {**line, "step": 14, "tokens": 3}, {**line, "step": 15, "classes": 3},
    ]  # fmt: skip
    path = tmp_path / "film.jsonl"
    path.write_text("\n".join(map(json.dumps, [line, *wrong])) + '\n{"kind": "mom')
    assert [moment.step for moment in read_film(path).moments] == [7]
    assert read_film(tmp_path / "none.jsonl") is None
