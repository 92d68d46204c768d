"""The plan: whatever the text, machine and time, a run that can be trained."""

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minitx.config import DataConfig
from minitx.corpus.sources import default_text
from minitx.errors import BadInputError
from minitx.training.planning import (
    BATCH_TOKENS,
    DEFAULT_BUDGET_SECONDS,
    EMBEDDING_TO_BLOCKS,
    FAST,
    FAST_BATCH_TOKENS,
    LADDER,
    NARROW,
    TokenFigures,
    passes_text,
    plan_run,
)
from minitx.training.tokenizer_planning import (
    EMBEDDING_OF_UNSEEN,
    TextSize,
    plan_capacity,
    plan_tokenizer,
)

TOKENS = TokenFigures(65, 1_000_000, 100_000)


def figures(n_bytes, n_distinct=65):
    return TextSize(n_bytes, n_bytes, n_distinct)


def plan(tokens=TOKENS, rate=2e11, model=(), kind="char", **train):
    tokenizer, _ = plan_tokenizer(figures(1_000_000), {"kind": kind})
    return plan_run(DataConfig(), tokenizer, tokens, rate, dict(model), train)


@pytest.mark.parametrize(
    ("n_bytes", "n_distinct", "kind"),
    [(1_000_000, 65, "char"), (9_000_000, 65, "bpe"), (1_000_000, 300, "bpe"), (0, 0, "char")],
)
def test_the_tokenizer_follows_from_the_text(n_bytes, n_distinct, kind):
    config, reasons = plan_tokenizer(figures(n_bytes, n_distinct), {})
    assert config.kind == kind
    assert f"{n_distinct:,} characters" in reasons["kind"]


@pytest.mark.parametrize(
    ("n_bytes", "ids"), [(1_000, 512), (1_000_000, 4096), (10**9, 32_768)]
)  # fmt: skip
def test_a_vocabulary_grows_with_the_text_and_ends(n_bytes, ids):
    config, reasons = plan_tokenizer(figures(n_bytes, 300), {})
    assert config.vocab_size == ids
    assert "vocab_size" in reasons
    fixed, reasons = plan_tokenizer(figures(n_bytes, 300), {"kind": "word", "vocab_size": 99})
    assert (fixed.kind, fixed.vocab_size, reasons) == ("word", 99, {})


@pytest.mark.parametrize("budget", [1.0, 60.0, 3_600.0, 86_400.0])
def test_a_small_model_gets_no_vocabulary_that_takes_most_of_its_work(budget):
    text = figures(10**9, 300)
    capacity = plan_capacity(text, 1e12, {}, {"budget_seconds": budget})
    config, reasons = plan_tokenizer(text, {}, capacity)
    table = config.vocab_size * capacity.model.d_model
    blocks = capacity.model.n_parameters - capacity.model.d_model
    # So much of it is not even read once.
    assert table <= EMBEDDING_OF_UNSEEN * blocks or config.vocab_size == 512
    assert config.vocab_size == 32_768 or 2 * table > 0.7 * blocks
    assert (config.vocab_size < 32_768) == ("a model of this size" in reasons["vocab_size"])
    # A short text still has a small one, and one that is given is kept.
    assert plan_tokenizer(figures(150_000, 300), {}, capacity)[0].vocab_size == 512
    assert plan_tokenizer(text, {"vocab_size": 9_000}, capacity)[0].vocab_size == 9_000


def test_a_text_that_is_not_read_once_has_longer_pieces():
    capacity = plan_capacity(figures(20_000_000, 300), 4e11, {}, {"budget_seconds": 35.0})
    ids = [
        plan_tokenizer(figures(n_bytes, 300), {}, capacity)[0].vocab_size
        for n_bytes in (round(0.9 * capacity.n_characters), round(1.1 * capacity.n_characters))
    ]
    assert ids == [2_048, 4_096]
    blocks = capacity.model.n_parameters
    assert ids[0] * capacity.model.d_model <= EMBEDDING_TO_BLOCKS * blocks
    assert ids[1] * capacity.model.d_model <= EMBEDDING_OF_UNSEEN * blocks


def test_passes_are_told_as_people_write_numbers():
    told = [passes_text(epochs) for epochs in (0.0567, 5.678, 93.2, 187.4, 5678.0, 1.6e6)]
    assert told == [
        f"about {n} passes" for n in ["0.057", "5.7", "93", "190", "5,700", "1,600,000"]
    ]


def test_a_text_that_is_seldom_read_is_read_in_pieces_of_words():
    kinds = []
    for budget in (1.0, 10.0, 100.0, 1_000.0):
        capacity = plan_capacity(figures(1_000_000), 1e12, {}, {"budget_seconds": budget})
        config, reasons = plan_tokenizer(figures(1_000_000), {}, capacity)
        kinds.append(config.kind)
        assert f"{passes_text(capacity.n_characters / 1e6)} over 1 MB" in reasons["kind"]
    assert (kinds[0], kinds[-1]) == ("bpe", "char")
    assert kinds == sorted(kinds)
    # Steps say nothing about time: as for five minutes.
    steps = plan_capacity(figures(1_000_000), 1e12, {}, {"steps": 3})
    minutes = plan_capacity(
        figures(1_000_000), 1e12, {}, {"budget_seconds": DEFAULT_BUDGET_SECONDS}
    )
    assert steps == minutes


