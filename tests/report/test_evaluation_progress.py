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
