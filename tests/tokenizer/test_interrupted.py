"""Ctrl-C while a tokenizer is trained."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterable

import pytest

from minitx.tokenizer import Tokenizer, kinds, train_tokenizer


def test_ctrl_c_is_heard_while_the_library_is_at_work(monkeypatch: pytest.MonkeyPatch) -> None:
    # Only the main thread hears of it, so that is not the one that may be away in the library.
    at_work: list[threading.Thread] = []
    released = threading.Event()

    def long(texts: Iterable[str], vocab_size: int) -> Tokenizer:
        at_work.append(threading.current_thread())
        os.kill(os.getpid(), signal.SIGINT)
        released.wait(30)
        raise AssertionError("nobody waits for this any more")

    monkeypatch.setitem(kinds._TRAINERS, "bpe", long)
    # A shell has Ctrl-C ignored in what it runs in the background.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            train_tokenizer("to be or not to be", "bpe", 300)
        assert at_work[0] is not threading.main_thread()
        assert at_work[0].daemon, "the process would wait for it at its end"
    finally:
        released.set()
        signal.signal(signal.SIGINT, before)
