"""`minitx attn` as a person runs it: what each flag shows, and that its files hold the maps."""

import json

import numpy as np
import pytest

PROMPT = ["--prompt", "3 green bottles"]


@pytest.fixture(autouse=True)
def _inside(inside):
    pass


@pytest.fixture
def attn_json(minitx, tiny_run):
    def run(*flags):
        done = minitx("attn", tiny_run, *PROMPT, "--json", *flags)
        assert done.code == 0, done.err
        return json.loads(done.out)

    return run


@pytest.fixture(scope="module")
def study(tiny_run):
    from minitx.checkpoint.rundir import resolve_checkpoint
    from minitx.workflows.attend import open_study

    return open_study(resolve_checkpoint(tiny_run), PROMPT[1])


def test_json_holds_each_kind_of_map(attn_json, study):
    maps = study.maps
    expected = {
        (): maps.head(1, 0),
        ("--norms",): maps.norms(1, 0),
    }
    for flags, values in expected.items():
        found = attn_json("--layer", 1, "--head", 0, *flags)["maps"]
        assert len(found) == 1
        np.testing.assert_allclose(found[0]["values"], values, atol=1e-6)
    averages = attn_json("--average")["maps"]
    np.testing.assert_allclose(averages[0]["values"], maps.average(), atol=1e-6)
    assert len(averages) == 1
    by_layer = attn_json("--average", "--layer", "all")["maps"]
    np.testing.assert_allclose(by_layer[1]["values"], maps.average(1), atol=1e-6)
    rolled = attn_json("--rollout")["maps"]
    np.testing.assert_allclose(rolled[0]["values"], maps.rollout()[1], atol=1e-6)
    assert len(attn_json("--head", "all")["maps"]) == 4
    assert len(attn_json("--layer", 0, "--head", "all")["maps"]) == 2


def test_json_lists_what_tokens_look_at(attn_json, study):
    found = attn_json("--layer", 0, "--head", 1, "--token", -1, "--top", 3)["maps"][0]
    (last,) = found["looked_at"]
    row = study.maps.head(0, 1)[-1]
    assert [one["token"] for one in last["top"]] == np.argsort(-row)[:3].tolist()
    every = attn_json("--layer", 0, "--head", 1, "--top", 2)["maps"][0]["looked_at"]
    assert [len(one["top"]) for one in every] == [1] + [2] * 14


def test_json_holds_roles_lens_ablation_and_mask(attn_json, study):
    found = attn_json("--roles", "--lens", "--ablate", "--check-mask")
    assert "maps" not in found
    assert len(found["roles"]["heads"]) == len(found["ablation"]["heads"]) == 4
    for one, role in zip(found["roles"]["heads"], study.roles.heads, strict=True):
        assert one["role"] == role.role
        assert set(one["scores"]) == set(role.scores)
    assert [one["after"] for one in found["logit_lens"]] == ["embedding", "layer 0", "layer 1"]
    assert found["logit_lens"][2]["loss"] == pytest.approx(float(study.lens.loss[2]), abs=1e-5)
    assert found["mask_check"]["passed"]
    assert all(path["leak"] is None for path in found["mask_check"]["paths"])


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], ["All heads", "Row: the token that looks", "scale"]),
        (["--layer", 0, "--head", 1], ["layer 0, head 1"]),
        (["--head", "all"], ["0.0", "0.1", "1.0", "1.1"]),
        (["--average"], ["mean of all heads"]),
        (["--average", "--layer", "all"], ["layer 0", "layer 1"]),
        (["--rollout"], ["rollout of layers 0 to 1"]),
        (["--norms"], ["value-weighted norms"]),
        (["--layer", 0, "--head", 0, "--token", 4], ["What token 4, e, looks at in layer 0"]),
        (["--head", "all", "--token", 4], ["in each head", "1.1"]),
        (["--layer", 0, "--head", 0, "--top", 2], ["What each token looks at"]),
        (["--roles"], ["control", "prev", "Measured on"]),
        (["--roles", "--ablate"], ["loss", "change"]),
        (["--ablate"], ["loss change", "nats per token"]),
        (["--lens"], ["embedding", "layer 1", "likeliest after token 14"]),
        (["--lens", "--token", 3], ["next: e"]),
        (["--check-mask"], ["No earlier logit moved"]),
        (["--attribute"], ["What adds up to the logit of", "head 1.1", "MLP 0", "sum"]),
        (["--attribute", "--answer", "b", "--token", 2], ["the logit of b,"]),
    ],
    ids=lambda value: " ".join(map(str, value)) or "plain",
)
@pytest.mark.parametrize("columns", ["80", "200"])
def test_what_is_asked_for_is_shown_within_the_terminal(
    minitx, tiny_run, monkeypatch, flags, words, columns
):
    monkeypatch.setenv("COLUMNS", columns)
    done = minitx("attn", tiny_run, *PROMPT, *flags, "--ascii")
    assert done.code == 0, done.err
    assert "\x1b" not in done.out
    for word in words:
        assert word in done.out
    assert max(map(len, done.out.splitlines()[1:])) <= int(columns)


