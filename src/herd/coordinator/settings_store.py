"""All settings of the coordinator, and those that were changed in the dashboard: where they are kept and how they are checked.

What is set here stands in a file of the data folder, in the words of an environment file. It wins over `~/.fleet-manager/env`; what the
environment or a flag says wins over it, and then cannot be changed here. Checked is by loading everything anew.
"""

from __future__ import annotations

import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from herd.config import Config, ConfigError, RawValue, RecordType, Setting, SettingValue, read_env_file
from herd.coordinator.settings import Settings
from herd.core.scheduling.completion_time import CompletionTimeSettings
from herd.core.scheduling.signals import Weights
from herd.dashboard.tabs.settings import SettingLine
from herd.errors import BadRequest
from herd.files import write_atomically

FILE_NAME = "settings.env"
HEAD = "# Written by the dashboard of herd; a line that is taken out is the default again.\n"
VALUE_MAX_CHARS = 4096
TAKEN_UP_AT_ONCE: frozenset[RecordType] = frozenset({Weights, CompletionTimeSettings})
ELSEWHERE = frozenset({"FLEET_DATA_DIR"})
"""Where this file is cannot be said in it."""
KINDS: Mapping[object, str] = MappingProxyType(
    {bool: "switch", int: "whole", float: "number", str: "text", Path: "path", tuple[str, ...]: "list"}
)


class SettingsStore:
    """`load` makes a `Config` of what is set here and everything else. Raises `ConfigError` where that cannot be."""

    def __init__(self, load: Callable[[Mapping[str, RawValue]], Config], file: Path) -> None:
        self._load = load
        self._file = file
        problems: list[str] = []
        self._given = {name: one for name, one in read_env_file(file, problems).items() if name not in ELSEWHERE}
        if problems:
            raise ConfigError(problems)
        self._config = load(self._given)
        self._started = {one.setting.env: one.value for one in self._config.values}

    def settings(self) -> Settings:
        """As they are now, with what takes effect only at the next start."""
        return self._config.compose(Settings)

    def describe(self) -> list[dict[str, str]]:
        """One row a setting, as `herd config` shows them."""
        return self._config.describe()

    def lines(self) -> list[SettingLine]:
        return [self._line(one, row) for one, row in zip(self._config.values, self._config.describe(), strict=True)]

    def here(self, name: str) -> str | None:
        given = self._given.get(name)
        return given.text if given is not None else None

    def change(self, name: str, value: str | None) -> SettingLine:
        """Raises `BadRequest`; then nothing has changed."""
        chosen = next((one for one in self._config.values if one.setting.env == name), None)
        if chosen is None:
            raise BadRequest(f"there is no setting {name[:80]!r}; GET /dashboard/api/settings has them all")
        reason = self._why_not(chosen)
        if reason:
            raise BadRequest(f"{name} cannot be changed here: {reason}")
        if value is not None and (len(value) > VALUE_MAX_CHARS or not value.isprintable() or '"' in value):
            raise BadRequest(f"a value is one line of at most {VALUE_MAX_CHARS} characters, without quotes")
        given = {key: one for key, one in self._given.items() if key != name}
        if value is not None:
            given[name] = RawValue(value, str(self._file))
        try:
            config = self._load(given)
        except ConfigError as error:
            raise BadRequest("; ".join(error.problems)) from error
        self._keep(given)
        self._given, self._config = given, config
        return next(line for line in self.lines() if line.name == name)

    def weights(self, values: dict[str, str]) -> dict[str, float]:
        """Raises `BadRequest`."""
        names = {one.setting.env: one.setting for one in self._config.values if one.setting.record in TAKEN_UP_AT_ONCE}
        unknown = sorted(set(values) - set(names))
        if unknown:
            raise BadRequest(f"{unknown[0][:80]} is not a weight; these are: {', '.join(sorted(names))}")
        try:
            tried = self._load(
                {**self._given, **{name: RawValue(text, "the preview") for name, text in values.items()}}
            )
        except ConfigError as error:
            raise BadRequest("; ".join(error.problems)) from error
        found = {one.setting.env: one.value for one in tried.values}
        return {names[name].name: float(str(found[name])) for name in values}

    def _why_not(self, chosen: SettingValue) -> str:
        """Why it cannot be changed here; "" where it can."""
        name = chosen.setting.env
        if name in ELSEWHERE:
            return "this is where the dashboard keeps what it sets; set it in the environment"
        if chosen.setting.secret:
            return "it is a secret; set it in the environment or in ~/.fleet-manager/env"
        source = self._source(chosen)
        return (
            f"{'the command line' if source == 'flag' else 'the environment'} sets it ({chosen.source}), which wins"
            if source in ("flag", "env")
            else ""
        )

    def _line(self, chosen: SettingValue, row: Mapping[str, str]) -> SettingLine:
        setting = chosen.setting
        is_at_once = setting.record in TAKEN_UP_AT_ONCE
        has_waited = not is_at_once and self._started[setting.env] != chosen.value
        started = self._started[setting.env]
        in_force = row["value"] if not has_waited else "(set)" if setting.secret and started else str(started)
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
            waits_for_restart=has_waited,
            may_change=not self._why_not(chosen),
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

    def _keep(self, given: Mapping[str, RawValue]) -> None:
        """Whole or not at all, for its owner only. Raises `BadRequest` where the disk takes none."""
        text = HEAD + "".join(f'{name}="{one.text}"\n' for name, one in sorted(given.items()))
        try:
            write_atomically(self._file, text.encode())
        except OSError as error:
            raise BadRequest(f"{self._file} cannot be written: {error.strerror or error}") from error


def _group(setting: Setting) -> str:
    """The component that reads it: "store", "holding"."""
    name = setting.record.__name__.removesuffix("Settings")
    return "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in name).strip()


def _kind(setting: Setting) -> str:
    if setting.choices:
        return "choice"
    kinds = [known for known in KINDS if known == setting.kind or known in typing.get_args(setting.kind)]
    return KINDS[kinds[0]] if kinds else "text"
