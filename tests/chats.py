"""A corpus of conversations that a tiny model learns in seconds."""

import itertools
import json

COLOURS = ("red", "blue", "green", "black", "white")


def conversations():
    """Sixty, some with a system text, some with two questions."""
    for i, (number, colour) in enumerate(itertools.product(range(12), COLOURS)):
        turns = [("user", f"box {number}, {colour}?"), ("assistant", f"it is {colour}")]
        if i % 3 == 0:
            turns.insert(0, ("system", "be brief"))
        if i % 4 == 0:
            turns += [("user", "thanks"), ("assistant", "welcome")]
        yield [{"role": role, "content": content} for role, content in turns]


def write_chats(path):
    """As JSON, one a line."""
    path.write_text("".join(json.dumps({"messages": each}) + "\n" for each in conversations()))
    return path
