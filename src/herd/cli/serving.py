"""How the two long-running verbs begin: settings from four places, logs, the loop, and clear words when it cannot start."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text

from herd import config, logs
from herd.addresses import host_and_port
from herd.agent import app as agent_app
from herd.agent.inventory import EMBEDDED
from herd.cli.client import CliError, CoordinatorClient, coordinator_at
from herd.cli.doctor import Setup
from herd.cli.fleet import capture_line
from herd.cli.screen import clean, console, folded, put, show
from herd.coordinator import process
from herd.coordinator import settings as router_settings
from herd.coordinator.app import Coordinator
from herd.coordinator.http.server import PortInUse
from herd.coordinator.http.tls import BadCertificate
from herd.coordinator.settings_store import FILE_NAME, SettingsStore
from herd.coordinator.storage.credential_store import CredentialStoreDamaged
from herd.coordinator.storage.data_dir import DataDirInUse

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

if sys.platform != "win32":
    from uvloop import run
else:
    run = asyncio.run

log = logging.getLogger("herd")

Flags = Mapping[str, object]

FIRST_FREE_PORT = 1024
EVERYWHERE = ("0.0.0.0", "::", "")


class WrongSettings(CliError):
    """All that is wrong with them, one sentence each."""

    def __init__(self, problems: tuple[str, ...], verb: str) -> None:
        super().__init__(
            "\n".join(problems), f"every setting is told in docs/settings.md, and once it is corrected by: {verb}"
        )
        self.problems = problems


# --- the coordinator ---


def serve(flags: Flags) -> None:
    """The coordinator, until it is told to end. Raises Trouble when it cannot start."""
    settings_store = open_settings_store(flags)
    settings = settings_store.settings()
    general = settings.general
    kept = logs.start(settings.log, general.data_dir.expanduser(), "herd")
    try:
        run(process.run(settings, _say_started, settings_store))
    except PortInUse as error:
        raise _port_in_use(general.port) from error
    except DataDirInUse as error:
        problem = str(error).partition(": stop it")[0]
        raise CliError(
            problem,
            f"look at it with: herd status\nor start a second one: herd --port {general.port + 1} --data-dir FOLDER",
        ) from error
    except BadCertificate as error:
        raise CliError(
            str(error), "put a PEM certificate and its key there, or unset FLEET_TLS_CERT and FLEET_TLS_KEY"
        ) from error
    except CredentialStoreDamaged as error:
        raise CliError(str(error), "begin with a new folder: herd --data-dir FOLDER") from error
    except OSError as error:
        raise _cannot_listen(general, error) from error
    finally:
        kept.close()


def _port_in_use(port: int) -> CliError:
    holder = CoordinatorClient(f"http://127.0.0.1:{port}", timeout_s=1.0)
    elsewhere = f"herd --port {port + 1}"
    try:
        holder.get("/fleet/limits")
    except CliError:
        return CliError(
            f"port {port} is in use by another program", f"end that program, or use another port: {elsewhere}"
        )
    return CliError(
        f"a coordinator already listens on port {port}",
        f"look at it with: herd status --url {holder.url}\nor start a second one: {elsewhere} --data-dir FOLDER",
    )


def _cannot_listen(general: router_settings.GeneralSettings, error: OSError) -> CliError:
    if isinstance(error, PermissionError) and 0 < general.port < FIRST_FREE_PORT and error.filename is None:
        return CliError(f"port {general.port} is for administrators only", "use a port above 1023: herd --port 11435")
    if error.filename is not None:
        return CliError(f"{error.filename}: {error.strerror or error}", "choose another folder: herd --data-dir FOLDER")
    reason = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
    return CliError(f"cannot listen on {general.host}: {reason}", "listen everywhere: herd --host 0.0.0.0")


def _say_started(coordinator: Coordinator, port: int) -> None:
    general = coordinator.settings.general
    url = f"http://{'localhost' if general.host in EVERYWHERE else general.host}:{port}"
    log.info("listening", extra={"url": url, "data_dir": str(general.data_dir)})
    if console.is_terminal:
        put(
            Text(),
            Text.assemble(("herd", "bold"), f" listens on {url}"),
            Text("On this machine, if it has Ollama or another engine:  herd-node"),
            Text.assemble(
                "On every other one, within ten minutes:              ",
                (f"herd-node --join {coordinator.invitation()}", "bold"),
            ),
            Text("Look at it from another terminal:                    herd status"),
            *(
                [Text(capture_line(coordinator.settings.capture.lasts_s), "bold yellow")]
                if coordinator.settings.capture.is_on
                else []
            ),
            Text("Ctrl-C ends it."),
            Text(),
        )


# --- the agent ---


def node(flags: Flags, slots: int | None) -> None:
    """The agent, until it is told to end; `slots` are its engine's, whichever that is. Raises Trouble when it cannot start."""
    settings = agent_settings(flags, slots)
    kept = logs.start(settings.log, settings.agent.data_dir.expanduser(), "herd-node")
    try:
        code = run(agent_app.run(settings))
    except agent_app.CannotStart as error:
        raise CliError(str(error), error.remedy) from error
    finally:
        kept.close()
    if code:
        raise SystemExit(code)


def agent_settings(flags: Flags, slots: int | None) -> agent_app.Settings:
    """Raises Trouble."""
    settings = _load(agent_app.Settings, flags, config.AGENT_PREFIX).compose(agent_app.Settings)
    if slots is None:
        return settings
    # An engine of our own is started with so many; of any other it is only believed.
    name = "FLEET_NODE_EMBEDDED_SLOTS" if settings.engines.engine == EMBEDDED else "FLEET_NODE_SLOTS"
    return _load(agent_app.Settings, {**flags, name: slots}, config.AGENT_PREFIX).compose(agent_app.Settings)


