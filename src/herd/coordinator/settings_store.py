"""Stores the settings that were changed in the dashboard, and describes all settings of the coordinator.

Changed settings are in a file of the data folder, in the format of an environment file. The file overrides
`~/.fleet-manager/env`. The environment and command-line flags override the file; such a setting cannot be changed in
the dashboard. A change is validated by loading all settings again.
"""

from __future__ import annotations

import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from herd.config import Config, ConfigError, RawValue, RecordType, Setting, SettingValue, read_env_file
from herd.coordinator.settings import Settings
from herd.core.scheduling.aliases import AliasSettings
from herd.core.scheduling.completion_time import CompletionTimeSettings
from herd.core.scheduling.signals import Weights
from herd.dashboard.pages.settings import SettingLine
from herd.errors import BadRequest
from herd.files import write_atomically

FILE_NAME = "settings.env"
HEADER = "# Written by the herd dashboard. Remove a line to return to the default.\n"
VALUE_MAX_CHARS = 4096
WEIGHTS: frozenset[RecordType] = frozenset({Weights, CompletionTimeSettings})
APPLIED_AT_ONCE = WEIGHTS | {AliasSettings}
NOT_IN_FILE = frozenset({"FLEET_DATA_DIR"})
"""The location of the file cannot be set in the file."""
KINDS: Mapping[object, str] = MappingProxyType(
    {bool: "switch", int: "whole", float: "number", str: "text", Path: "path", tuple[str, ...]: "list"}
)


class SettingsStore:
    """`load` combines the values of this file with all other sources to a `Config`, or raises `ConfigError`."""

    def __init__(self, load: Callable[[Mapping[str, RawValue]], Config], file: Path) -> None:
        self._load = load
        self._file = file
        problems: list[str] = []
        self._stored = {name: raw for name, raw in read_env_file(file, problems).items() if name not in NOT_IN_FILE}
        if problems:
            raise ConfigError(problems)
        self._config = load(self._stored)
        self._at_start = {known.setting.env: known.value for known in self._config.values}

    def settings(self) -> Settings:
        """The current settings, including changes that take effect at the next start."""
        return self._config.compose(Settings)

    def aliases(self) -> AliasSettings:
        """The aliases of models, including changes."""
        return self._config.of(AliasSettings)

    @property
    def notices(self) -> tuple[str, ...]:
        """One sentence for each setting of ollama-herd that is set and has no effect here."""
        return self._config.notices

    def describe(self) -> list[dict[str, str]]:
        """One row per setting, as `herd config` shows them."""
        return self._config.describe()

    def lines(self) -> list[SettingLine]:
        return [self._line(known, row) for known, row in zip(self._config.values, self._config.describe(), strict=True)]

    def dashboard_value(self, name: str) -> str | None:
        stored = self._stored.get(name)
        return stored.text if stored is not None else None

    def change(self, name: str, value: str | None) -> SettingLine:
        """Sets a value, or removes it with None. If it raises `BadRequest`, nothing has changed."""
        chosen = next((known for known in self._config.values if known.setting.env == name), None)
        if chosen is None:
            raise BadRequest(f"unknown setting {name[:80]!r}; GET /dashboard/api/settings lists all settings")
        reason = self._fixed_reason(chosen)
        if reason:
            raise BadRequest(f"{name} cannot be changed here: {reason}")
        if value is not None and (len(value) > VALUE_MAX_CHARS or not value.isprintable() or '"' in value):
            raise BadRequest(f"a value must be one line of at most {VALUE_MAX_CHARS} characters, without quotes")
        changed = {key: raw for key, raw in self._stored.items() if key != name}
        if value is not None:
            changed[name] = RawValue(value, str(self._file))
        try:
            config = self._load(changed)
        except ConfigError as error:
            raise BadRequest("; ".join(error.problems)) from error
        self._write(changed)
        self._stored, self._config = changed, config
        return next(line for line in self.lines() if line.name == name)

    def weights(self, values: dict[str, str]) -> dict[str, float]:
        """The values of these weights as numbers, by field name, without storing them. Raises `BadRequest`."""
        names = {known.setting.env: known.setting for known in self._config.values if known.setting.record in WEIGHTS}
        unknown = sorted(set(values) - set(names))
        if unknown:
            raise BadRequest(f"{unknown[0][:80]} is not a weight; the weights are: {', '.join(sorted(names))}")
        try:
            tried = self._load(
                {**self._stored, **{name: RawValue(text, "the preview") for name, text in values.items()}}
            )
        except ConfigError as error:
            raise BadRequest("; ".join(error.problems)) from error
        found = {known.setting.env: known.value for known in tried.values}
        return {names[name].name: float(str(found[name])) for name in values}

    def _fixed_reason(self, chosen: SettingValue) -> str:
        """Why this setting cannot be changed in the dashboard; "" if it can."""
        name = chosen.setting.env
        if name in NOT_IN_FILE:
            return "it is the folder in which the dashboard stores its settings; set it in the environment"
        if chosen.setting.secret:
            return "it is a secret; set it in the environment or in ~/.fleet-manager/env"
        source = self._source(chosen)
        if source not in ("flag", "env"):
            return ""
        place = "the command line" if source == "flag" else "the environment"
        return f"{place} sets it ({chosen.source}) and overrides the dashboard"

    def _line(self, chosen: SettingValue, row: Mapping[str, str]) -> SettingLine:
        setting = chosen.setting
        is_at_once = setting.record in APPLIED_AT_ONCE
        waits_for_restart = not is_at_once and self._at_start[setting.env] != chosen.value
        started = self._at_start[setting.env]
        in_force = row["value"] if not waits_for_restart else "(set)" if setting.secret and started else str(started)
        return SettingLine(
            name=setting.env,
            group=_group(setting),
            help=setting.help,
            kind=_kind(setting),
            value=row["value"],
            value_in_force=in_force,
            default=row["default"],
            source=self._source(chosen),
            source_detail=chosen.source,
            takes_effect="now" if is_at_once else "restart",
            waits_for_restart=waits_for_restart,
            may_change=not self._fixed_reason(chosen),
            expects=setting.expects,
            choices=setting.choices,
            minimum=setting.minimum,
            maximum=setting.maximum,
            is_secret=setting.secret,
        )

    def _source(self, chosen: SettingValue) -> str:
        source = chosen.source
        if source in ("default", "environment"):
            return "env" if source == "environment" else source
        return "flag" if source.startswith("-") else "here" if source.startswith(str(self._file)) else "file"

    def _write(self, stored: Mapping[str, RawValue]) -> None:
        """Replaces the file atomically, readable by its owner only. Raises `BadRequest` if that fails."""
        text = HEADER + "".join(f'{name}="{raw.text}"\n' for name, raw in sorted(stored.items()))
        try:
            write_atomically(self._file, text.encode())
        except OSError as error:
            raise BadRequest(f"{self._file} cannot be written: {error.strerror or error}") from error


def _group(setting: Setting) -> str:
    """The name of the component that uses the setting, e.g. "store" or "holding"."""
    name = setting.record.__name__.removesuffix("Settings")
    return "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in name).strip()


def _kind(setting: Setting) -> str:
    if setting.choices:
        return "choice"
    kinds = [known for known in KINDS if known == setting.kind or known in typing.get_args(setting.kind)]
    return KINDS[kinds[0]] if kinds else "text"
