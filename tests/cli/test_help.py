"""What --help tells a stranger."""

import pytest
from typer.main import get_command

from minitx.cli.app import app

COMMANDS = sorted(get_command(app).commands)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_says_what_it_is_for(name):
    command = get_command(app).commands[name]
    assert command.help
    for parameter in command.params:
        assert parameter.help, f"minitx {name}: {parameter.name} has no help text"


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("columns", ["80", "200"])
def test_help_fits_the_terminal(name, columns, minitx, monkeypatch):
    monkeypatch.setenv("COLUMNS", columns)
    done = minitx(name, "--help")
    assert done.code == 0
    assert all(len(line) <= int(columns) for line in done.out.splitlines())
