"""What `minitx serve` prints: where it listens, each request, how it ended; and `explore`."""

from __future__ import annotations

import contextlib
import json
import shlex
import time
from typing import TextIO

from rich.console import Console
from rich.text import Text

from minitx.report.terminal.printable import cut_label, printed_name, visible
from minitx.report.terminal.units import count, duration
from minitx.serving.http_app import Listening
from minitx.serving.metrics import CLIENT_LEFT, RequestRecord
from minitx.serving.server import ExitReport
from minitx.workflows.explore import Explorer
from minitx.workflows.load import used_checkpoint

_LONGEST_PATH = 40
_PROMPTS = ("The", "the", "a", "1")


class ServingScreen:
    """Prints lines, if wanted one for each request.

    Nothing that a client sent reaches the terminal as a control sequence.
    """

    def __init__(self, out: TextIO, requests: bool = True) -> None:
        self._out, self._requests = out, requests
        self._console = Console(file=out, highlight=False, soft_wrap=True)
        self._n_requests, self._n_tokens = 0, 0

    def ready(self, listening: Listening) -> None:
        """Say what is served, where, and how to try it."""
        served, limits = listening.served, listening.limits
        config = served.model.config
        size = sum(weight.numel() for weight in served.model.parameters())
        who = "this machine only" if listening.local_name else "any machine that reaches it"
        key = "with the token" if listening.token else "no token"
        command = f"curl {listening.url}/v1/completions -H 'Content-Type: application/json'"
        if listening.token:
            command += ' -H "Authorization: Bearer $MINITX_SERVE_TOKEN"'
        # A prompt that the vocabulary has.
        known = (prompt for prompt in _PROMPTS if not served.tokenizer.unknown_characters(prompt))
        body = json.dumps({"prompt": next(known, "\n"), "max_tokens": 60})
        facts = {
            "serving": f"{printed_name(served.name)}, {printed_name(served.directory.name)}: "
            f"{count(size)} parameters, context {config.context_length:,}",
            "listening": f"{listening.url}  ({who}, {key})",
            "checkpoint": printed_name(used_checkpoint(served.directory)),
            "limits": f"{limits.max_concurrent:,} at once, {limits.max_queue:,} waiting, "
            f"{limits.max_tokens:,} tokens each",
            "try": f"{command} -d {shlex.quote(body)}",
            "stop": "Ctrl-C",
        }
        for name, fact in facts.items():
            self._line((f"{name:<11}", "bold"), fact)

    def request(self, record: RequestRecord) -> None:
        """Say how one ended."""
        self._n_requests += 1
        self._n_tokens += record.n_new
        if not self._requests:
            return
        style = "green" if record.status < 400 else "yellow" if record.status < 500 else "red"
        status = "left" if record.status == CLIENT_LEFT else f"{record.status:<4}"
        text = Text.assemble((time.strftime("%H:%M:%S"), "dim"), "  ", (status, style), "  ")
        if record.n_choices:
            n = f" in {record.n_choices:,} texts" if record.n_choices > 1 else ""
            text.append(f"{record.n_prompt_tokens:,} → {record.n_new:,} tokens{n}")
        else:
            path = visible(record.path).replace("\n", " ").replace("\t", " ")
            text.append(f"{record.method} {cut_label(path, _LONGEST_PATH)}")
        text.append(f"  {_span(record.seconds)}")
        if record.seconds_to_first_token is not None:
            rate = record.n_new / max(record.seconds, 1e-9)
            text.append(f", first {_span(record.seconds_to_first_token)}, {rate:,.0f} tokens/s")
        if record.reason is not None and record.status != CLIENT_LEFT:
            text.append(f"  {visible(record.reason)}", "dim")
        self._line(text)

    def stopping(self, n_running: int) -> None:
        """Say what is waited for."""
        if n_running:
            what = "completion" if n_running == 1 else "completions"
            self._line(f"stopping: {n_running:,} {what} to end; Ctrl-C again to stop at once")

    def ended(self, ending: ExitReport) -> None:
        """Say what was done in all."""
        cut = f", {ending.n_cut:,} of them cut off" if ending.n_cut else ""
        how = "stopped" if ending.signal_number is not None else "stopped: the model failed"
        self._line(f"{how} after {self._n_requests:,} requests{cut}, {self._n_tokens:,} tokens")

    def _line(self, *parts: str | tuple[str, str] | Text) -> None:
        # A terminal that is gone is no reason to stop serving.
        with contextlib.suppress(OSError, ValueError):
            self._console.print(Text.assemble(*parts))
            self._out.flush()


def exploring(explorer: Explorer, url: str) -> None:
    """Say where the page of `minitx explore` is."""
    console = Console(highlight=False, soft_wrap=True)
    checkpoint = printed_name(used_checkpoint(explorer.study.checkpoint))
    for name, fact in {"page": url, "checkpoint": checkpoint, "stop": "Ctrl-C"}.items():
        console.print(Text.assemble((f"{name:<11}", "bold"), fact))
    console.file.flush()


def _span(seconds: float) -> str:
    return f"{1000 * seconds:,.0f} ms" if seconds < 1 else duration(seconds)
