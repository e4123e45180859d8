"""Which value each setting has and where it came from. Knows no setting: it is given the components' records.

    default  <  ~/.fleet-manager/env  <  set in the dashboard  <  environment  <  flag

A record is a frozen dataclass whose fields carry metadata: `env` (the public name), `help` (one sentence), and where
they apply `min`, `max`, `choices`, `secret`. Whatever is wrong is collected and told at once, as one list.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

ENV_FILE = Path("~/.fleet-manager/env")
ENV_FILE_MAX_BYTES = 256 * 1024
COORDINATOR_PREFIX = "FLEET_"
AGENT_PREFIX = "FLEET_NODE_"
SUGGESTION_LIKENESS = 0.75
_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})

NOT_OURS_YET = frozenset(
    {
        "FLEET_HEARTBEAT_INTERVAL",
        "FLEET_HEARTBEAT_TIMEOUT",
        "FLEET_HEARTBEAT_OFFLINE",
        "FLEET_MAX_RETRIES",
        "FLEET_STALE_TIMEOUT",
        "FLEET_CONTEXT_PROTECTION",
        "FLEET_DYNAMIC_NUM_CTX",
        "FLEET_NUM_CTX_AUTO_CALCULATE",
        "FLEET_AUTO_PULL",
        "FLEET_AUTO_PULL_TIMEOUT",
        "FLEET_VRAM_FALLBACK",
        "FLEET_PRE_WARM_THRESHOLD",
        "FLEET_PRE_WARM_MIN_AVAILABILITY",
        "FLEET_REBALANCE_INTERVAL",
        "FLEET_REBALANCE_THRESHOLD",
        "FLEET_REBALANCE_MAX_PER_CYCLE",
        "FLEET_PINNED_MODELS",
        "FLEET_MODEL_PRELOAD_MAX_COUNT",
        "FLEET_THINKING_OVERHEAD",
        "FLEET_THINKING_MIN_PREDICT",
        "FLEET_ANTHROPIC_MODEL_MAP",
        "FLEET_IMAGE_GENERATION",
        "FLEET_TRANSCRIPTION",
        "FLEET_NODE_NODE_ID",
        "FLEET_NODE_OLLAMA_HOST",
        "FLEET_NODE_ROUTER_URL",
        "FLEET_NODE_HEARTBEAT_INTERVAL",
        "FLEET_NODE_ENABLE_CAPACITY_LEARNING",
        "FLEET_NODE_DATA_DIR",
    }
)
"""Names that people have in their environment files from the existing product: accepted, whether or not a record reads them."""

RecordT = TypeVar("RecordT", bound="DataclassInstance")
RecordType = type["DataclassInstance"]


class ConfigError(Exception):
    """Settings that cannot be used. `problems` are sentences for a person; the message is the whole list."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        head = "a setting is wrong" if len(problems) == 1 else f"{len(problems)} settings are wrong"
        super().__init__("\n  - ".join([f"{head}:", *problems]))


@dataclass(frozen=True, slots=True)
class Given:
    """A value as somebody wrote it, and where: "environment", "/home/ann/.fleet-manager/env line 3", "--port"."""

    text: str
    source: str


@dataclass(frozen=True, slots=True)
class Setting:
    """One field of one record: all that documentation and errors need to say of it."""

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
        words = _WORDS.get(_bare(self.kind), "text")
        if self.minimum is not None and self.maximum is not None:
            return f"{words} from {self.minimum:g} to {self.maximum:g}"
        if self.minimum is not None:
            return f"{words} of at least {self.minimum:g}"
        return f"{words} of at most {self.maximum:g}" if self.maximum is not None else words


@dataclass(frozen=True, slots=True)
class Chosen:
    """A setting, its value and the value's source ("default" where nobody gave one)."""

    setting: Setting
    value: object
    source: str


@dataclass(frozen=True, slots=True)
class Config:
    """The finished records. `config.of(HoldingSettings)` hands a component its own."""

    records: Mapping[RecordType, object]
    chosen: tuple[Chosen, ...]

    def of(self, record: type[RecordT]) -> RecordT:
        found = self.records[record]
        assert isinstance(found, record)
        return found

    def compose(self, whole: type[RecordT]) -> RecordT:
        """The record of records that a composition root takes: see `parts_of`."""
        parts = {name: self.records[part] for name, part in _parts(whole)}
        return whole(**parts)

    def describe(self) -> list[dict[str, str]]:
        """One row a setting for `herd config`: key, value, source, default, expects, help. Secrets are masked."""
        return [
            {
                "key": chosen.setting.env,
                "value": _shown(chosen.setting, chosen.value),
                "source": chosen.source,
                "default": _shown(chosen.setting, chosen.setting.default),
                "expects": chosen.setting.expects,
                "help": chosen.setting.help,
            }
            for chosen in self.chosen
        ]


