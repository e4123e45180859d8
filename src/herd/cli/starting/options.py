"""Reads the command line of the coordinator without typer, if it is a simple one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

Flags = Mapping[str, object]
"""Values of command line options by the name of their setting; None if an option was not given."""

COORDINATOR_OPTIONS: Mapping[str, str] = MappingProxyType(
    {
        "--host": "FLEET_HOST",
        "--port": "FLEET_PORT",
        "--data-dir": "FLEET_DATA_DIR",
        "--log-level": "FLEET_CONSOLE_LOG_LEVEL",
    }
)


def coordinator_flags(arguments: Sequence[str]) -> Flags | None:
    """The options if this command line starts the coordinator, else None: also for help and for anything unusual."""
    rest = list(arguments[1:] if arguments[:1] == ["serve"] else arguments)
    flags: dict[str, object] = {}
    while rest:
        option, _, value = rest.pop(0).partition("=")
        name = COORDINATOR_OPTIONS.get(option)
        value = value or (rest.pop(0) if rest else "")
        if name is None or not value or value.startswith("-") or name in flags:
            return None
        if name == "FLEET_PORT" and not value.isdecimal():
            return None
        flags[name] = value
    return flags
