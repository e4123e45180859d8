"""A simple command line starts the coordinator without typer; everything else is left to typer."""

from __future__ import annotations

import pytest

from herd.cli.starting.options import coordinator_flags


@pytest.mark.parametrize(
    ("arguments", "flags"),
    [
        ([], {}),
        (["serve"], {}),
        (["--port", "1234"], {"FLEET_PORT": "1234"}),
        (
            ["serve", "--host=0.0.0.0", "--port=0", "--data-dir", "/tmp/a b"],
            {"FLEET_HOST": "0.0.0.0", "FLEET_PORT": "0", "FLEET_DATA_DIR": "/tmp/a b"},
        ),
        (["--data-dir=/a=b"], {"FLEET_DATA_DIR": "/a=b"}),
        (["--log-level", "warning"], {"FLEET_CONSOLE_LOG_LEVEL": "warning"}),
    ],
)
def test_the_options_of_the_coordinator_are_read(arguments: list[str], flags: dict[str, str]) -> None:
    assert coordinator_flags(arguments) == flags


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["serve", "--help"],
        ["--version"],
        ["status"],
        ["serve", "serve"],
        ["--port"],
        ["--port", "--host", "x"],
        ["--port", "many"],
        ["--port="],
        ["--port", "1", "--port", "2"],
        ["--hos", "x"],
        ["--port", "1", "status"],
    ],
)
def test_typer_gets_every_other_command_line(arguments: list[str]) -> None:
    assert coordinator_flags(arguments) is None
