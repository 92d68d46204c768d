"""Text from tokens as they come: never half a character, never part of a stop string."""

from __future__ import annotations

import codecs


class TextStream:
    """Turns the bytes of tokens into text that may be shown at once.

    Held back is what may still change: the first bytes of a character, and an ending that may
    become a stop string. A stop string ends the text before it, also where it spans tokens.
    `text` is all that was given out, `held` what is held back.
    """

    def __init__(self, stop_strings: tuple[str, ...] = ()) -> None:
        self.stops = tuple(stop for stop in stop_strings if stop)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.held = ""
        self.text = ""
        self.stopped = False

    def feed(self, content: bytes, may_stop: bool = True) -> str:
        """Take the bytes of one token; return the text that is now certain.

        Stop strings count only if it may stop yet.
        """
        self.held += self._decoder.decode(content)
        if may_stop:
            starts = [start for stop in self.stops if (start := self.held.find(stop)) >= 0]
            if starts:
                self.stopped = True
                return self._give(min(starts), drop_rest=True)
        # Also while they don't count yet: the stop string may be completed when they do.
        return self._give(len(self.held) - self._undecided())

    def finish(self) -> str:
        """Return what was held back; half a character becomes U+FFFD."""
        if self.stopped:
            return ""
        self.held += self._decoder.decode(b"", final=True)
        return self._give(len(self.held))

    def _undecided(self) -> int:
        # Length of the longest ending that begins a stop string.
        longest = 0
        for stop in self.stops:
            for size in range(min(len(stop) - 1, len(self.held)), longest, -1):
                if self.held.endswith(stop[:size]):
                    longest = size
                    break
        return longest

    def _give(self, size: int, drop_rest: bool = False) -> str:
        given = self.held[:size]
        self.held = "" if drop_rest else self.held[size:]
        self.text += given
        return given
