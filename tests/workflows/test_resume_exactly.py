"""A run that was cut and resumed has the numbers of the uncut one, to the bit."""

import hashlib
import itertools
import json
import os
import re
import signal
import threading
from dataclasses import replace

import pytest
from equal_runs import Cut, assert_equal_runs, numbers, strip_timing
from small_runs import TINY_MODEL, TINY_TRAIN

from minitx.checkpoint import load_model
from minitx.checkpoint.manifest import MANIFEST, manifest_bytes
from minitx.checkpoint.rundir import RunDirectory
from minitx.config import SamplingConfig
from minitx.config.overrides import merged
from minitx.corpus import split_corpus
from minitx.errors import BadInputError, DamagedFileError, InterruptedRunError, RunLockedError
from minitx.generation import generate
from minitx.training import loop
from minitx.training.clock import Clock
from minitx.training.machine_speed import MachineSpeed
from minitx.training.observer import TrainingObserver
from minitx.workflows import prepare
from minitx.workflows import session as session_module
from minitx.workflows.resume import ResumeRequest, resume
from minitx.workflows.train import TrainRequest, train


def request(verses, out, model=None, **train_keys):
    return TrainRequest(
        data={"corpus": (str(verses),)},
        model={**TINY_MODEL, **(model or {})},
        train={**TINY_TRAIN, "log_every": 1, **train_keys},
        out=out,
    )


VARIANTS = [
    {"optimizer": "muon", "accumulation": 1, "dropout": 0.0},
    {"optimizer": "adamw", "accumulation": 2, "dropout": 0.2},
    {"optimizer": "muon", "accumulation": 3, "dropout": 0.1},
]


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_samples_are_those_of_the_weights_at_their_step(tmp_path, verses, optimizer):
    """And not of weights that an earlier sample was drawn from."""
    keys = {"optimizer": optimizer, "keep_checkpoints": 9, "learning_rate": 0.03}
    run = train(request(verses, tmp_path / "run", **keys), []).run
    shown = [line for line in numbers(run) if line["kind"] == "evaluation"]
    assert len({line["sample"] for line in shown}) == len(shown) == 3
    for line in shown:
        loaded = load_model(RunDirectory(run).checkpoint(line["step"]))
        config = SamplingConfig(temperature=0.8, top_k=min(40, loaded.tokenizer.vocab_size),
                                max_new_tokens=160, seed=1337)  # fmt: skip
        (drawn,) = generate(loaded.model, loaded.tokenizer, [line["sample_prompt"]], config)
        assert drawn.text == line["sample"]


@pytest.mark.parametrize("cut", [12, 22])
@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_samples_do_not_know_of_a_cut(tmp_path, verses, optimizer, cut):
    """In one process, as after a kill in another: at each evaluation, not only the last."""
    uncut = train(request(verses, tmp_path / "uncut", optimizer=optimizer), []).run
    with pytest.raises(InterruptedRunError):
        train(request(verses, tmp_path / "cut", optimizer=optimizer), [Cut(cut)])
    resume(ResumeRequest(tmp_path / "cut"), [])
    assert_equal_runs(tmp_path / "cut", uncut)


@pytest.mark.parametrize("variant", VARIANTS)
def test_same_seed_same_run_and_cuts_do_not_show(tmp_path, verses, variant):
    keys = dict(variant)
    model = {"dropout": keys.pop("dropout")}
    uncut = train(request(verses, tmp_path / "uncut", model, **keys), []).run
    again = train(request(verses, tmp_path / "again", model, **keys), []).run
    assert_equal_runs(uncut, again)
    with pytest.raises(InterruptedRunError) as caught:
        train(request(verses, tmp_path / "cut", model, **keys), [Cut(7)])
    assert caught.value.exit_code == 130
    with pytest.raises(InterruptedRunError):
        resume(ResumeRequest(tmp_path / "cut"), [Cut(10)])  # at an evaluation and a checkpoint
    with pytest.raises(InterruptedRunError):
        resume(ResumeRequest(tmp_path / "cut"), [Cut(11)])
    end = resume(ResumeRequest(tmp_path / "cut"), []).end
    assert (end.step, end.reason) == (30, "finished")
    assert_equal_runs(uncut, tmp_path / "cut")