def load(
    records: Sequence[RecordType],
    environ: Mapping[str, str],
    env_file: Path | None = ENV_FILE,
    flags: Mapping[str, Given] | None = None,
    prefix: str = COORDINATOR_PREFIX,
    here: Mapping[str, Given] | None = None,
) -> Config:
    """Builds one instance of each record. Raises `ConfigError` with everything that is wrong.

    `flags` maps public names to what the command line gave. Unknown names under `prefix` are errors; the coordinator
    `here` is what was set in the dashboard; the coordinator
    leaves alone what begins with `FLEET_NODE_`, which is the agent's, since both read the same file.
    """
    settings = [setting for record in records for setting in settings_of(record)]
    names = [setting.env for setting in settings]
    assert len(names) == len(set(names)), "two settings share one name: " + ", ".join(
        {n for n in names if names.count(n) > 1}
    )
    problems: list[str] = []
    given = _given(environ, env_file, here or {}, flags or {}, problems)
    problems.extend(_unknown(given, set(names), prefix))
    chosen = [_choose(setting, given.get(setting.env), problems) for setting in settings]
    built: dict[RecordType, object] = {}
    for record in records:
        values = {c.setting.name: c.value for c in chosen if c.setting.record is record}
        try:
            built[record] = record(**values)
        except ValueError as error:
            problems.append(str(error))
    if problems:
        raise ConfigError(problems)
    return Config(types.MappingProxyType(built), tuple(chosen))


def parts_of(whole: RecordType) -> list[RecordType]:
    """The components' records that a composition root's record is made of, in their order: what `load` is to be given."""
    return [part for _, part in _parts(whole)]


def _parts(whole: RecordType) -> list[tuple[str, RecordType]]:
    kinds = typing.get_type_hints(whole)
    return [(f.name, kinds[f.name]) for f in dataclasses.fields(whole) if dataclasses.is_dataclass(kinds[f.name])]


def settings_of(record: RecordType) -> list[Setting]:
    """The settings of one record, in the order of its fields. Fields without `env` are not for people and keep their default."""
    kinds = typing.get_type_hints(record)
    return [
        _setting(record, field, kinds[field.name]) for field in dataclasses.fields(record) if "env" in field.metadata
    ]


def documentation(records: Sequence[RecordType]) -> str:
    """A Markdown table of every setting, sorted by name: the body of docs/settings.md."""
    rows = sorted((s for record in records for s in settings_of(record)), key=lambda setting: setting.env)
    lines = [
        f"| `{s.env}` | {f'`{shown}`' if (shown := _shown(s, s.default)) else ''} | {s.expects} | {s.help} |".replace(
            "  |", " |"
        )
        for s in rows
    ]
    return "\n".join(["| name | default | value | meaning |", "|---|---|---|---|", *lines]) + "\n"


def read_env_file(path: Path, problems: list[str]) -> dict[str, Given]:
    """KEY=value lines; `#` comments, `export` and quotes as in a shell. Complaints are appended; a missing file is none."""
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
        problems.append(f"{path} is larger than {ENV_FILE_MAX_BYTES // 1024} kB, which no settings file is")
        return {}
    found: dict[str, Given] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        _read_line(line, f"{path} line {number}", found, problems)
    return found


def _read_line(line: str, place: str, found: dict[str, Given], problems: list[str]) -> None:
    line = line.strip()
    if not line or line.startswith("#"):
        return
    key, equals, value = line.removeprefix("export ").partition("=")
    key = key.strip()
    if not equals or not key.isidentifier():
        problems.append(f"{place} is not KEY=value")
        return
    text = _unquoted(value.strip())
    if text is None:
        problems.append(f"{place}: the quote that opens the value of {key} is never closed")
        return
    found[key] = Given(text, place)


def _unquoted(value: str) -> str | None:
    """The value without its quotes or the comment behind it; None when a quote stays open."""
    if value[:1] in ("'", '"'):
        end = value.find(value[0], 1)
        rest = value[end + 1 :].strip()
        return value[1:end] if end > 0 and (not rest or rest.startswith("#")) else None
    return value.partition(" #")[0].rstrip()