@pytest.mark.parametrize("n_bytes", [100_000, 577_000, 1_000_000, 5_000_000])
def test_more_time_never_leads_back_from_characters_to_pieces(n_bytes):
    """Also where the planned model becomes a larger one, which reads the text fewer times."""
    kinds = []
    for k in range(400):
        capacity = plan_capacity(figures(n_bytes), 1e11, {}, {"budget_seconds": 1.03**k})
        kinds.append(plan_tokenizer(figures(n_bytes), {}, capacity)[0].kind)
    assert kinds == sorted(kinds)
    assert (kinds[0], kinds[-1]) == ("bpe", "char")


def test_an_english_manual_on_a_slow_machine_is_read_in_pieces():
    """40 seconds on AVX2: 2.007 bits per byte in 1,024 pieces, 2.151 in characters."""
    manual = TextSize(520_000, 519_000, 117)
    for rate in (3e10, 6e10, 9e10, 1.8e11):
        capacity = plan_capacity(manual, rate, {}, {"budget_seconds": 40.0})
        assert plan_tokenizer(manual, {}, capacity)[0].kind == "bpe", rate


def test_text_is_counted_in_bytes_and_characters():
    size = TextSize.of(["für ", "für"])
    assert (size.n_bytes, size.n_characters, size.n_distinct) == (9, 7, 4)


def test_a_text_whose_characters_do_not_tell_the_next_has_few_pieces():
    """And smoothly more, the more they do."""
    letters = "".join(random.Random(0).choices("ACGT", (3, 2, 2, 3), k=200_000))
    size = TextSize.of([letters[:77], letters[77:]])
    assert size.predictability == pytest.approx(0, abs=0.001)
    large = replace(size, n_bytes=4_000_000)
    config, reasons = plan_tokenizer(large, {"kind": "bpe"})
    assert config.vocab_size == 512
    assert "hardly predict the next one" in reasons["vocab_size"]
    parts = (0.005, 0.01, 0.02, 0.04, 0.08, 0.1, 0.25, 1.0)
    ids = [
        plan_tokenizer(replace(large, predictability=part), {"kind": "bpe"})[0].vocab_size
        for part in parts
    ]
    assert ids == [1024, 2048, 4096, 8192, 16_384, 16_384, 16_384, 16_384]
    # By the definition: the entropy of "ab" repeated is 1 bit, and nothing is left of it.
    assert TextSize.of(["ab" * 50_000]).predictability == pytest.approx(1, abs=0.001)
    assert TextSize.of(["aaaa"]).predictability == 1
    assert 0.15 < TextSize.of([default_text()]).predictability < 0.35


@settings(max_examples=50, deadline=None)
@given(
    n_bytes=st.integers(10_000, 10**10), rate=st.floats(1e9, 1e15), budget=st.floats(1, 1e6),
    model=st.sampled_from([{}, {"n_layers": 3}, {"d_model": 100}, {"n_heads": 2}]),
)  # fmt: skip
def test_the_model_is_known_before_there_are_tokens(n_bytes, rate, budget, model):
    expected = plan_capacity(figures(n_bytes, 300), rate, model, {"budget_seconds": budget}).model
    tokens = TokenFigures(4_096, n_bytes // 3, n_bytes // 30)
    run, _ = plan(tokens, rate, model, kind="bpe", budget_seconds=budget)
    assert (run.model.n_layers, run.model.d_model) == (expected.n_layers, expected.d_model)
    with pytest.raises(BadInputError, match="d_model"):
        plan_capacity(figures(n_bytes, 300), rate, {"d_model": -4}, {})


def test_without_a_budget_or_steps_five_minutes_are_planned():
    run, reasons = plan()
    assert run.train.budget_seconds == DEFAULT_BUDGET_SECONDS
    assert "--budget" in reasons["budget_seconds"]
    run, reasons = plan(steps=500)
    assert (run.train.steps, run.train.budget_seconds) == (500, None)
    assert not {"steps", "budget_seconds"} & set(reasons)


def test_more_time_or_a_faster_machine_never_plans_a_smaller_model():
    tokens = TokenFigures(65, 10**10, 10**9)
    budgets = [1.0, 10.0, 60.0, 300.0, 3600.0, 86_400.0]
    sizes = [plan(tokens, budget_seconds=budget)[0].model.n_parameters for budget in budgets]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1]
    rates = [plan(tokens, rate=rate)[0].model.n_parameters for rate in (1e9, 1e11, 1e13, 1e16)]
    assert rates == sorted(rates)
    largest = plan(tokens, rate=1e20)[0].model
    assert (largest.n_layers, largest.d_model) == (LADDER[-1].n_layers, LADDER[-1].d_model)