def test_another_seed_is_another_run(tmp_path, verses):
    one = train(request(verses, tmp_path / "a", steps=4), []).run
    other = train(request(verses, tmp_path / "b", steps=4, seed=2), []).run
    assert numbers(one)[0]["loss"] != numbers(other)[0]["loss"]


def test_killed_run_goes_on_from_its_last_checkpoint(tmp_path, verses):
    """A kill leaves metrics past the checkpoint, a torn line and half a checkpoint."""
    uncut = train(request(verses, tmp_path / "uncut"), []).run
    killed = tmp_path / "killed"
    with pytest.raises(InterruptedRunError):
        train(request(verses, killed), [Cut(15)])
    run = RunDirectory(killed)
    run.remove(15)  # as if the process had died before it could save
    (killed / "metrics.jsonl").open("ab").write(b'{"kind": "step", "st')
    half = run.checkpoint_root / ".step-000020.part"
    half.mkdir()
    (half / "config.json").write_text("{")
    resume(ResumeRequest(killed), [])
    assert_equal_runs(uncut, killed)
    assert not half.exists()


def test_damaged_newest_checkpoint_is_passed_over(tmp_path, verses, caplog):
    uncut = train(request(verses, tmp_path / "uncut"), []).run
    cut = tmp_path / "cut"
    with pytest.raises(InterruptedRunError):
        train(request(verses, cut), [Cut(25)])
    run = RunDirectory(cut)
    path = run.checkpoint(25) / "optimizer.safetensors"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    resume(ResumeRequest(cut), [])
    assert "step-000025/optimizer.safetensors was changed" in caplog.text
    assert "using" in caplog.text
    assert_equal_runs(uncut, cut)


def test_all_checkpoints_damaged(tmp_path, verses):
    with pytest.raises(InterruptedRunError):
        train(request(verses, tmp_path / "run"), [Cut(5)])
    run = RunDirectory(tmp_path / "run")
    for step in run.steps():
        (run.checkpoint(step) / "model.safetensors").write_bytes(b"")
    with pytest.raises(DamagedFileError, match="none of the 1 checkpoints"):
        resume(ResumeRequest(tmp_path / "run"), [])


def test_longer_before_the_decay_is_as_if_planned_so(tmp_path, verses):
    keys = {"decay_fraction": 0.5, "warmup_steps": 2}
    planned = train(request(verses, tmp_path / "planned", steps=40, **keys), []).run
    with pytest.raises(InterruptedRunError):
        train(request(verses, tmp_path / "cut", steps=30, **keys), [Cut(12)])
    resume(ResumeRequest(tmp_path / "cut", train={"steps": 40}), [])
    assert_equal_runs(planned, tmp_path / "cut")


def test_finished_run_can_be_lengthened(tmp_path, verses):
    run = train(request(verses, tmp_path / "run", warmup_steps=5), []).run
    with pytest.raises(BadInputError, match="has done 30 of 30 steps"):
        resume(ResumeRequest(run), [])
    end = resume(ResumeRequest(run, train={"steps": 60}), []).end
    assert end.step == 60
    lines = [line for line in numbers(run) if line["kind"] == "step"]
    rates = {line["step"]: line["learning_rate"] for line in lines}
    assert rates[31] < rates[33] < rates[35]  # warmed up once more
    assert RunDirectory(run).read_config().train.steps == 60
    assert [line["step"] for line in lines] == list(range(1, 61))


def test_lengthening_is_exact_across_a_cut(tmp_path, verses):
    for name in ("uncut", "cut"):
        train(request(verses, tmp_path / name, warmup_steps=5), [])
    resume(ResumeRequest(tmp_path / "uncut", train={"steps": 50}), [])
    with pytest.raises(InterruptedRunError):
        resume(ResumeRequest(tmp_path / "cut", train={"steps": 50}), [Cut(33)])
    resume(ResumeRequest(tmp_path / "cut"), [])
    assert_equal_runs(tmp_path / "uncut", tmp_path / "cut")


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 143), (signal.SIGINT, 130)]
)
def test_signals_save_and_tell(tmp_path, verses, number, code):
    with pytest.raises(InterruptedRunError, match="stopped after step 6 of 30") as caught:
        train(request(verses, tmp_path / "run"), [Cut(6, number=number)])
    assert caught.value.exit_code == code
    assert "minitx resume" in caught.value.fix
    assert RunDirectory(tmp_path / "run").steps() == [6]
    assert numbers(tmp_path / "run")[-1]["reason"] == "interrupted"


