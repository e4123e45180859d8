"""Loads the settings of either process for the command line."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from herd import config
from herd.cli.starting.options import Flags
from herd.cli.starting.problem import CliError
from herd.coordinator import settings as coordinator_settings
from herd.coordinator.settings_store import FILE_NAME, SettingsStore

log = logging.getLogger("herd")

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

FLAG_NAMES: Mapping[str, str] = MappingProxyType(
    {"FLEET_CONSOLE_LOG_LEVEL": "--log-level", "FLEET_NODE_ENABLE_CAPACITY_LEARNING": "--learn-capacity"}
)
"""Options that have not the name of their setting."""
NOTICES_SHOWN_MAX = 3
"""Settings without an effect of which each has a line at the start."""
ALL_ADDRESSES = ("0.0.0.0", "::", "")


class InvalidSettings(CliError):
    """All problems of the settings, one sentence each. `rows` describes every setting, as for `herd config`."""

    def __init__(self, error: config.ConfigError, command: str) -> None:
        super().__init__(
            "\n".join(error.problems), f"correct or unset these settings; all settings and their values: {command}"
        )
        self.problems = error.problems
        self.rows = config.describe(error.values)


def open_settings_store(flags: Flags) -> SettingsStore:
    """The coordinator's settings, including those saved in the dashboard. Raises InvalidSettings."""
    first = load(coordinator_settings.Settings, flags, config.COORDINATOR_PREFIX)
    folder = first.compose(coordinator_settings.Settings).general.data_dir.expanduser()
    try:
        return SettingsStore(
            lambda saved: load_config(coordinator_settings.Settings, flags, config.COORDINATOR_PREFIX, saved),
            folder / FILE_NAME,
        )
    except config.ConfigError as error:
        raise InvalidSettings(error, "herd config") from error


def load(whole: type[DataclassInstance], flags: Flags, prefix: str) -> config.Config:
    try:
        return load_config(whole, flags, prefix, {})
    except config.ConfigError as error:
        command = "herd config" if prefix == config.COORDINATOR_PREFIX else "herd config --agent"
        raise InvalidSettings(error, command) from error


def load_config(
    whole: type[DataclassInstance], flags: Flags, prefix: str, saved: Mapping[str, config.RawValue]
) -> config.Config:
    given = {name: config.RawValue(str(value), _flag(name)) for name, value in flags.items() if value is not None}
    env_file = Path(os.environ.get("FLEET_ENV_FILE", config.ENV_FILE))
    environ = {name: value for name, value in os.environ.items() if name != "FLEET_ENV_FILE"}
    return config.load(config.parts_of(whole), environ, env_file, given, prefix, saved)


def _flag(name: str) -> str:
    if name in FLAG_NAMES:
        return FLAG_NAMES[name]
    tail = name.removeprefix("FLEET_NODE_").removeprefix("FLEET_").removeprefix("EMBEDDED_")
    return "--" + tail.lower().replace("_", "-")


def log_notices(notices: Sequence[str]) -> None:
    """Each of a few; of many, as a whole environment file of ollama-herd gives, only the number."""
    if len(notices) > NOTICES_SHOWN_MAX:
        log.warning("%d settings of ollama-herd have no effect here; for the reasons, run: herd doctor", len(notices))
        return
    for notice in notices:
        log.warning(notice)
