"""How the two long-running verbs begin: settings from four places, logs, the loop, and clear words when it cannot start."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

from herd import config, logs
from herd.agent import app as agent_app
from herd.cli.client import Trouble
from herd.cli.screen import console, safe, show, table
from herd.router import app as router_app
from herd.router.folder import FolderBusy
from herd.router.http_server import PortInUse

if sys.platform != "win32":
    import uvloop

    _run: Callable[[Coroutine[Any, Any, Any]], Any] = uvloop.run
else:
    _run = asyncio.run

log = logging.getLogger("herd")

Flags = Mapping[str, object]


def serve(flags: Flags) -> None:
    """The coordinator, until it is told to end. Raises Trouble when it cannot start."""
    settings = coordinator_settings(flags)
    kept = logs.start(settings.log, settings.general.data_dir.expanduser(), "herd")
    try:
        _run(router_app.run(settings, _say_started))
    except PortInUse as error:
        port = settings.general.port
        raise Trouble(str(error), f"stop the other program, or use another port: herd --port {port + 1}") from error
    except FolderBusy as error:
        raise Trouble(str(error), "stop the other coordinator, or give this one its own folder: herd --data-dir FOLDER") from error
    except PermissionError as error:
        raise Trouble(f"not permitted: {error}", "use a port above 1023: herd --port 11435") from error
    finally:
        kept.close()


def _say_started(coordinator: router_app.Coordinator, port: int) -> None:
    general = coordinator.settings.general
    host = "localhost" if general.host in ("0.0.0.0", "::") else general.host
    log.info("listening", extra={"url": f"http://{host}:{port}", "data_dir": str(general.data_dir)})
    if console.is_terminal:
        console.print(f"\n[bold]herd[/bold] listens on http://{host}:{port}")
        console.print("On each machine with Ollama or another engine, run: [bold]herd-node[/bold]")
        console.print("Look at it with: [bold]herd status[/bold]\n")


def node(flags: Flags) -> None:
    """The agent, until it is told to end. Raises Trouble when it cannot start."""
    settings = _load(agent_app.Settings, flags, config.AGENT_PREFIX).compose(agent_app.Settings)
    kept = logs.start(settings.log, settings.agent.data_dir.expanduser(), "herd-node")
    try:
        code = _run(agent_app.run(settings))
    except agent_app.CannotStart as error:
        raise Trouble(str(error), error.remedy) from error
    finally:
        kept.close()
    if code:
        raise SystemExit(code)


def coordinator_settings(flags: Flags) -> router_app.Settings:
    return _load(router_app.Settings, flags, config.COORDINATOR_PREFIX).compose(router_app.Settings)


def data_dir() -> Path:
    return coordinator_settings({}).general.data_dir.expanduser()


def show_config(as_json: bool) -> None:
    """Every setting of the coordinator: value, source, meaning."""
    rows = _load(router_app.Settings, {}, config.COORDINATOR_PREFIX).describe()
    show(rows, as_json, _draw_config)


def _draw_config(rows: list[dict[str, str]]) -> None:
    drawn = table("setting", "value", "from", "what it does")
    for row in rows:
        drawn.add_row(row["key"], safe(row["value"]), safe(row["source"]), safe(row["help"]))
    console.print(drawn)


def _load(whole: type[Any], flags: Flags, prefix: str) -> config.Config:
    given = {name: config.Given(str(value), _flag(name)) for name, value in flags.items() if value is not None}
    env_file = Path(os.environ.get("FLEET_ENV_FILE", config.ENV_FILE))
    environ = {name: value for name, value in os.environ.items() if name != "FLEET_ENV_FILE"}
    try:
        return config.load(config.parts_of(whole), environ, env_file, given, prefix)
    except config.ConfigError as error:
        raise Trouble(str(error), "see every setting with: herd config, or docs/settings.md") from error


def _flag(name: str) -> str:
    tail = name.removeprefix("FLEET_NODE_").removeprefix("FLEET_")
    return "--" + tail.lower().replace("_", "-")
