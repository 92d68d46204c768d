"""`minitx learn` as a person uses it."""

import json
import re
import subprocess
import sys

import pytest
from documented import ROOT

from minitx.learn import checking
from minitx.learn.course import CHAPTERS, EXERCISES
from minitx.learn.exercise import read_exercise
from minitx.learn.progress import open_course


@pytest.fixture
def course(inside, minitx):
    """Laid out in the working directory."""
    assert minitx("learn", "start", "course").code == 0
    return inside / "course"


def solve(course, *names):
    for name in names:
        (course / f"{name}.py").write_text(read_exercise(name).answer)


def pass_all(course, *names):
    """As if they had been judged."""
    solve(course, *names)
    opened = open_course(course)
    for name in names:
        opened.note_passed(read_exercise(name), opened.digest(read_exercise(name)))


def test_a_course_is_laid_out_whole(course):
    assert {path.stem for path in course.glob("*.py")} == {*EXERCISES, "my_transformer"}
    text = (course / "README.md").read_text()
    assert [text.index(f"`{name}.py`") for name in EXERCISES] == sorted(
        text.index(f"`{name}.py`") for name in EXERCISES
    )


def test_laying_out_again_restores_what_is_missing_and_nothing_else(course, minitx):
    solve(course, "count_pairs")
    (course / "one_head.py").unlink()
    (course / "notes.txt").write_text("mine")
    done = minitx("learn", "start", "course")
    assert done.out.startswith("Wrote 1 file to course.")
    assert (course / "one_head.py").read_text() == read_exercise("one_head").gaps
    assert (course / "count_pairs.py").read_text() == read_exercise("count_pairs").answer


def test_an_empty_directory_is_filled_and_stays_the_same(inside, minitx):
    before = inside.stat().st_ino
    assert minitx("learn", "start", ".").code == 0
    assert inside.stat().st_ino == before
    assert minitx("learn", "status").code == 0


@pytest.mark.parametrize("kind", ["full", "file"])
def test_something_else_is_left_alone(kind, inside, minitx):
    place = inside / "mine"
    if kind == "full":
        place.mkdir()
        (place / "README.md").write_text("mine")
    else:
        place.write_text("mine")
    done = minitx("learn", "start", "mine")
    assert done.code == 2
    assert done.err.startswith("error: mine is ")
    assert done.err.count("\n") == 1
    assert [path.name for path in inside.iterdir()] == ["mine"]


def test_an_empty_file_is_told_kindly(course, minitx):
    done = minitx("learn", "--dir", "course")
    assert done.code == 0
    assert "→ count_pairs.py  1 of 23" in done.out
    assert "`count_pairs` and `merge`: not yet filled in." in done.out


def test_right_answers_pass_until_one_is_empty(course, minitx):
    solve(course, "count_pairs", "learn_merges")
    done = minitx("learn", "--dir", "course")
    assert done.code == 0
    assert [line[0] for line in done.out.splitlines() if line[:1] in ("✓", "→")] == ["✓", "✓", "→"]
    # What has passed is not judged again, until it changes.
    assert "✓" not in minitx("learn", "--dir", "course").out
    with (course / "count_pairs.py").open("a") as file:
        file.write("# changed\n")
    assert open_course(course).next().name == "count_pairs"


def test_a_wrong_answer_is_named_with_exit_code_1(course, minitx):
    code = read_exercise("count_pairs").answer
    (course / "count_pairs.py").write_text(code.replace("i += 2", "i += 1"))
    done = minitx("learn", "--dir", "course")
    assert done.code == 1
    assert "✗ count_pairs.py" in done.out
    assert "the second half of the pair is read again" in " ".join(done.out.split())
    assert open_course(course).passed == {}