def _given(
    environ: Mapping[str, str],
    env_file: Path | None,
    here: Mapping[str, Given],
    flags: Mapping[str, Given],
    problems: list[str],
) -> dict[str, Given]:
    given = read_env_file(env_file, problems) if env_file is not None else {}
    given = {key: value for key, value in given.items() if key.startswith(COORDINATOR_PREFIX)}
    given.update(here)
    given.update(
        {key: Given(text, "environment") for key, text in environ.items() if key.startswith(COORDINATOR_PREFIX)}
    )
    given.update(flags)
    return given


def _unknown(given: Mapping[str, Given], known: set[str], prefix: str) -> list[str]:
    problems = []
    for key in sorted(given):
        is_others = prefix == COORDINATOR_PREFIX and key.startswith(AGENT_PREFIX)
        if key in known or key in NOT_OURS_YET or is_others or not key.startswith(prefix):
            continue
        likely = difflib.get_close_matches(key, sorted(known | NOT_OURS_YET), n=1, cutoff=SUGGESTION_LIKENESS)
        hint = f", did you mean {likely[0]}?" if likely else "; `herd config` lists those that are"
        problems.append(f"{key} ({given[key].source}) is not a setting{hint}")
    return problems


def _choose(setting: Setting, given: Given | None, problems: list[str]) -> Chosen:
    if given is None or (not given.text.strip() and not _may_be_empty(setting.kind)):
        # An empty line in a compose file means "not set", not "zero".
        return Chosen(setting, _default(setting), "default")
    try:
        return Chosen(setting, _converted(setting, given.text.strip()), given.source)
    except (ValueError, OverflowError):
        shown = "(secret)" if setting.secret else repr(given.text[:80])
        problems.append(f"{setting.env}={shown} ({given.source}): expected {setting.expects}")
        return Chosen(setting, _default(setting), "default")


def _converted(setting: Setting, text: str) -> object:
    """Raises `ValueError` when the text is not what the setting expects."""
    if not text and _is_optional(setting.kind):
        return None
    bare = _bare(setting.kind)
    if setting.choices:
        for choice in setting.choices:
            if text.lower() == choice.lower():
                return choice
        raise ValueError(text)
    value = _CONVERT[bare](text)
    if isinstance(value, int | float) and not isinstance(value, bool):
        if setting.minimum is not None and value < setting.minimum:
            raise ValueError(text)
        if setting.maximum is not None and value > setting.maximum:
            raise ValueError(text)
    return value


def _setting(record: RecordType, field: dataclasses.Field[object], kind: object) -> Setting:
    """Raises `TypeError` for a field that cannot be read from text: a mistake in the source, found at start."""
    told = field.metadata
    if _bare(kind) not in _CONVERT:
        raise TypeError(f"{record.__name__}.{field.name}: settings of the type {kind} are not supported")
    default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    if default is dataclasses.MISSING:
        raise TypeError(f"{record.__name__}.{field.name}: a setting needs a default")
    return Setting(
        told["env"],
        told["help"],
        record,
        field.name,
        kind,
        default,
        told.get("min"),
        told.get("max"),
        tuple(told.get("choices", ())),
        bool(told.get("secret", False)),
    )


def _default(setting: Setting) -> object:
    return setting.default.expanduser() if isinstance(setting.default, Path) else setting.default


def _is_optional(kind: object) -> bool:
    return type(None) in typing.get_args(kind)


def _bare(kind: object) -> object:
    """`int | None` without its None."""
    inner = [part for part in typing.get_args(kind) if part is not type(None)]
    return inner[0] if _is_optional(kind) and len(inner) == 1 else kind


def _may_be_empty(kind: object) -> bool:
    return _is_optional(kind) or _bare(kind) in (str, tuple[str, ...])


def _shown(setting: Setting, value: object) -> str:
    if setting.secret:
        return "(set)" if value else ""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) and value < 1e6 else str(value)


def _bool(text: str) -> bool:
    lower = text.lower()
    if lower not in _TRUE | _FALSE:
        raise ValueError(text)
    return lower in _TRUE


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


def _words(text: str) -> tuple[str, ...]:
    return tuple(part for part in map(str.strip, text.split(",")) if part)


def _path(text: str) -> Path:
    return Path(text).expanduser()


_CONVERT: Mapping[object, Callable[[str], object]] = types.MappingProxyType(
    {bool: _bool, int: int, float: _float, str: str, Path: _path, tuple[str, ...]: _words}
)
_WORDS: Mapping[object, str] = types.MappingProxyType(
    {
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        str: "text",
        Path: "a path",
        tuple[str, ...]: "a list with commas",
    }
)