def test_npz_holds_the_maps_exactly(minitx, tiny_run, study, inside):
    assert minitx("attn", tiny_run, *PROMPT, "--npz", "maps.npz").code == 0
    found = np.load(inside / "maps.npz", allow_pickle=False)
    np.testing.assert_array_equal(found["weights"], study.maps.weights)
    np.testing.assert_allclose(found["norms"][1, 0], study.maps.norms(1, 0), rtol=1e-6)
    np.testing.assert_allclose(found["rollout"], study.maps.rollout())
    assert found["tokens"].tolist() == list(study.maps.tokens)


@pytest.mark.parametrize(
    "flags",
    [[], ["--head", "all"], ["--average"], ["--norms"]],
    ids=["one", "grid", "mean", "norm"],
)
def test_png_is_a_picture_with_something_on_it(minitx, tiny_run, inside, flags):
    image = pytest.importorskip("matplotlib.image")
    done = minitx("attn", tiny_run, *PROMPT, "--png", "map.png", *flags)
    assert done.code == 0, done.err
    pixels = image.imread(inside / "map.png")
    assert min(pixels.shape[:2]) > 200
    assert len(np.unique(pixels.reshape(-1, pixels.shape[2]), axis=0)) > 30


def test_png_without_matplotlib_tells_what_to_install(minitx, tiny_run, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    done = minitx("attn", tiny_run, *PROMPT, "--png", "map.png")
    assert done.code == 2
    assert "minitx[png]" in done.err


@pytest.mark.parametrize("flag", ["--png", "--npz", "--html"])
def test_files_that_cannot_be_written(minitx, tiny_run, flag):
    done = minitx("attn", tiny_run, *PROMPT, flag, "no/such/file")
    assert done.code == 2
    assert "no/such/file can't be written" in done.err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--average", "--norms"], "each name a kind of map"),
        (["--rollout", "--head", 1], "takes all heads together"),
        (["--top", 0], "--top is 0"),
        (["--token", 99], "Choose a token from 0 to 14"),
        (["--token", -99], "token -99 does not exist"),
        (["--layer", 7], "Choose a layer from 0 to 1"),
        (["--head", 7], "Choose a head from 0 to 1"),
        (["--answer", "b"], "--answer names the token that --attribute and --patch follow"),
        (["--attribute", "--answer", "bb"], "'bb' is 2 tokens, and one is followed"),
        (["--patch", "a", "b"], "--patch has prompts of its own. Leave out --prompt"),
    ],
)
def test_what_does_not_exist_is_named_with_what_does(minitx, tiny_run, flags, words):
    done = minitx("attn", tiny_run, *PROMPT, *flags)
    assert done.code == 2
    assert words in done.err
    assert len(done.err.strip().splitlines()) == 1


