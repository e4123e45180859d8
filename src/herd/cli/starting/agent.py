"""Starts the agent (`herd node`, `herd-node`), and explains why it cannot start."""

from __future__ import annotations

import asyncio
import sys

from herd import logs
from herd.agent import app as agent_app
from herd.cli.settings import agent_notices, agent_settings
from herd.cli.starting.options import Flags
from herd.cli.starting.problem import CliError
from herd.cli.starting.settings import log_notices

if sys.platform != "win32":
    from uvloop import run
else:
    run = asyncio.run


def node(flags: Flags, slots: int | None) -> None:
    """Runs the agent until it is stopped; `slots` belongs to its engine. Raises CliError if it cannot start."""
    settings = agent_settings(flags, slots)
    open_logs = logs.start(settings.log, settings.agent.data_dir.expanduser(), "herd-node")
    log_notices(agent_notices())
    try:
        status = run(agent_app.run(settings))
    except agent_app.CannotStart as error:
        raise CliError(str(error), error.remedy) from error
    finally:
        open_logs.close()
    if status:
        raise SystemExit(status)
