"""A learner's directory: the exercises laid out in it, and what is known of them."""

from __future__ import annotations

import hashlib
import json
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from minitx.errors import BadInputError
from minitx.files import (
    describe_damage,
    json_bytes,
    os_errors_as_bad_input,
    read_bounded,
    read_json,
    shell_word,
    write_atomically,
)
from minitx.learn.course import CHAPTERS, EXERCISES, Chapter
from minitx.learn.exercise import SCRIPT, Exercise, read_exercise, script_at_work
from minitx.learn.notebooks import notebook_files

_PROGRESS = "progress.json"


@dataclass
class Course:
    """The exercises of one learner.

    Attributes:
        directory: where their files are.
        passed: digest of each file that has passed, as it was then, by exercise.
        hints: layers of hints read, by exercise.
    """

    directory: Path
    passed: dict[str, str] = field(default_factory=dict)
    hints: dict[str, int] = field(default_factory=dict)

    def file(self, exercise: Exercise) -> Path:
        """The learner's file."""
        return self.directory / exercise.file_name

    def digest(self, exercise: Exercise) -> str:
        """Of the learner's file as it is now; empty if it can't be read."""
        try:
            return hashlib.sha256(read_bounded(self.file(exercise))).hexdigest()
        except (OSError, ValueError):
            return ""

    def has_passed(self, name: str) -> bool:
        """Whether the exercise's file has passed as it is now."""
        known = self.passed.get(name)
        return known is not None and known == self.digest(read_exercise(name))

    def next(self) -> Exercise | None:
        """The first exercise that has not passed; None at the end."""
        return next((read_exercise(n) for n in EXERCISES if not self.has_passed(n)), None)

    def has_reached(self, chapter: Chapter) -> bool:
        """Whether all exercises of a chapter have passed."""
        return all(map(self.has_passed, chapter.names))

    def note_passed(self, exercise: Exercise, digest: str) -> None:
        """Remember that the file with this digest has passed."""
        self.passed[exercise.name] = digest
        self._save()

    def next_hint(self, exercise: Exercise) -> tuple[int, str]:
        """The number of the next layer of hints, from 1, and its text; the last is the solution."""
        layers = (*exercise.hints, exercise.code)
        number = min(self.hints.get(exercise.name, 0) + 1, len(layers))
        self.hints[exercise.name] = number
        self._save()
        return number, layers[number - 1]

    def _save(self) -> None:
        path = self.directory / _PROGRESS
        with os_errors_as_bad_input(f"{path} can't be written", "Make the directory writable"):
            write_atomically(path, json_bytes({"passed": self.passed, "hints": self.hints}))


def open_course(directory: Path) -> Course:
    """The course in a directory.

    Raises:
        BadInputError: there is none, or its progress can't be read.
    """
    path = directory / _PROGRESS
    try:
        content = read_json(path)
        passed, hints = dict(content["passed"]), dict(content["hints"])
        if not all(isinstance(n, int) for n in hints.values()):
            raise ValueError("hints are not counted in it")
    except (FileNotFoundError, NotADirectoryError):
        raise BadInputError(
            f"{directory.resolve()} holds no course",
            "Begin one with: minitx learn start course, and call minitx learn in that directory",
        ) from None
    except (OSError, ValueError, TypeError, KeyError, json.JSONDecodeError) as error:
        word = shell_word(directory)
        raise BadInputError(
            f"{path} can't be read ({describe_damage(error)})",
            f"Delete it, and call minitx learn start {word}: your files stay as they are",
        ) from None
    return Course(directory, passed, hints)


def start_course(directory: Path, notebooks: bool = False) -> int:
    """Lay out the course; what is in a course already stays as it is. Returns how many files.

    With `notebooks`, also in a form for Jupyter.

    Raises:
        BadInputError: the directory holds something else, or can't be written.
    """
    if directory.exists() and not directory.is_dir():
        raise BadInputError(f"{directory} is a file", "Choose another name")
    files = {f"{name}.py": read_exercise(name).gaps for name in EXERCISES}
    exercises = set(files)
    files[SCRIPT] = script_at_work()
    files["README.md"] = _read_me()
    if notebooks:
        files |= notebook_files()
    files[_PROGRESS] = json_bytes({"passed": {}, "hints": {}}).decode()
    with os_errors_as_bad_input(f"{directory} can't be written", "Choose another place"):
        there = {path.name for path in directory.iterdir()} if directory.exists() else set()
        if there and not there & exercises:
            what = f"{directory} is not empty: {min(there)} is in it"
            raise BadInputError(what, "Choose a new directory")
        missing = {name: text for name, text in files.items() if name not in there}
        directory.parent.mkdir(parents=True, exist_ok=True)
        if directory.exists():  # a shell may stand in it, so it is not replaced
            for name, text in missing.items():
                write_atomically(directory / name, text.encode())
        else:
            # All or nothing: a directory that takes the name when it is whole.
            with tempfile.TemporaryDirectory(dir=directory.parent, prefix=".course-") as beside:
                made = Path(beside) / "course"
                made.mkdir()
                for name, text in missing.items():
                    (made / name).write_text(text, encoding="utf-8")
                made.rename(directory)
    return len(missing)


def _read_me() -> str:
    lines = ["# Build a transformer", "", "In this order; `minitx learn` says which one is next."]
    number = 0
    for chapter in CHAPTERS:
        lines += ["", f"## Until: {chapter.milestone}", ""]
        for exercise in chapter.exercises:
            number += 1
            lines.append(f"{number}. `{exercise.file_name}`: {exercise.title}")
    lines += ["", f"Then `python {SCRIPT}` puts all of it to work."]
    commands = {
        "minitx learn": "check the next file, and go on as long as they pass",
        "minitx learn --watch": "check it whenever it is saved",
        "minitx learn --hint": "a hint; the third one is a solution",
        "minitx learn status": "how far you are",
    }
    lines += ["", "## Commands", ""]
    return "\n".join([*lines, *(f"- `{c}`: {what}" for c, what in commands.items())]) + "\n"
