import pytest

from minitx.config.checks import parse_duration
from minitx.errors import BadInputError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("3m", 180), ("1h30m", 5400), ("45s", 45), ("2.5m", 150), ("1H", 3600),
     ("1h1m1s", 3661), ("0.5s", 0.5)],
)  # fmt: skip
def test_spans(text, seconds):
    assert parse_duration("--budget", text) == seconds


@pytest.mark.parametrize("text", ["", "0", "0s", "-3m", "3 minutes", "m", "1m1h", "nan", "inf"])
def test_no_spans(text):
    with pytest.raises(BadInputError, match=r"--budget is .* no time span") as caught:
        parse_duration("--budget", text)
    assert "3m" in caught.value.fix


@pytest.mark.parametrize(("text", "units"), [("3", "smh"), (" 45 ", "smh"), ("1.5", "smh")])
def test_a_bare_number_is_asked_for_its_unit(text, units):
    with pytest.raises(BadInputError, match="has no unit") as caught:
        parse_duration("--budget", text)
    spans = [word for word in caught.value.fix.split() if word[-1] in units and word[0].isdigit()]
    assert [parse_duration("--budget", span) for span in spans] == [
        float(text) * seconds for seconds in (1, 60, 3600)
    ]


def test_no_unit_is_proposed_that_is_too_long():
    with pytest.raises(BadInputError, match="Use --budget 2000s or 2000m$"):
        parse_duration("--budget", "2000")


@pytest.mark.parametrize("text", ["1h30", "3m20", "0.5"])
def test_no_unit_is_guessed(text):
    with pytest.raises(BadInputError):
        parse_duration("--budget", text)