def test_a_leak_ends_with_1_and_is_named(minitx, tiny_run, monkeypatch):
    import torch

    from minitx.model import transformer

    def open_mask(queries, keys, device=None):
        return torch.ones(queries, keys, dtype=torch.bool, device=device)

    monkeypatch.setattr(transformer, "causal_mask", open_mask)
    done = minitx("attn", tiny_run, *PROMPT, "--check-mask")
    assert done.code == 1
    assert "enters at layer 0, all heads" in done.out
    assert "The future leaks" in done.out


def test_small_maps_say_how_many_tokens_a_spot_stands_for(minitx, tiny_run):
    long = "green bottles hanging on the wall"
    for flags in (["--head", "all"], ["--layer", 1, "--head", "all"]):
        shown = minitx("attn", tiny_run, "--prompt", long[:31], *flags).out
        assert "Each spot is the largest value of up to 2 of 31 tokens." in shown
        assert "Each spot" not in minitx("attn", tiny_run, "--prompt", "3 green", *flags).out


PATCH = ["--patch", "3 green bottles", "1 green bottles"]


def test_json_holds_attribution_and_patching(minitx, tiny_run, attn_json, study):
    found = attn_json("--attribute", "--token", 4, "--answer", "b")["attribution"]
    expected = study.attribution(4, "b")
    assert found["text"] == "b"
    assert found["total"] == pytest.approx(found["logit"], abs=1e-4)
    assert [one["name"] for one in found["contributions"]][:3] == [
        "embedding",
        "head 0.0",
        "head 0.1",
    ]
    for one, other in zip(found["contributions"], expected.contributions, strict=True):
        assert one["logit"] == pytest.approx(other.logit, abs=1e-6)
    done = minitx("attn", tiny_run, *PATCH, "--json", "--layer", 1, "--head", 0)
    assert done.code == 0, done.err
    whole = json.loads(done.out)
    patching = whole["patching"]
    assert whole["prompt"] == "3 green bottles"
    assert "maps" not in whole
    ours = study.patcher("1 green bottles").everywhere(study.tokenizer.piece)
    np.testing.assert_allclose(patching["residual"], ours.residual, atol=1e-5)
    np.testing.assert_allclose(patching["heads"], ours.heads, atol=1e-5)
    np.testing.assert_allclose(patching["recovered"]["mlp"], ours.recovered(ours.mlp), atol=1e-4)
    assert (patching["text"], patching["tokens"][0]) == (ours.text, "1")
    assert len(patching["head"]["by_position"]) == 15


@pytest.mark.parametrize("columns", ["80", "200"])
def test_patching_is_shown_as_tables(minitx, tiny_run, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    done = minitx("attn", tiny_run, *PATCH, "--ascii", "--layer", 0, "--head", 1)
    assert done.code == 0, done.err
    for words in ("Logit of", "clean", "Patched: a head, at all positions", "layer 1", "0 1",
                  "Patched: head 0.1, at one position", "14 s"):  # fmt: skip
        assert words in done.out
    assert max(map(len, done.out.splitlines()[1:])) <= int(columns)
    shorter = minitx("attn", tiny_run, "--patch", "3 green", "10 green")
    assert shorter.code == 2
    assert "has 7 tokens and the corrupted one 8" in shorter.err


@pytest.mark.parametrize(
    "flags",
    [[*PROMPT, "--attribute"], PATCH, [*PATCH, "--attribute"]],
    ids=["sum", "patch", "both"],
)
def test_attribution_and_patching_are_drawn(minitx, tiny_run, inside, flags):
    image = pytest.importorskip("matplotlib.image")
    done = minitx("attn", tiny_run, "--png", "why.png", *flags)
    assert done.code == 0, done.err
    pixels = image.imread(inside / "why.png")
    assert len(np.unique(pixels.reshape(-1, pixels.shape[2]), axis=0)) > 30