def test_a_milestone_is_told_with_its_questions(course, minitx):
    pass_all(course, "count_pairs", "learn_merges")
    solve(course, "encode_text")
    out = minitx("learn", "--dir", "course").out
    assert "Milestone: tokenizer works." in out
    for question, command in CHAPTERS[0].questions.items():
        assert question in out
        assert command in out
    status = minitx("learn", "status", "--dir", "course").out
    assert "3 of 23 exercises have passed." in status
    assert "✓ tokenizer works" in status
    assert "· model runs" in status
    assert "→ embed_tokens.py" in status


def test_an_earlier_file_that_changed_is_named_beside_a_wrong_answer(course, minitx):
    pass_all(course, *EXERCISES[:6])
    solve(course, "one_head")
    done = minitx("learn", "--dir", "course", "--exercise", "one_head")
    assert "not passed yet" not in done.out
    file = course / "scaled_scores.py"
    file.write_text(file.read_text().replace("/ math.sqrt", "* math.sqrt"))
    done = minitx("learn", "--dir", "course", "--exercise", "one_head")
    assert "It uses scaled_scores.py, not passed yet or changed since" in " ".join(done.out.split())


def test_status_fits_80_columns_and_takes_the_directory_on_either_side(course, minitx):
    for name in EXERCISES:
        for _ in range(3):
            open_course(course).next_hint(read_exercise(name))
    shown = minitx("learn", "status", "--dir", "course").out
    assert max(map(len, shown.splitlines())) <= 80
    assert shown.count("  3 hints\n") == len(EXERCISES)
    assert minitx("learn", "--dir", "course", "status").out == shown


def test_the_commands_of_all_questions_are_run_by_the_page():
    page = (ROOT / "docs/learn/course.md").read_text()
    for chapter in CHAPTERS:
        assert len(chapter.questions) >= 2
        for question, command in chapter.questions.items():
            assert question in page
            assert f"\n{command}\n" in page


def test_the_last_exercise_ends_the_course(course, minitx):
    pass_all(course, *EXERCISES)
    assert minitx("learn", "--dir", "course").out == "All exercises have passed.\n"
    assert minitx("learn", "--dir", "course", "--hint").out == "All exercises have passed.\n"
    assert "·" not in minitx("learn", "status", "--dir", "course").out


def test_hints_come_in_order_and_the_solution_last(course, minitx):
    exercise = read_exercise("count_pairs")
    shown = [minitx("learn", "--dir", "course", "--hint").out for _ in range(4)]
    for i, hint in enumerate(exercise.hints):
        assert f"hint ({i + 1} of 3)" in shown[i]
        assert hint.split()[-1] in shown[i]
        assert "def merge" not in shown[i]
    assert exercise.code in shown[2]
    assert shown[3] == shown[2]
    other = minitx("learn", "--dir", "course", "--hint", "--exercise", "one_head.py").out
    assert "one_head.py, hint (1 of 3)" in other
    assert json.loads((course / "progress.json").read_text())["hints"] == {
        "count_pairs": 3,
        "one_head": 1,
    }


def test_one_exercise_can_be_asked_for(course, minitx):
    out = minitx("learn", "--dir", "course", "--exercise", "top_p").out
    assert "→ top_p.py" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--dir", "elsewhere"], "holds no course. Begin one with: minitx learn start course"),
        (
            ["--dir", "course", "--exercise", "none"],
            "there is no exercise none. Choose one of count_p",
        ),
        (["status", "--dir", "elsewhere"], "holds no course"),
        (["--watch", "--exercise", "one_head"], "--exercise leaves it. Give one of them"),
    ],
)
def test_bad_input_is_one_line(arguments, words, course, minitx):
    done = minitx("learn", *arguments)
    assert done.code == 2
    assert done.err.startswith("error: ")
    assert words in done.err
    assert done.err.count("\n") == 1