def test_config_of_a_run_repeats_it(tmp_path, verses):
    from minitx.config.overrides import merged

    one = train(request(verses, tmp_path / "one"), []).run
    tables = merged(one / "run.toml", {})
    again = TrainRequest(**tables, out=tmp_path / "again")
    assert_equal_runs(one, train(again, []).run)


def test_settled_budget_is_repeated_by_its_config(tmp_path, verses):
    from minitx.config.overrides import merged

    keys = {key: value for key, value in TINY_TRAIN.items() if key != "steps"}
    timed = TrainRequest(
        data={"corpus": (str(verses),)},
        model=TINY_MODEL,
        train={**keys, "budget_seconds": 3.0},
        out=tmp_path / "timed",
    )
    run = train(timed, []).run
    again = TrainRequest(**merged(run / "run.toml", {}), out=tmp_path / "again")
    other = train(again, []).run
    one, two = numbers(run), numbers(other)
    settled = [line for line in one if line.get("name") == "steps-settled"]
    assert settled
    assert [line for line in one if line not in settled] == two


def test_changed_corpus_is_refused_unless_allowed(tmp_path, verses):
    text = tmp_path / "text.txt"
    text.write_text(verses.read_text())
    with pytest.raises(InterruptedRunError):
        train(request(text, tmp_path / "run"), [Cut(5)])
    text.write_text(verses.read_text() + "And no more green bottles.\n")
    with pytest.raises(BadInputError, match="changed since training began") as caught:
        resume(ResumeRequest(tmp_path / "run"), [])
    assert re.search(
        r"train part has [\d,]+ bytes instead of .* from line \d+ on", str(caught.value)
    )
    assert "--allow-changed-corpus" in caught.value.fix
    end = resume(ResumeRequest(tmp_path / "run", allow_changed_corpus=True), []).end
    assert end.step == 30


def test_names_are_those_of_where_training_began(tmp_path, verses, monkeypatch):
    """Also from a directory with a stranger's file of the same name."""
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    (tmp_path / "here/text.txt").write_text(verses.read_text())
    (tmp_path / "here/held.txt").write_text("2 green bottles\n" * 9)
    (tmp_path / "there/text.txt").write_text("a stranger's\n")
    monkeypatch.chdir(tmp_path / "here")
    names = {"corpus": ("text.txt",), "holdout": "held.txt"}
    train(replace(request("", tmp_path / "run", steps=4), data=names), [])
    data = RunDirectory(tmp_path / "run").read_config().data
    assert (data.corpus, data.holdout) == (("text.txt",), "held.txt")
    assert data.working_directory == str(tmp_path / "here")
    monkeypatch.chdir(tmp_path / "there")
    assert resume(ResumeRequest(tmp_path / "run", {"steps": 6}), []).end.step == 6
    # Its config is that of the same files, too; names of the command line are of here.
    tables = merged(tmp_path / "run/run.toml", {"data": {"corpus": ("text.txt",)}})
    assert tables["data"]["corpus"] == ("text.txt",)
    assert tables["data"]["holdout"] == str(tmp_path / "here/held.txt")
    again = merged(tmp_path / "run/run.toml", {})["data"]
    assert again["corpus"] == (str(tmp_path / "here/text.txt"),)
    (tmp_path / "here/text.txt").write_text(verses.read_text() + "more")
    with pytest.raises(BadInputError, match="changed since training began") as caught:
        resume(ResumeRequest(tmp_path / "run", {"steps": 8}), [])
    assert f"compared with {tmp_path / 'here/text.txt'}" in str(caught.value)


