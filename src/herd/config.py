"""Reads settings from five sources into the components' records and remembers the source of each value.

    default  <  ~/.fleet-manager/env  <  the dashboard's settings.env  <  environment  <  flag

The later source wins. A record is a frozen dataclass whose fields carry metadata: `env` (the public name), `help` (one
sentence), and where they apply `min`, `max`, `choices` and `secret`. All problems are reported together.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from herd import ollama_herd_settings

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

ENV_FILE = Path("~/.fleet-manager/env")
ENV_FILE_MAX_BYTES = 256 * 1024
COORDINATOR_PREFIX = "FLEET_"
AGENT_PREFIX = "FLEET_NODE_"
SIMILARITY_MIN = 0.75
_QUOTED = re.compile(r"""(?:'(?P<single>[^']*)'|"(?P<double>(?:[^"\\]|\\.)*)")\s*(?:#.*)?\Z""")
_ESCAPED = re.compile(r'\\(["\\$`])')
"""What a backslash protects in double quotes; before other characters it is a backslash, as in paths of Windows."""
_TRUE = frozenset({"1", "true", "t", "yes", "y", "on"})
_FALSE = frozenset({"0", "false", "f", "no", "n", "off"})

Value = TypeVar("Value")
RecordT = TypeVar("RecordT", bound="DataclassInstance")
RecordType = type["DataclassInstance"]


class ConfigError(Exception):
    """The settings are invalid. `problems` has one sentence for each problem; the message is the whole list.

    `values` has every setting; an invalid one has its default.
    """

    def __init__(self, problems: Sequence[str], values: Sequence[SettingValue] = ()) -> None:
        self.problems = tuple(problems)
        self.values = tuple(values)
        head = "1 setting is invalid" if len(problems) == 1 else f"{len(problems)} settings are invalid"
        super().__init__("\n  - ".join([f"{head}:", *problems]))


@dataclass(frozen=True, slots=True)
class RawValue:
    """A value as text, with its source: "environment", "/home/ann/.fleet-manager/env line 3" or "--port"."""

    text: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One field of a record, with what the documentation and error messages need."""

    env: str
    help: str
    record: RecordType
    name: str
    kind: object
    default: object
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    secret: bool = False

    @property
    def expects(self) -> str:
        """ "a whole number from 1 to 65535", "one of strip, warn, passthrough"."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        kind = _KIND_NAMES.get(_without_none(self.kind), "text")
        if self.minimum is not None and self.maximum is not None:
            return f"{kind} from {_plain(self.minimum)} to {_plain(self.maximum)}"
        if self.minimum is not None:
            return f"{kind} of at least {_plain(self.minimum)}"
        return f"{kind} of at most {_plain(self.maximum)}" if self.maximum is not None else kind


@dataclass(frozen=True, slots=True)
class SettingValue:
    """A setting with its value and the value's source ("default" where no source sets it)."""

    setting: Setting
    value: object
    source: str


@dataclass(frozen=True, slots=True)
class Config:
    """The records of all components, and every setting with its source."""

    records: Mapping[RecordType, object]
    values: tuple[SettingValue, ...]
    notices: tuple[str, ...] = ()
    """One sentence for each setting of ollama-herd that is set and has no effect here."""

    def of(self, record: type[RecordT]) -> RecordT:
        """One component's record, for example `config.of(HoldingSettings)`."""
        found = self.records[record]
        assert isinstance(found, record)
        return found

    def compose(self, whole: type[RecordT]) -> RecordT:
        """The record that consists of components' records, see `parts_of`."""
        parts = {name: self.records[part] for name, part in _parts(whole)}
        return whole(**parts)

    def describe(self) -> list[dict[str, str]]:
        """One row per setting for `herd config`, see `describe`."""
        return describe(self.values)


