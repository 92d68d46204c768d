import pytest

from minitx.config.checks import parse_duration
from minitx.errors import BadInputError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("3m", 180), ("1h30m", 5400), ("45", 45), ("2.5m", 150), ("1H", 3600),
     ("1h1m1s", 3661), ("0.5", 0.5)],
)  # fmt: skip
def test_spans(text, seconds):
    assert parse_duration("--budget", text) == seconds


@pytest.mark.parametrize("text", ["", "0", "0s", "-3m", "3 minutes", "m", "1m1h", "nan", "inf"])
def test_no_spans(text):
    with pytest.raises(BadInputError, match=r"--budget is .* no time span") as caught:
        parse_duration("--budget", text)
    assert "3m" in caught.value.fix
