"""An exercise, read from its file: the page, the gaps, the solution, the hints, the slips.

Nothing is imported for that, so that laying out a course, or a hint, takes no second for torch.
"""

from __future__ import annotations

import ast
import functools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MARK = "# ---- what the judge reads"
"""Above this line stands what a learner's file is made from."""

ROOM = Path(__file__).parent / "exercises"
SCRIPT = "my_transformer.py"
_PACKAGE = "minitx.learn.exercises."
_GAP = "...  # your code here"


@dataclass(frozen=True)
class Slip:
    """A wrong answer that people give.

    Attributes:
        edits: texts in the solution, each with what stands there instead.
        told: what is wrong, and why, in one or two sentences.
    """

    edits: tuple[tuple[str, str], ...]
    told: str

    def applied(self, solution: str) -> str | None:
        """The solution with this slip; None where a text to replace is not in it just once."""
        for old, new in self.edits:
            if solution.count(old) != 1:
                return None
            solution = solution.replace(old, new)
        return solution


@dataclass(frozen=True)
class Exercise:
    """What is written in one file of `exercises/`.

    Attributes:
        name: of the file, and of the module that a learner imports later.
        page: the idea, its formula, its place in the paper; the first line is the title.
        solution: the code above the mark, without the page.
        hints: in words; the solution is the last layer and not among them.
        slips: wrong answers that are known.
    """

    name: str
    page: str
    solution: str
    hints: tuple[str, ...]
    slips: tuple[Slip, ...]

    @property
    def title(self) -> str:
        """The page's first line."""
        return self.page.splitlines()[0].rstrip(".")

    @property
    def uses(self) -> list[str]:
        """Names of the earlier exercises whose code it imports."""
        return re.findall(rf"^from {re.escape(_PACKAGE)}(\w+) import", self.solution, re.M)

    @property
    def place(self) -> str:
        """`PATH: NAME` of what does the same in minitx, as the page says it."""
        found = re.search(r"In minitx: (\S+: [\w.]+)", self.page)
        assert found is not None, self.name
        return found[1]

    @property
    def line(self) -> int:
        """The line, from 1, at which that begins."""
        path, name = self.place.split(": ")
        found: Any = ast.parse((ROOM.parents[1] / path).read_text(encoding="utf-8"))
        for part in name.split("."):
            found = next(node for node in found.body if getattr(node, "name", None) == part)
        return int(found.lineno)

    @property
    def file_name(self) -> str:
        """Of the learner's file."""
        return f"{self.name}.py"

    @property
    def code(self) -> str:
        """The solution as a learner would have written it: earlier exercises are their own."""
        return self.solution.replace(_PACKAGE, "")

    @property
    def answer(self) -> str:
        """The learner's file when it is solved."""
        return f'"""{self.page}\n"""\n\n{self.code}'

    @property
    def gaps(self) -> str:
        """The learner's file: every function emptied but for its docstring, `__init__` as it is."""
        return f'"""{self.page}\n"""\n\n{self.gap_code}'

    @property
    def gap_code(self) -> str:
        """The same without the page."""
        lines = self.code.splitlines()
        for function in reversed(functions(ast.parse(self.code))):
            first, last = function.body[0], function.body[-1]
            start = first.end_lineno if ast.get_docstring(function) else first.lineno - 1
            lines[start : last.end_lineno] = [" " * first.col_offset + _GAP]
        return "\n".join(lines) + "\n"


def functions(tree: ast.Module) -> list[ast.FunctionDef]:
    """Functions of a module and methods of its classes that a learner fills in, in order."""
    return [
        part for node in tree.body
        for part in (node.body if isinstance(node, ast.ClassDef) else [node])
        if isinstance(part, ast.FunctionDef) and part.name != "__init__"
    ]  # fmt: skip


def unfilled(code: str, exercise: Exercise) -> list[str]:
    """Functions of the exercise that a learner's code leaves empty, in order.

    Raises:
        SyntaxError: the code can't be parsed.
    """
    wanted = {function.name for function in functions(ast.parse(exercise.solution))}
    return [
        function.name for function in functions(ast.parse(code))
        if function.name in wanted and all(map(_says_nothing, function.body))
    ]  # fmt: skip


def _says_nothing(statement: ast.stmt) -> bool:
    # A docstring, `...`, `pass`, or `raise NotImplementedError`.
    if isinstance(statement, ast.Expr):
        return isinstance(statement.value, ast.Constant)
    is_refusal = isinstance(statement, ast.Raise) and statement.exc is not None
    if is_refusal and "NotImplementedError" in ast.dump(statement):
        return True
    return isinstance(statement, ast.Pass)


def script_at_work() -> str:
    """A script in which all that a learner has written works together."""
    return (ROOM / SCRIPT).read_text(encoding="utf-8").replace(_PACKAGE, "")


@functools.cache
def read_exercise(name: str) -> Exercise:
    """Read the file of an exercise."""
    text = (ROOM / f"{name}.py").read_text(encoding="utf-8")
    solution, _, judge = text.partition(MARK)
    tree = ast.parse(text)
    page = ast.get_docstring(tree)
    assert page is not None
    assert judge
    constants: dict[str, Any] = {
        target.id: ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name) and target.id in ("HINTS", "SLIPS")
    }
    solution = "\n".join(solution.splitlines()[tree.body[0].end_lineno :]).strip() + "\n"
    return Exercise(name, page, solution, constants["HINTS"], _slips(constants["SLIPS"]))


def _slips(text: str) -> tuple[Slip, ...]:
    # What is told stands at the margin, and below it, indented, its edits: old -> new.
    slips: list[Slip] = []
    told: list[str] = []
    for line in text.strip().replace("\n    -> ", " -> ").splitlines():
        if not line.startswith("    "):
            told.append(line)
            continue
        old, _, new = line.strip().replace("\\n", "\n").partition(" ->")
        if told:
            slips.append(Slip((), " ".join(told)))
            told = []
        slips[-1] = Slip((*slips[-1].edits, (old, new[1:])), slips[-1].told)
    return tuple(slips)