def describe(values: Sequence[SettingValue]) -> list[dict[str, str]]:
    """One row per setting: key, value, source, default, expects, help. Secrets are masked."""
    return [
        {
            "key": value.setting.env,
            "value": _format(value.setting, value.value),
            "source": value.source,
            "default": _format(value.setting, value.setting.default),
            "expects": value.setting.expects,
            "help": value.setting.help,
        }
        for value in values
    ]


def load(
    records: Sequence[RecordType],
    environ: Mapping[str, str],
    env_file: Path | None = ENV_FILE,
    flags: Mapping[str, RawValue] | None = None,
    prefix: str = COORDINATOR_PREFIX,
    dashboard: Mapping[str, RawValue] | None = None,
) -> Config:
    """Builds one instance of each record. Raises `ConfigError` with all problems.

    `flags` has the values from the command line and `dashboard` those from settings.env, both by public name. A name
    that starts with `prefix` and is not a setting is a problem. The coordinator ignores names that start with
    `FLEET_NODE_`: they are the agent's, and both processes read the same file.
    """
    settings = [setting for record in records for setting in settings_of(record)]
    names = [setting.env for setting in settings]
    assert len(names) == len(set(names)), "two settings have the same name: " + ", ".join(
        {n for n in names if names.count(n) > 1}
    )
    problems: list[str] = []
    raw = _raw_values(environ, env_file, dashboard or {}, flags or {}, problems)
    _replace_names(raw)
    problems.extend(_unknown(raw, set(names), prefix))
    values = [_convert(setting, raw.get(setting.env), problems) for setting in settings]
    built: dict[RecordType, object] = {}
    for record in records:
        fields = {known.setting.name: known.value for known in values if known.setting.record is record}
        try:
            built[record] = record(**fields)
        except ValueError as error:
            problems.append(str(error))
    if problems:
        raise ConfigError(problems, values)
    return Config(types.MappingProxyType(built), tuple(values), _notices(raw, prefix))


def parts_of(whole: RecordType) -> list[RecordType]:
    """The components' records that this record consists of, in field order: the first argument of `load`."""
    return [part for _, part in _parts(whole)]


def _parts(whole: RecordType) -> list[tuple[str, RecordType]]:
    kinds = typing.get_type_hints(whole)
    return [(f.name, kinds[f.name]) for f in dataclasses.fields(whole) if dataclasses.is_dataclass(kinds[f.name])]


def settings_of(record: RecordType) -> list[Setting]:
    """The settings of one record, in field order. A field without `env` is not a setting and keeps its default."""
    kinds = typing.get_type_hints(record)
    return [
        _setting(record, field, kinds[field.name]) for field in dataclasses.fields(record) if "env" in field.metadata
    ]


def documentation(records: Sequence[RecordType]) -> str:
    """A Markdown table of every setting, sorted by name: the body of docs/settings.md."""
    settings = sorted(
        (setting for record in records for setting in settings_of(record)), key=lambda setting: setting.env
    )
    rows = [
        (f"`{setting.env}`", _code(_format(setting, setting.default)), setting.expects, setting.help)
        for setting in settings
    ]
    lines = [f"| {' | '.join(row)} |".replace("  |", " |") for row in rows]
    return "\n".join(["| name | default | value | description |", "|---|---|---|---|", *lines]) + "\n"


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


def read_env_file(path: Path, problems: list[str]) -> dict[str, RawValue]:
    """Reads KEY=value lines, with comments, `export` and quotes as in a shell. A missing file is empty.

    Problems are appended to `problems`.
    """
    path = path.expanduser()
    try:
        with path.open("rb") as file:
            data = file.read(ENV_FILE_MAX_BYTES + 1)
        text = data.decode("utf-8-sig")
    except FileNotFoundError:
        return {}
    except OSError as error:
        problems.append(f"{path} cannot be read: {error.strerror or error}")
        return {}
    except UnicodeDecodeError:
        problems.append(f"{path} is not UTF-8 text")
        return {}
    if len(data) > ENV_FILE_MAX_BYTES:
        problems.append(f"{path} is larger than {ENV_FILE_MAX_BYTES // 1024} kB, the maximum size of a settings file")
        return {}
    values: dict[str, RawValue] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        _read_line(line, f"{path} line {number}", values, problems)
    return values