@pytest.mark.parametrize(
    "content",
    ["{", "[]", "{}", '{"passed": 1, "hints": {}}', '{"passed": {}, "hints": {"a": "b"}}'],
)
def test_damaged_progress_is_one_line_and_the_advice_works(content, course, minitx):
    solve(course, "count_pairs")
    (course / "progress.json").write_text(content)
    done = minitx("learn", "status", "--dir", "course")
    assert done.code == 2
    assert "progress.json can't be read" in done.err
    (course / "progress.json").unlink()
    assert minitx("learn", "start", "course").code == 0
    assert (course / "count_pairs.py").read_text() == read_exercise("count_pairs").answer
    assert minitx("learn", "status", "--dir", "course").code == 0


def test_a_missing_file_is_one_line_and_the_advice_works(course, minitx):
    (course / "count_pairs.py").unlink()
    done = minitx("learn", "--dir", "course")
    assert done.code == 2
    assert "count_pairs.py can't be read" in done.err
    assert done.err.rstrip().endswith("minitx learn start course")
    assert minitx("learn", "start", "course").code == 0
    assert minitx("learn", "--dir", "course").code == 0


def test_all_of_it_works_together(course):
    solve(course, *EXERCISES)
    done = subprocess.run(
        [sys.executable, "my_transformer.py", "9"], cwd=course, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "bytes are" in done.stdout
    losses = re.search(r"the loss went (.*)", done.stdout)[1].split(", ")
    assert float(losses[-1]) < float(losses[0]) < 6.5
    assert "The " in done.stdout
    assert done.stdout.count("on the token before") == 4


def test_watching_judges_at_every_save_and_goes_on(course):
    right = read_exercise("count_pairs").answer
    saves = [right.replace("i += 2", "i += 1"), right]
    opened = open_course(course)

    def save_next(seconds):
        if not saves:
            raise KeyboardInterrupt
        (course / "count_pairs.py").write_text(saves.pop(0))

    seen = []
    with pytest.raises(KeyboardInterrupt):
        for checked in checking.watch(opened, wait=save_next):
            seen.append((checked.exercise.name, checked.verdict.passed, checked.verdict.empty))
    assert seen == [
        ("count_pairs", False, True),
        ("count_pairs", False, False),
        ("count_pairs", True, False),
        ("learn_merges", False, True),
    ]


def test_watching_outlives_an_editor_that_puts_a_new_file_in_place(course):
    file = course / "count_pairs.py"
    opened = open_course(course)
    waits = []

    def replace_it(seconds):
        waits.append(seconds)
        if file.exists() and len(waits) > 1:
            raise KeyboardInterrupt
        if file.exists():
            file.unlink()
        else:
            file.write_text(read_exercise("count_pairs").answer)

    with pytest.raises(KeyboardInterrupt):
        seen = [checked.verdict.passed for checked in checking.watch(opened, wait=replace_it)]
        assert seen == []
    assert opened.has_passed("count_pairs")


def test_help_status_and_hints_need_no_torch(course, minitx_process):
    code = """
import sys
sys.modules["torch"] = None
from minitx.cli.app import main
main()
"""
    for arguments in (["--help"], ["status"], ["--hint"], [], ["start", "other"]):
        done = subprocess.run(
            [sys.executable, "-c", code, "learn", *arguments], cwd=course, capture_output=True
        )
        assert done.returncode == 0, done.stderr


def test_a_module_of_the_learners_in_the_way_of_torch_is_not_taken_for_it(course, minitx):
    solve(course, "count_pairs")
    (course / "torch.py").write_text("raise SystemExit('mine')")
    (course / "json.py").write_text("raise SystemExit('mine')")
    assert "✓ count_pairs.py" in minitx("learn", "--dir", "course").out


def test_a_course_that_cannot_be_written_is_not_begun(inside, minitx, monkeypatch):
    monkeypatch.setattr("pathlib.Path.write_text", _full)
    done = minitx("learn", "start", "course")
    assert done.code == 2
    assert list(inside.iterdir()) == []


def _full(self, *args, **kwargs):
    raise OSError(28, "No space left on device", str(self))
