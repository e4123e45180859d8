"""Loads the settings of the coordinator and the agent for the command line, and prints them (`herd config`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text

from herd import config
from herd.addresses import host_and_port
from herd.agent import app as agent_app
from herd.agent.inventory import EMBEDDED
from herd.cli.client import CliError, CoordinatorClient, coordinator_at
from herd.cli.doctor import Setup
from herd.cli.starting.options import Flags
from herd.cli.starting.settings import ALL_ADDRESSES, InvalidSettings, load, open_settings_store
from herd.cli.terminal import console, error_console, printable, show, wrapped
from herd.coordinator import settings as coordinator_settings

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

# --- loading ---


def notices() -> list[str]:
    """One sentence for each setting of ollama-herd, of either process, that is set and has no effect here."""
    return [*agent_notices(), *_without_effect(coordinator_settings.Settings, config.COORDINATOR_PREFIX)]


def agent_notices() -> tuple[str, ...]:
    """The same, for the agent's settings only."""
    return _without_effect(agent_app.Settings, config.AGENT_PREFIX)


def _without_effect(whole: type[DataclassInstance], prefix: str) -> tuple[str, ...]:
    try:
        return load(whole, {}, prefix).notices
    except InvalidSettings:
        return ()


def agent_settings(flags: Flags, slots: int | None) -> agent_app.Settings:
    """The agent's settings; `slots` belongs to the engine, whichever it is. Raises CliError."""
    settings = load(agent_app.Settings, flags, config.AGENT_PREFIX).compose(agent_app.Settings)
    if slots is None:
        return settings
    # An embedded engine is started with this number of slots; for any other engine it is an assertion by the user.
    name = "FLEET_NODE_EMBEDDED_SLOTS" if settings.engines.engine == EMBEDDED else "FLEET_NODE_SLOTS"
    return load(agent_app.Settings, {**flags, name: slots}, config.AGENT_PREFIX).compose(agent_app.Settings)


def _coordinator_settings() -> coordinator_settings.Settings:
    return load(coordinator_settings.Settings, {}, config.COORDINATOR_PREFIX).compose(coordinator_settings.Settings)


# --- what other commands need ---


def coordinator(url: str | None, prints_problems: bool = True) -> CoordinatorClient:
    """The coordinator to use: the URL, else the one that this machine's agent reports to, else this machine's own."""
    if url is not None:
        return coordinator_at(url)
    try:
        agent = agent_settings({}, None)
        general = _coordinator_settings().general
    except InvalidSettings as error:
        # Commands that only read must work with an invalid setting.
        default = coordinator_at("127.0.0.1")
        if prints_problems:
            problems = "; ".join(error.problems)
            error_console.print(Text(f"{printable(problems)}. Using {default.url}.", "yellow"), soft_wrap=True)
        return default
    if agent.link.router_url:
        return coordinator_at(agent.link.router_url)
    host = "127.0.0.1" if general.host in ALL_ADDRESSES else general.host
    return coordinator_at(host_and_port(host, general.port or coordinator_settings.GeneralSettings().port))


def data_dir() -> Path:
    """The coordinator's data folder on this machine. Raises CliError."""
    return _coordinator_settings().general.data_dir.expanduser()


def setup(url: str | None, data_dir: Path | None) -> Setup:
    """What `herd doctor` checks; problems of the settings are part of it."""
    problems: list[str] = []
    agent, router = agent_app.Settings(), coordinator_settings.Settings()
    try:
        agent = agent_settings({}, None)
    except InvalidSettings as error:
        problems += error.problems
    try:
        router = _coordinator_settings()
    except InvalidSettings as error:
        problems += error.problems
    folder = data_dir or router.general.data_dir
    return Setup(
        coordinator(url, prints_problems=False),
        folder.expanduser(),
        tuple(dict.fromkeys(problems)),
        agent.link.router_url,
        router.general.mdns,
        notices(),
    )


# --- `herd config` ---


def describe(is_agent: bool) -> list[dict[str, str]]:
    """Every setting with its value and source, secrets masked; a list of problems if the settings are invalid."""
    try:
        return _rows(is_agent)
    except InvalidSettings as error:
        return [{"problem": problem} for problem in error.problems]


def show_config(word: str, is_agent: bool, as_json: bool) -> None:
    """Shows each setting whose name or help contains `word`: value, source and help.

    If a setting is invalid, shows the settings with their defaults for the invalid ones, then raises InvalidSettings.
    """
    invalid: InvalidSettings | None = None
    try:
        found = _rows(is_agent)
    except InvalidSettings as error:
        if as_json or not error.rows:
            raise
        found, invalid = error.rows, error
    rows = [row for row in found if word.lower() in f"{row['key']} {row['help']}".lower()]
    if not rows:
        raise CliError(
            f"no setting matches {word!r}",
            "list all settings with: herd config (coordinator) or herd config --agent (agent)",
        )
    show(rows, as_json, config_lines)
    if invalid is not None:
        raise invalid


def config_lines(rows: Iterable[Mapping[str, str]]) -> Iterable[Text]:
    """Two lines for each setting; settings that differ from the default are highlighted."""
    for row in rows:
        is_set = row["source"] != "default"
        yield Text.assemble(
            (row["key"], "bold green" if is_set else "bold"),
            f" = {printable(row['value']) or '(empty)'}",
            (f"  {printable(row['source'])}", "" if is_set else "dim"),
        )
        yield from wrapped(Text("    "), row["help"], console.width, "dim")


def _rows(is_agent: bool) -> list[dict[str, str]]:
    if is_agent:
        return load(agent_app.Settings, {}, config.AGENT_PREFIX).describe()
    return open_settings_store({}).describe()