def _read_line(line: str, source: str, values: dict[str, RawValue], problems: list[str]) -> None:
    line = line.strip()
    if not line or line.startswith("#"):
        return
    key, equals, value = line.removeprefix("export ").partition("=")
    key = key.strip()
    if not equals or not key.isidentifier():
        problems.append(f"{source} is not KEY=value")
        return
    text = _unquoted(value.strip())
    if text is None:
        problems.append(f"{source}: the quote that opens the value of {key} is never closed")
        return
    values[key] = RawValue(text, source)


def _unquoted(value: str) -> str | None:
    """The value without its quotes and without a trailing comment; None if a quote is not closed."""
    if value[:1] not in ("'", '"'):
        return value.partition(" #")[0].rstrip()
    if quoted := _QUOTED.match(value):
        return quoted["single"] if value[0] == "'" else _ESCAPED.sub(r"\1", quoted["double"])
    is_path = value.endswith('\\"') and value.count('"') == 2  # of a folder on Windows
    return value[1:-1] if is_path else None


def _raw_values(
    environ: Mapping[str, str],
    env_file: Path | None,
    dashboard: Mapping[str, RawValue],
    flags: Mapping[str, RawValue],
    problems: list[str],
) -> dict[str, RawValue]:
    in_file = _in_capitals(read_env_file(env_file, problems) if env_file is not None else {})
    raw = {key: value for key, value in in_file.items() if key.startswith(COORDINATOR_PREFIX)}
    raw.update(dashboard)
    raw.update(
        {
            key: RawValue(text, "environment")
            for key, text in _in_capitals(environ).items()
            if key.startswith(COORDINATOR_PREFIX)
        }
    )
    raw.update(flags)
    return raw


def _in_capitals(values: Mapping[str, Value]) -> dict[str, Value]:
    """Names as settings are written: ollama-herd accepts them in lower case too. A name in capitals wins."""
    return {name.upper(): value for name, value in values.items()} | {
        name: value for name, value in values.items() if name.isupper()
    }


def _replace_names(raw: dict[str, RawValue]) -> None:
    """Gives settings of ollama-herd the names that they have here. A setting under its own name wins."""
    for name, replacement in ollama_herd_settings.REPLACED.items():
        given = raw.pop(name, None)
        text = replacement.value(given.text) if given is not None else None
        if given is not None and text is not None and replacement.env not in raw:
            raw[replacement.env] = RawValue(text, f"{name}, {given.source}")


def _notices(raw: Mapping[str, RawValue], prefix: str) -> tuple[str, ...]:
    return tuple(
        f"{name} ({raw[name].source}): known, no effect here, because {reason}"
        for name, reason in ollama_herd_settings.WITHOUT_EFFECT.items()
        if name in raw and raw[name].text.strip() and name.startswith(AGENT_PREFIX) == (prefix == AGENT_PREFIX)
    )


def _unknown(raw: Mapping[str, RawValue], known: set[str], prefix: str) -> list[str]:
    """A problem for each name that is not a setting, with the most similar name that is one."""
    accepted = known | ollama_herd_settings.ALL
    problems = []
    for key in sorted(raw):
        is_agents = prefix == COORDINATOR_PREFIX and key.startswith(AGENT_PREFIX)
        if key in accepted or is_agents or not key.startswith(prefix):
            continue
        similar = difflib.get_close_matches(key, sorted(accepted), n=1, cutoff=SIMILARITY_MIN)
        hint = f", did you mean {similar[0]}?" if similar else "; list all settings with: herd config"
        problems.append(f"{key} ({raw[key].source}) is not a setting{hint}")
    return problems