def test_the_table_of_pieces_of_words_takes_its_share_of_the_time():
    """As many tokens are read by a model that is worth it, with that table or without."""
    tokens = TokenFigures(65, 10**10, 10**9)
    budgets = [1.05**i for i in range(280)]

    def first(kind):
        found = {}
        for budget in budgets:
            run, _ = plan(tokens, kind=kind, budget_seconds=budget)
            found.setdefault((run.model.n_layers, run.model.d_model), budget)
        return found

    characters, pieces = first("char"), first("bpe")
    assert list(characters) == list(pieces)
    assert len(pieces) > 5
    for shape in list(pieces)[1:]:
        later = pieces[shape] / characters[shape]
        assert later == pytest.approx(1 + EMBEDDING_TO_BLOCKS, rel=0.06)


def test_a_narrow_model_for_pieces_of_words_has_smaller_steps():
    for kind in ("char", "bpe"):
        for width in (64, 96, 128, 384):
            run, reasons = plan(kind=kind, model={"n_layers": 3, "d_model": width})
            tokens = run.train.batch_size * run.model.context_length
            smaller = kind == "bpe" and width < NARROW
            assert tokens == (BATCH_TOKENS // 2 if smaller else BATCH_TOKENS)
            told = int(reasons["batch_size"].split()[1].replace(",", ""))
            assert told == pytest.approx(tokens, rel=0.05)


def test_a_width_that_is_given_gets_heads_that_divide_it():
    for width in (20, 50, 98, 240, 1000):
        run, reasons = plan(model={"d_model": width})
        assert run.model.d_model == width
        assert width % run.model.n_heads == 0
        assert run.model.head_dim % 2 == 0
        assert f"{run.model.head_dim} wide" in reasons["n_heads"]
    # Only an odd width has no heads of even width: the model refuses it and says why.
    with pytest.raises(BadInputError, match="head_dim"):
        plan(model={"d_model": 7})


def test_what_is_given_is_never_changed_nor_explained():
    shape = {"n_layers": 5, "n_heads": 3, "d_model": 96, "d_ff": 100, "context_length": 40,
             "n_kv_heads": 1, "tie_embeddings": True, "dropout": 0.3}  # fmt: skip
    keys = {"steps": 70, "batch_size": 3, "learning_rate": 0.5, "warmup_steps": 7, "log_every": 2,
            "evaluate_every": 9, "checkpoint_every": 8, "evaluation_tokens": 5,
            "closing_tokens": 0}  # fmt: skip
    run, reasons = plan(TokenFigures(65, 10**8, 10**8), model=shape, **keys)
    for config, fixed in ((run.model, shape), (run.train, keys)):
        assert {key: getattr(config, key) for key in fixed} == fixed
    assert not set(reasons) & (set(shape) | set(keys))


def test_the_plain_mlp_is_as_large_as_the_gated_one():
    gated = plan(model={"n_layers": 2, "n_heads": 4, "d_model": 192})[0].model
    plain = plan(model={"n_layers": 2, "n_heads": 4, "d_model": 192, "architecture": "gpt2"})[0]
    assert 3 * gated.d_ff == pytest.approx(2 * plain.model.d_ff, rel=0.1)


def test_adamw_alone_has_a_lower_rate_than_beside_muon():
    alone = plan(optimizer="adamw")[0].train.learning_rate
    assert alone < plan()[0].train.learning_rate


def test_large_vocabularies_share_one_table():
    assert not plan()[0].model.tie_embeddings
    assert plan(TokenFigures(50_000, 10**6, 10**5))[0].model.tie_embeddings


@settings(max_examples=200, deadline=None)
@given(
    vocab_size=st.integers(1, 60_000),
    n_train=st.integers(1, 10**10),
    n_holdout=st.integers(0, 10**9),
    rate=st.floats(1e6, 1e16),
    budget=st.floats(1, 1e7) | st.none(),
)
def test_every_plan_can_be_trained(vocab_size, n_train, n_holdout, rate, budget):
    given = {} if budget is None else {"budget_seconds": budget}
    run, reasons = plan(TokenFigures(vocab_size, n_train, n_holdout), rate, **given)
    assert run.model.vocab_size == vocab_size
    assert 8 <= run.model.context_length <= 256
    most = FAST_BATCH_TOKENS if rate >= FAST else BATCH_TOKENS
    assert run.train.batch_size * run.model.context_length <= most or run.train.batch_size == 1
    assert 1 <= run.train.warmup_steps <= run.train.steps
    assert 1 <= run.train.evaluate_every <= run.train.steps
    assert all(reasons.values())


@pytest.mark.parametrize(
    ("n_train", "n_conversation", "context"),
    [(2_000, 0, 16), (2_000, 41, 64), (10**6, 41, 128), (10**6, 300, 512), (10**6, 9_000, 512),
     (300, 400, 299)],
)  # fmt: skip
def test_a_conversation_fits_the_context(n_train, n_conversation, context):
    tokens = TokenFigures(65, n_train, 180 if n_train < 10**6 else 10**5, n_conversation)
    run, reasons = plan(tokens, steps=10)
    assert run.model.context_length == context
    assert ("conversation" in reasons["context_length"]) == (context not in (16, 128))
