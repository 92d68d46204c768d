import json

from minitx.report.terminal.printable import json_line


def test_json_has_no_control_character_and_the_same_value():
    values = {"text": "".join(map(chr, range(0x300))) + "\u2028\u202e\ud800 é 中"}
    line = json_line(values)
    assert json.loads(line) == values
    assert not any(ord(c) < 0x20 or 0x7F <= ord(c) < 0xA0 for c in line)
    assert "é 中" in line