def forget(run, *keys):
    """Make `run.toml` that of a version without some keys."""
    *lines, _ = (run / "run.toml").read_text().splitlines(keepends=True)
    kept = [line for line in lines if not line.startswith(tuple(f"{key} = " for key in keys))]
    assert len(kept) == len(lines) - len(keys)
    digest = hashlib.sha256("".join(kept).encode()).hexdigest()
    (run / "run.toml").write_text("".join([*kept, f"# sha256 of the lines above: {digest}\n"]))


def test_a_run_of_an_earlier_version_keeps_its_names_and_its_order(tmp_path, verses, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text(verses.read_text()[:800])
    # The order that such a run has throughout is that of version 1.
    train(request("text.txt", tmp_path / "uncut", data_order=1), [])
    with pytest.raises(InterruptedRunError):
        train(request("text.txt", tmp_path / "run", data_order=1), [Cut(11)])
    forget(tmp_path / "run", "data_order", "working_directory")
    resume(ResumeRequest(tmp_path / "run"), [])
    assert numbers(tmp_path / "run") == numbers(tmp_path / "uncut")
    assert RunDirectory(tmp_path / "run").read_config().train.data_order == 1
    train(request("text.txt", tmp_path / "new"), [])
    assert RunDirectory(tmp_path / "new").read_config().train.data_order == 3
    assert numbers(tmp_path / "new") != numbers(tmp_path / "uncut")


def test_a_run_that_was_trained_on_its_holdout_goes_on_with_it(tmp_path, verses, monkeypatch):
    """As earlier versions did; a new run leaves it out, and says so."""
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts/a.txt").write_text(verses.read_text())
    (tmp_path / "texts/b.txt").write_text("2 green bottles\n" * 9)
    data = {"corpus": (str(tmp_path / "texts"),), "holdout": str(tmp_path / "texts/b.txt")}
    asked = replace(request("", tmp_path / "run", steps=4), data=data)

    def split_as_before(corpus, data, directory, progress):
        return split_corpus(corpus, replace(data, split="characters"), directory, leave_out=False)

    with monkeypatch.context() as patch:
        patch.setattr("minitx.workflows.prepare.split_corpus", split_as_before)
        train(asked, [])
    forget(tmp_path / "run", "split", "split_seed")
    assert "2 green bottles\n2" in (tmp_path / "run/data/train.txt").read_text()
    digest = (tmp_path / "run/data/train.txt").read_bytes()
    assert resume(ResumeRequest(tmp_path / "run", {"steps": 6}), []).end.step == 6
    assert (tmp_path / "run/data/train.txt").read_bytes() == digest
    told = []

    class Plan(TrainingObserver):
        def on_start(self, start):
            told.append(start.reasons["corpus"])

    train(replace(asked, out=tmp_path / "new"), [Plan()])
    assert told == ["left out 1 also in the holdout"]
    assert (tmp_path / "new/data/train.txt").read_text() == verses.read_text()
    assert resume(ResumeRequest(tmp_path / "new", {"steps": 6}), []).end.step == 6


@pytest.mark.parametrize("what", ["corpus", "holdout"])
def test_a_pipe_that_a_run_was_trained_on_is_not_waited_for(tmp_path, verses, what):
    """Of a named pipe, nobody writes to it any more; the copy in the run serves."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=(verses.read_text(),))
    writer.start()
    data = {"corpus": (str(verses),), what: (str(pipe),) if what == "corpus" else str(pipe)}
    if what == "holdout":
        (tmp_path / "other.txt").write_text("2 green bottles of naïve foxes on the wall\n" * 30)
        data["corpus"] = (str(tmp_path / "other.txt"),)
    train(replace(request("", tmp_path / "run", steps=4), data=data), [])
    writer.join()
    assert resume(ResumeRequest(tmp_path / "run", {"steps": 6}), []).end.step == 6


def test_corpus_that_is_gone_is_not_needed(tmp_path, verses):
    text = tmp_path / "text.txt"
    text.write_text(verses.read_text())
    with pytest.raises(InterruptedRunError):
        train(request(text, tmp_path / "run"), [Cut(5)])
    text.unlink()
    assert resume(ResumeRequest(tmp_path / "run"), []).end.step == 30


@pytest.mark.parametrize("source_is_there", [True, False])
def test_data_of_another_tokenizer_is_encoded_again(tmp_path, verses, caplog, source_is_there):
    uncut = train(request(verses, tmp_path / "uncut"), []).run
    text = tmp_path / "verses.txt"
    text.write_text(verses.read_text())
    with pytest.raises(InterruptedRunError):
        train(request(text, tmp_path / "run"), [Cut(5)])
    path = tmp_path / "run/data/corpus.json"
    description = json.loads(path.read_text())
    description["tokenizer_digest"] = "0" * 64
    path.write_text(json.dumps(description))
    if not source_is_there:
        text.unlink()
    resume(ResumeRequest(tmp_path / "run"), [])
    assert "encoded with another tokenizer" in caplog.text
    assert "encoding the corpus again" in caplog.text
    assert_equal_runs(uncut, tmp_path / "run")


def test_damaged_data_whose_text_is_gone_is_refused(tmp_path, verses):
    text = tmp_path / "verses.txt"
    text.write_text(verses.read_text())
    with pytest.raises(InterruptedRunError):
        train(request(text, tmp_path / "run"), [Cut(5)])
    text.unlink()
    (tmp_path / "run/data/train.txt").write_text("another")
    with pytest.raises(DamagedFileError, match="train.txt has 7 bytes"):
        resume(ResumeRequest(tmp_path / "run"), [])


def test_damaged_run_toml_is_told_and_its_copy_used(tmp_path, verses, caplog):
    uncut = train(request(verses, tmp_path / "uncut"), []).run
    for name, damage in (
        ("flipped", lambda text: text.replace("learning_rate = 0.0", "learning_rate = 0.1", 1)),
        ("cut", lambda text: text[: text.index("learning_rate")]),
        ("gone", None),
    ):
        with pytest.raises(InterruptedRunError):
            train(request(verses, tmp_path / name), [Cut(5)])
        file = tmp_path / name / "run.toml"
        if damage is None:
            file.unlink()
        else:
            file.write_text(damage(file.read_text()))
        caplog.clear()
        resume(ResumeRequest(tmp_path / name), [])
        assert "using" in caplog.text
        assert "run_copy.toml" in caplog.text
        assert file.read_bytes() == (uncut / "run.toml").read_bytes()
        assert_equal_runs(uncut, tmp_path / name)


def test_killed_in_the_closing_evaluation(tmp_path, verses):
    """The steps are done and saved, but nothing says how it ended: resume does the rest."""
    for keys in ({}, {"early_stopping": 1, "learning_rate": 0.0, "muon_learning_rate": 0.0}):
        uncut = train(request(verses, tmp_path / f"uncut-{len(keys)}", **keys), []).run
        metrics = uncut / "metrics.jsonl"
        before = metrics.read_bytes()
        reason = json.loads(before.splitlines()[-1])["reason"]
        assert reason == ("early-stopping" if keys else "finished")
        with pytest.raises(BadInputError, match="has done"):
            resume(ResumeRequest(uncut), [])
        metrics.write_bytes(b"".join(before.splitlines(keepends=True)[:-1]))
        assert resume(ResumeRequest(uncut), []).end.reason == reason
        assert strip_timing(metrics.read_bytes()) == strip_timing(before)


def test_interrupted_in_the_closing_evaluation(tmp_path, verses):
    uncut = train(request(verses, tmp_path / "uncut", evaluation_tokens=64), []).run
    with pytest.raises(InterruptedRunError, match="after step 30 of 30"):
        train(
            request(verses, tmp_path / "cut", evaluation_tokens=64),
            [Cut(phase="scoring the whole holdout")],
        )
    assert resume(ResumeRequest(tmp_path / "cut"), []).end.reason == "finished"
    assert_equal_runs(uncut, tmp_path / "cut")


def test_what_the_last_evaluation_scored_is_not_scored_again(tmp_path, verses):
    class Phases(TrainingObserver):
        def __init__(self):
            self.seen = []

        def on_phase(self, phase):
            self.seen.append(phase.name)

    phases = Phases()
    whole = train(request(verses, tmp_path / "whole"), [phases])
    assert "scoring the holdout" in phases.seen
    assert "scoring the whole holdout" not in phases.seen
    part = train(request(verses, tmp_path / "part", evaluation_tokens=64), [phases])
    assert "scoring the whole holdout" in phases.seen
    # To the bit: how much is scored on the way changes nothing.
    assert part.end.final_holdout_loss == whole.end.final_holdout_loss


def test_a_part_of_the_holdout_is_scored_at_the_end_also_when_resumed(tmp_path, verses):
    uncut = train(request(verses, tmp_path / "uncut", closing_tokens=64), [])
    assert uncut.end.final_holdout_tokens == 64
    whole = train(request(verses, tmp_path / "whole"), []).end
    assert whole.final_holdout_tokens > 64
    assert whole.final_holdout_loss != uncut.end.final_holdout_loss
    phase = "scoring 64 tokens of the holdout"
    with pytest.raises(InterruptedRunError, match="after step 30 of 30"):
        train(request(verses, tmp_path / "cut", closing_tokens=64), [Cut(phase=phase)])
    assert resume(ResumeRequest(tmp_path / "cut"), []).end.final_holdout_tokens == 64
    assert_equal_runs(uncut.run, tmp_path / "cut")


def test_a_run_of_an_older_version_is_resumed_to_the_loss_of_its_whole_holdout(tmp_path, verses):
    whole = train(request(verses, tmp_path / "whole"), [])
    with pytest.raises(InterruptedRunError):
        train(request(verses, tmp_path / "old"), [Cut(20)])
    config = tmp_path / "old" / "run.toml"
    text = config.read_text()
    assert "closing_tokens = 0\n" in text
    config.write_text(text.replace("closing_tokens = 0\n", ""))
    assert resume(ResumeRequest(tmp_path / "old"), []).end.final_holdout_tokens == (
        whole.end.final_holdout_tokens
    )
    assert_equal_runs(whole.run, tmp_path / "old")


def test_run_is_resumable_from_its_first_step(tmp_path, verses):
    """Killed in step 1: what is saved before it makes the same run."""
    uncut = train(request(verses, tmp_path / "uncut"), []).run

    class Killed(TrainingObserver):
        def on_step(self, report):
            raise MemoryError

    with pytest.raises(MemoryError):
        train(request(verses, tmp_path / "killed"), [Killed()])
    assert RunDirectory(tmp_path / "killed").steps() == [0]
    resume(ResumeRequest(tmp_path / "killed"), [])
    assert_equal_runs(uncut, tmp_path / "killed")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_during_set_up_stops_at_once(tmp_path, verses, number):
    for phase in ("reading the corpus", "training the tokenizer", "encoding the corpus"):
        with pytest.raises(InterruptedRunError, match="before the first step") as caught:
            train(request(verses, tmp_path / "run"), [Cut(phase=phase, number=number)])
        assert caught.value.exit_code == 128 + number
        assert not (tmp_path / "run").exists()


def test_signal_while_resume_sets_up_changes_nothing(tmp_path, verses):
    with pytest.raises(InterruptedRunError):
        train(request(verses, tmp_path / "run"), [Cut(5)])
    before = (tmp_path / "run/metrics.jsonl").read_bytes()
    with pytest.raises(InterruptedRunError, match="before the first step") as caught:
        resume(ResumeRequest(tmp_path / "run"), [Cut(phase="reading the checkpoint")])
    assert "minitx resume" in caught.value.fix
    assert (tmp_path / "run/metrics.jsonl").read_bytes() == before
    assert resume(ResumeRequest(tmp_path / "run"), []).end.step == 30


def test_second_interrupt_stops_at_once(tmp_path, verses):
    uncut = train(request(verses, tmp_path / "uncut"), []).run

    class Twice(TrainingObserver):
        def on_step(self, report):
            if report.step == 12:
                os.kill(os.getpid(), signal.SIGINT)
                os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(request(verses, tmp_path / "cut"), [Twice()])
    # Step 10 is written beside the steps after it, and a slow disk may not have ended that.
    assert RunDirectory(tmp_path / "cut").steps()[-1] in (0, 10)
    resume(ResumeRequest(tmp_path / "cut"), [])
    assert_equal_runs(uncut, tmp_path / "cut")


def test_what_the_clock_decided_survives_a_kill(tmp_path, verses):
    """The checkpoint to go on from is from before the decision; run.toml has it."""

    class Killed(TrainingObserver):
        def on_event(self, event):
            raise KeyboardInterrupt

    keys = {key: value for key, value in TINY_TRAIN.items() if key != "steps"}
    # No checkpoint but the first, so that all is done again.
    keys |= {"budget_seconds": 2.0, "checkpoint_every": 10**6, "evaluate_every": 10**6}
    timed = TrainRequest(
        data={"corpus": (str(verses),)}, model=TINY_MODEL, train=keys, out=tmp_path / "run"
    )
    with pytest.raises(KeyboardInterrupt):
        train(timed, [Killed()])
    run = RunDirectory(tmp_path / "run")
    decided = run.read_config().train.step_decisions
    assert run.steps() == [0]
    assert len(decided) == 1
    resume(ResumeRequest(tmp_path / "run"), [])
    config = run.read_config().train
    assert config.step_decisions[:1] == decided
    assert config.step_decisions[-1][1] == config.steps == run.steps()[-1]
    longer = resume(ResumeRequest(tmp_path / "run", train={"steps": config.steps + 2}), [])
    config = run.read_config().train
    assert longer.end.step == config.steps
    assert (config.budget_seconds, config.step_decisions) == (None, ())


@pytest.mark.parametrize("cut_before_settling", [True, False])
def test_budgeted_run_is_cut_and_resumed(tmp_path, verses, cut_before_settling):
    """Whatever number of steps the clocks of both sessions settle, it is the run of that number."""
    from minitx.config.overrides import merged

    class WhenSettled(TrainingObserver):
        def on_event(self, event):
            os.kill(os.getpid(), signal.SIGTERM)

    keys = {key: value for key, value in TINY_TRAIN.items() if key != "steps"}
    timed = TrainRequest(
        data={"corpus": (str(verses),)},
        model=TINY_MODEL,
        train={**keys, "budget_seconds": 3.0, "log_every": 1},
        out=tmp_path / "timed",
    )
    with pytest.raises(InterruptedRunError):
        train(timed, [Cut(3) if cut_before_settling else WhenSettled()])
    run = resume(ResumeRequest(tmp_path / "timed"), []).run
    again = TrainRequest(**merged(run / "run.toml", {}), out=tmp_path / "again")
    lines = [line for line in numbers(run) if line.get("name") != "steps-settled"]
    assert lines == numbers(train(again, []).run)


def test_run_that_is_being_trained_is_refused(tmp_path, verses):
    with pytest.raises(InterruptedRunError):
        train(request(verses, tmp_path / "run"), [Cut(5)])
    with RunDirectory(tmp_path / "run").lock(), pytest.raises(RunLockedError):
        resume(ResumeRequest(tmp_path / "run"), [])


def test_older_checkpoint_cannot_be_named(tmp_path, verses):
    run = RunDirectory(train(request(verses, tmp_path / "run"), []).run)
    with pytest.raises(BadInputError, match="is not the last checkpoint"):
        resume(ResumeRequest(run.checkpoint(run.steps()[0])), [])


def test_what_was_learned_cannot_be_swapped(tmp_path, verses):
    with pytest.raises(InterruptedRunError):
        train(request(verses, tmp_path / "run"), [Cut(5)])
    with pytest.raises(BadInputError, match="batch_size can't be changed"):
        resume(ResumeRequest(tmp_path / "run", train={"batch_size": 8}), [])
    run = RunDirectory(tmp_path / "run")
    config = run.read_config()
    run.write_config(replace(config, model=replace(config.model, d_ff=64)))
    with pytest.raises(DamagedFileError, match="another model"):
        resume(ResumeRequest(tmp_path / "run"), [])


def test_rate_can_be_lowered(tmp_path, verses):
    with pytest.raises(InterruptedRunError):
        train(request(verses, tmp_path / "run"), [Cut(5)])
    resume(ResumeRequest(tmp_path / "run", train={"learning_rate": 1e-5}), [])
    last = [line for line in numbers(tmp_path / "run") if line["kind"] == "step"][6]
    assert last["learning_rate"] <= 1e-5


@pytest.fixture
def machine(monkeypatch):
    """Makes this one as fast, and its steps as long, as a test says."""

    def pretend(rate, seconds):
        ticks = itertools.count()
        speed = MachineSpeed(rate, 0.0)
        monkeypatch.setattr(prepare, "kept_speed", lambda *_: speed)
        monkeypatch.setattr(
            loop, "Clock", lambda earlier, _: Clock(earlier, lambda: seconds * next(ticks))
        )

    return pretend


@pytest.mark.parametrize(
    "model", [{}, {"n_layers": 1, "n_heads": 2, "d_model": 16, "context_length": 16}]
)
def test_a_busy_machine_trains_the_same_run(tmp_path, verses, machine, model):
    runs = []
    for name, rate, seconds in (("idle", 1e14, 1e-4), ("busy", 1e8, 30.0)):
        machine(rate, seconds)
        request = TrainRequest(
            data={"corpus": (str(verses),)}, model=model, train={"steps": 9, "threads": 1},
            out=tmp_path / name,
        )  # fmt: skip
        runs.append(train(request, []).run)
    idle, busy = runs
    assert (idle / "run.toml").read_bytes() == (busy / "run.toml").read_bytes()
    assert_equal_runs(idle, busy)


def made_with(run):
    directory = RunDirectory(run)
    path = directory.checkpoint(directory.steps()[-1]) / "made_with.json"
    return json.loads(path.read_text())


def test_other_kernels_are_noted_and_told_of(tmp_path, verses, monkeypatch, caplog):
    monkeypatch.setattr(session_module, "kernel_build", lambda: ("avx9", "1, build 0"))
    request = TrainRequest(
        data={"corpus": (str(verses),)},
        model={"n_layers": 1, "n_heads": 2, "d_model": 16, "context_length": 16},
        train={"steps": 4, "threads": 1}, out=tmp_path / "run",
    )  # fmt: skip
    run = train(request, []).run
    noted = made_with(run)
    assert (noted["kernel_family"], noted["kernel_version"]) == ("avx9", "1, build 0")
    assert noted["engine"]
    resume(ResumeRequest(run, train={"steps": 5}), [])
    assert "losses will differ" not in caplog.text
    monkeypatch.undo()
    resume(ResumeRequest(run, train={"steps": 6}), [])
    (line,) = [line for line in caplog.text.splitlines() if "losses will differ" in line]
    assert "avx9" in line
    assert made_with(run)["kernel_family"] != "avx9"
    caplog.clear()
    # One that did not note them is gone on with as it was.
    monkeypatch.setattr(session_module, "kernel_build", lambda: ("none", "none"))
    monkeypatch.setattr("minitx.workflows.session.MADE_WITH_FILE", "made_with_nothing.json")
    resume(ResumeRequest(run, train={"steps": 7}), [])
    assert "losses will differ" not in caplog.text


def test_another_engine_is_told_of_also_when_it_was_asked_for(tmp_path, verses, caplog):
    run = train(
        TrainRequest(
            data={"corpus": (str(verses),)},
            model={"n_layers": 1, "n_heads": 2, "d_model": 16, "context_length": 16},
            train={"steps": 2, "threads": 1, "engine": "plain"}, out=tmp_path / "run",
        ),
        [],
    ).run  # fmt: skip
    resume(ResumeRequest(run, train={"steps": 3, "engine": "plain"}), [])
    assert "losses will differ" not in caplog.text
    # As a checkpoint of another engine has it.
    path = run / "checkpoints/step-000003"
    noted = json.loads((path / "made_with.json").read_text())
    content = json.dumps({**noted, "engine": "native"}).encode()
    (path / "made_with.json").write_bytes(content)
    manifest = json.loads((path / MANIFEST).read_text())
    (path / MANIFEST).write_bytes(manifest_bytes(path, 3, manifest.get("best_step")))
    resume(ResumeRequest(run, train={"steps": 4, "engine": "plain"}), [])
    assert "losses will differ in their last digits from here on: engine plain, not native" in (
        caplog.text
    )
