"""`minitx serve` or `explore` as a process of its own."""

import re
import signal
import subprocess
import sys
import threading


class ServeProcess:
    """A server at a free port.

    Args:
        arguments: of the command, without a port.
        named: for `subprocess.Popen`.

    Attributes:
        url: where it listens.
        lines: what it has printed so far.
    """

    def __init__(self, *arguments, command="serve", **named):
        command = [sys.executable, "-m", "minitx", command, *map(str, arguments), "--port", "0"]
        self._process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **named
        )
        self.lines = []
        self._ready = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        assert self._ready.wait(120)
        match = re.search(r"(?:listening|page) +(http://\S+)", "\n".join(self.lines))
        assert match, (self.lines, self._process.stderr.read())
        self.url = match[1]

    def _read(self):
        for line in self._process.stdout:
            self.lines.append(line.rstrip("\n"))
            if line.startswith("stop"):
                self._ready.set()
        self._ready.set()

    def send(self, number):
        """Send it a signal."""
        self._process.send_signal(number)

    def stop(self, number=signal.SIGTERM):
        """Stop it; its exit code and what it wrote on stderr."""
        self.send(number)
        code = self._process.wait(60)
        self._reader.join(60)
        return code, self._process.stderr.read()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait(60)
        self._process.stdout.close()
        self._process.stderr.close()