# --- what the other verbs need of the settings ---


def coordinator(url: str | None) -> CoordinatorClient:
    """The one to ask: as told, else the one this machine's agent reports to, else the one that would start here."""
    if url is not None:
        return coordinator_at(url)
    try:
        agent = agent_settings({}, None)
        general = (
            _load(router_settings.Settings, {}, config.COORDINATOR_PREFIX).compose(router_settings.Settings).general
        )
    except CliError:
        # A wrong setting must not keep anybody from looking; `herd doctor` tells of it.
        return coordinator_at("127.0.0.1")
    if agent.link.router_url:
        return coordinator_at(agent.link.router_url)
    host = "127.0.0.1" if general.host in EVERYWHERE else general.host
    return coordinator_at(host_and_port(host, general.port or router_settings.GeneralSettings().port))


def data_dir() -> Path:
    """The coordinator's folder on this machine. Raises Trouble."""
    return (
        _load(router_settings.Settings, {}, config.COORDINATOR_PREFIX)
        .compose(router_settings.Settings)
        .general.data_dir.expanduser()
    )


def setup(url: str | None, data_dir: Path | None) -> Setup:
    """What `herd doctor` looks at. Wrong settings are among it."""
    problems: list[str] = []
    agent, router = agent_app.Settings(), router_settings.Settings()
    try:
        agent = agent_settings({}, None)
    except WrongSettings as wrong:
        problems += wrong.problems
    try:
        router = _load(router_settings.Settings, {}, config.COORDINATOR_PREFIX).compose(router_settings.Settings)
    except WrongSettings as wrong:
        problems += wrong.problems
    folder = data_dir or router.general.data_dir
    return Setup(
        coordinator(url),
        folder.expanduser(),
        tuple(dict.fromkeys(problems)),
        agent.link.router_url,
        router.general.mdns,
    )


def described(is_agents: bool) -> list[dict[str, str]]:
    """Every setting with its value, secrets masked; what is wrong in place of all where they cannot be used."""
    whole, prefix = (
        (agent_app.Settings, config.AGENT_PREFIX)
        if is_agents
        else (router_settings.Settings, config.COORDINATOR_PREFIX)
    )
    try:
        return open_settings_store({}).describe() if not is_agents else _load(whole, {}, prefix).describe()
    except WrongSettings as wrong:
        return [{"problem": problem} for problem in wrong.problems]


def show_config(wanted: str, is_agents: bool, as_json: bool) -> None:
    """Every setting whose name or meaning holds `wanted`: value, source, meaning."""
    whole, prefix = (
        (agent_app.Settings, config.AGENT_PREFIX)
        if is_agents
        else (router_settings.Settings, config.COORDINATOR_PREFIX)
    )
    described_rows = _load(whole, {}, prefix).describe() if is_agents else open_settings_store({}).describe()
    rows = [row for row in described_rows if wanted.lower() in f"{row['key']} {row['help']}".lower()]
    if not rows:
        raise CliError(
            f"no setting has to do with {wanted!r}",
            "see all of them: herd config, and the agent's: herd config --agent",
        )
    show(rows, as_json, config_lines)


def config_lines(rows: Iterable[Mapping[str, str]]) -> Iterable[Text]:
    """Two lines a setting; those that somebody has set stand out."""
    for row in rows:
        is_set = row["source"] != "default"
        yield Text.assemble(
            (row["key"], "bold green" if is_set else "bold"),
            f" = {clean(row['value']) or '(empty)'}",
            (f"  {clean(row['source'])}", "" if is_set else "dim"),
        )
        yield from folded(Text("    "), row["help"], console.width, "dim")


def open_settings_store(flags: Flags) -> SettingsStore:
    """All of the coordinator's settings, with those that the dashboard has set. Raises `WrongSettings`."""
    first = _load(router_settings.Settings, flags, config.COORDINATOR_PREFIX)
    folder = first.compose(router_settings.Settings).general.data_dir.expanduser()
    try:
        return SettingsStore(
            lambda here: _loaded(router_settings.Settings, flags, config.COORDINATOR_PREFIX, here), folder / FILE_NAME
        )
    except config.ConfigError as error:
        raise WrongSettings(error.problems, "herd config") from error


def _load(whole: type[DataclassInstance], flags: Flags, prefix: str) -> config.Config:
    try:
        return _loaded(whole, flags, prefix, {})
    except config.ConfigError as error:
        verb = "herd config" if prefix == config.COORDINATOR_PREFIX else "herd config --agent"
        raise WrongSettings(error.problems, verb) from error


def _loaded(
    whole: type[DataclassInstance], flags: Flags, prefix: str, here: Mapping[str, config.RawValue]
) -> config.Config:
    given = {name: config.RawValue(str(value), _flag(name)) for name, value in flags.items() if value is not None}
    env_file = Path(os.environ.get("FLEET_ENV_FILE", config.ENV_FILE))
    environ = {name: value for name, value in os.environ.items() if name != "FLEET_ENV_FILE"}
    return config.load(config.parts_of(whole), environ, env_file, given, prefix, here)


def _flag(name: str) -> str:
    tail = name.removeprefix("FLEET_NODE_").removeprefix("FLEET_").removeprefix("EMBEDDED_")
    return "--" + tail.lower().replace("_", "-")