def _convert(setting: Setting, raw: RawValue | None, problems: list[str]) -> SettingValue:
    if raw is None or (not raw.text.strip() and not _may_be_empty(setting.kind)):
        # An empty value in a compose file means "not set", not zero.
        return SettingValue(setting, _default(setting), "default")
    try:
        return SettingValue(setting, _converted(setting, raw.text.strip()), raw.source)
    except (ValueError, OverflowError):
        text = "(secret)" if setting.secret else repr(raw.text[:80])
        problems.append(f"{setting.env}={text} ({raw.source}): expected {setting.expects}")
        return SettingValue(setting, _default(setting), f"default, because the value from {raw.source} is invalid")


def _converted(setting: Setting, text: str) -> object:
    """Raises `ValueError` if the text is not what the setting expects."""
    if not text and _is_optional(setting.kind):
        return None
    if setting.choices:
        for choice in setting.choices:
            if text.lower() == choice.lower():
                return choice
        raise ValueError(text)
    value = _CONVERT[_without_none(setting.kind)](text)
    if isinstance(value, int | float) and not isinstance(value, bool):
        if setting.minimum is not None and value < setting.minimum:
            raise ValueError(text)
        if setting.maximum is not None and value > setting.maximum:
            raise ValueError(text)
    return value


def _setting(record: RecordType, field: dataclasses.Field[object], kind: object) -> Setting:
    """Raises `TypeError` for a field that cannot be read from text: an error in the source code, found at start."""
    metadata = field.metadata
    if _without_none(kind) not in _CONVERT:
        raise TypeError(f"{record.__name__}.{field.name}: settings of the type {kind} are not supported")
    default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    if default is dataclasses.MISSING:
        raise TypeError(f"{record.__name__}.{field.name}: a setting needs a default")
    return Setting(
        env=metadata["env"],
        help=metadata["help"],
        record=record,
        name=field.name,
        kind=kind,
        default=default,
        minimum=metadata.get("min"),
        maximum=metadata.get("max"),
        choices=tuple(metadata.get("choices", ())),
        secret=bool(metadata.get("secret", False)),
    )


def _default(setting: Setting) -> object:
    return setting.default.expanduser() if isinstance(setting.default, Path) else setting.default


def _is_optional(kind: object) -> bool:
    return type(None) in typing.get_args(kind)


def _without_none(kind: object) -> object:
    """The type in `T | None`; any other type unchanged."""
    inner = [part for part in typing.get_args(kind) if part is not type(None)]
    return inner[0] if _is_optional(kind) and len(inner) == 1 else kind


def _may_be_empty(kind: object) -> bool:
    return _is_optional(kind) or _without_none(kind) in (str, tuple[str, ...])


def _format(setting: Setting, value: object) -> str:
    if setting.secret:
        return "(set)" if value else ""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) and value < 1e6 else str(value)


def _plain(number: float) -> str:
    """0.01, 1000000: never with an exponent."""
    return f"{number:.0f}" if float(number).is_integer() else f"{number:g}"


def _bool(text: str) -> bool:
    lower = text.lower()
    if lower not in _TRUE | _FALSE:
        raise ValueError(text)
    return lower in _TRUE


def _int(text: str) -> int:
    """As in ollama-herd, 2.0 is the whole number 2."""
    whole, _, zeros = text.partition(".")
    return int(whole if zeros and not zeros.strip("0") else text)


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


def _split_list(text: str) -> tuple[str, ...]:
    return tuple(part for part in map(str.strip, text.split(",")) if part)


def _path(text: str) -> Path:
    return Path(text).expanduser()


_CONVERT: Mapping[object, Callable[[str], object]] = types.MappingProxyType(
    {bool: _bool, int: _int, float: _float, str: str, Path: _path, tuple[str, ...]: _split_list}
)
_KIND_NAMES: Mapping[object, str] = types.MappingProxyType(
    {
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        str: "text",
        Path: "a path",
        tuple[str, ...]: "a comma-separated list",
    }
)
