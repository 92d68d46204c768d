import io

import pytest

from minitx.report.evaluation.evaluation_progress import EvaluationProgress


class InterruptedTerminal(io.StringIO):
    """Ctrl-C is pressed when the cursor has just been hidden."""

    interrupted = False

    def isatty(self):
        return True

    def write(self, text):
        written = super().write(text)
        if not self.interrupted and "\x1b[?25l" in text:
            self.interrupted = True
            raise KeyboardInterrupt
        return written


def test_ctrl_c_while_the_bar_appears_leaves_a_cursor(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    terminal = InterruptedTerminal()
    with pytest.raises(KeyboardInterrupt), EvaluationProgress(terminal):
        pass
    shown = terminal.getvalue()
    assert terminal.interrupted
    assert shown.rfind("\x1b[?25h") > shown.rfind("\x1b[?25l")


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_file_name_that_looks_like_markup_is_shown_as_it_is(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    terminal = Terminal()
    with EvaluationProgress(terminal) as progress:
        progress.update("encoding [/b].txt", 1, 2)
    assert "encoding [/b].txt" in terminal.getvalue()


def test_rate_and_time_left_are_shown_from_the_first_count_on(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "80")
    terminal = Terminal()
    with EvaluationProgress(terminal) as progress:
        progress.update("scoring holdout", 0, 111_539)
        assert "left" not in terminal.getvalue()
        task = progress._progress.tasks[0]
        monkeypatch.setattr(task, "_get_time", lambda: task.start_time + 2.0)
        progress.update("scoring holdout", 8_192, 111_539)
        progress._progress.refresh()
    assert "8.19 k of 112 k tokens, 4.10 k/s, 25s left" in terminal.getvalue()
