"""The commands `herd` and `herd-node`.

The coordinator runs for weeks. So it starts without what only other commands use: typer, rich and the agent would be a
quarter of its memory. Everything else, and every wrong option, is in `commands/`.
"""

from __future__ import annotations

import sys
from importlib import import_module

from herd.cli.starting.options import coordinator_flags


def herd() -> None:
    """The command `herd`."""
    flags = coordinator_flags(sys.argv[1:])
    if flags is not None:
        import_module("herd.cli.starting.coordinator").main(flags)
    else:
        import_module("herd.cli.commands").herd()


def herd_node() -> None:
    """The command `herd-node`."""
    import_module("herd.cli.commands").herd_node()
