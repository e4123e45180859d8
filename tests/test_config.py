"""Settings come from four places, each value knows which, and everything that is wrong is told at once."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from herd import config
from herd.config import (
    AGENT_PREFIX,
    NOT_OURS_YET,
    Config,
    ConfigError,
    Given,
    documentation,
    load,
    parts_of,
    settings_of,
)


@dataclass(frozen=True, slots=True)
class Door:
    port: int = field(
        default=11435, metadata={"env": "FLEET_PORT", "help": "Port to listen on.", "min": 0, "max": 65535}
    )
    host: str = field(default="0.0.0.0", metadata={"env": "FLEET_HOST", "help": "Address to listen on."})
    folder: Path = field(default=Path("~/.fleet-manager"), metadata={"env": "FLEET_DATA_DIR", "help": "Folder."})
    not_for_people: int = 7


@dataclass(frozen=True, slots=True)
class Taste:
    open: bool = field(default=False, metadata={"env": "FLEET_OPEN", "help": "Anybody may join."})
    patience_s: float = field(default=2.5, metadata={"env": "FLEET_PATIENCE", "help": "Seconds.", "min": 0.5})
    pinned: tuple[str, ...] = field(default=(), metadata={"env": "FLEET_PINNED_MODELS", "help": "Models."})
    limit: int | None = field(default=None, metadata={"env": "FLEET_LIMIT", "help": "None means no limit.", "max": 10})
    mode: str = field(default="strip", metadata={"env": "FLEET_MODE", "help": "How.", "choices": ("strip", "warn")})
    key: str = field(default="", metadata={"env": "FLEET_KEY", "help": "A key.", "secret": True})

    def __post_init__(self) -> None:
        if self.patience_s > 100 and not self.open:
            raise ValueError("FLEET_PATIENCE may only be above 100 with FLEET_OPEN")


@dataclass(frozen=True, slots=True)
class Whole:
    door: Door = field(default_factory=Door)
    taste: Taste = field(default_factory=Taste)
    name: str = "a field that is no record"


BOTH = (Door, Taste)


def loaded(
    tmp_path: Path, file: str = "", flags: dict[str, Given] | None = None, prefix: str = "FLEET_", **environ: str
) -> Config:
    (tmp_path / "env").write_text(file, encoding="utf-8")
    return load(BOTH, environ, tmp_path / "env", flags, prefix)


def problems(tmp_path: Path, file: str = "", prefix: str = "FLEET_", **environ: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, file, prefix=prefix, **environ)
    return caught.value.problems


def source_of(settings: Config, env: str) -> str:
    return next(row["source"] for row in settings.describe() if row["key"] == env)


def test_without_anything_every_setting_has_its_default() -> None:
    settings = load(BOTH, {}, None)
    assert settings.of(Door) == Door(folder=Path("~/.fleet-manager").expanduser())
    assert settings.of(Taste) == Taste()
    assert {row["source"] for row in settings.describe()} == {"default"}


def test_the_later_place_wins_and_each_value_remembers_its_own(tmp_path: Path) -> None:
    file = "FLEET_PORT=1\nFLEET_HOST=file\nFLEET_OPEN=true\n"
    flags = {"FLEET_PORT": Given("3", "--port")}
    settings = loaded(tmp_path, file, flags, FLEET_PORT="2", FLEET_HOST="shell")
    assert (settings.of(Door).port, settings.of(Door).host, settings.of(Taste).open) == (3, "shell", True)
    assert source_of(settings, "FLEET_PORT") == "--port"
    assert source_of(settings, "FLEET_HOST") == "environment"
    assert source_of(settings, "FLEET_OPEN") == f"{tmp_path / 'env'} line 3"
    assert source_of(settings, "FLEET_DATA_DIR") == "default"


def test_every_type_is_read_from_text(tmp_path: Path) -> None:
    settings = loaded(
        tmp_path,
        FLEET_OPEN="Yes",
        FLEET_PATIENCE=" 3.5 ",
        FLEET_PINNED_MODELS="a:1, b ,,c",
        FLEET_LIMIT="-4",
        FLEET_MODE="WARN",
        FLEET_DATA_DIR="~/elsewhere",
    )
    assert settings.of(Taste) == Taste(True, 3.5, ("a:1", "b", "c"), -4, "warn")
    assert settings.of(Door).folder == Path("~/elsewhere").expanduser()


def test_an_empty_value_means_not_set_where_empty_means_nothing(tmp_path: Path) -> None:
    settings = loaded(tmp_path, FLEET_PORT="", FLEET_LIMIT=" ", FLEET_HOST="", FLEET_PINNED_MODELS="", FLEET_OPEN="")
    assert settings.of(Door).port == 11435 and settings.of(Door).host == ""
    assert settings.of(Taste).limit is None and settings.of(Taste).pinned == () and settings.of(Taste).open is False


@pytest.mark.parametrize(
    ("env", "text", "expected"),
    [
        ("FLEET_PORT", "eighty", "a whole number from 0 to 65535"),
        ("FLEET_PORT", "1.5", "a whole number from 0 to 65535"),
        ("FLEET_PORT", "65536", "a whole number from 0 to 65535"),
        ("FLEET_PORT", "-1", "a whole number from 0 to 65535"),
        ("FLEET_PATIENCE", "nan", "a number of at least 0.5"),
        ("FLEET_PATIENCE", "inf", "a number of at least 0.5"),
        ("FLEET_PATIENCE", "0.4", "a number of at least 0.5"),
        ("FLEET_LIMIT", "11", "a whole number of at most 10"),
        ("FLEET_OPEN", "maybe", "true or false"),
        ("FLEET_MODE", "loud", "one of strip, warn"),
    ],
)
def test_a_wrong_value_names_key_value_source_and_what_is_expected(
    tmp_path: Path, env: str, text: str, expected: str
) -> None:
    (problem,) = problems(tmp_path, **{env: text})
    assert problem == f"{env}='{text}' (environment): expected {expected}"


def test_a_secret_is_never_shown(tmp_path: Path) -> None:
    settings = loaded(tmp_path, FLEET_KEY="hunter2")
    assert settings.of(Taste).key == "hunter2"
    assert "hunter2" not in str(settings.describe())
    assert next(row["value"] for row in settings.describe() if row["key"] == "FLEET_KEY") == "(set)"


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("FLEET_PROT", "did you mean FLEET_PORT?"),
        ("FLEET_PINED_MODELS", "did you mean FLEET_PINNED_MODELS?"),
        ("FLEET_ZZZZZZ", "`herd config` lists those that are"),
    ],
)
def test_an_unknown_name_is_an_error_with_the_nearest_one(tmp_path: Path, key: str, hint: str) -> None:
    (problem,) = problems(tmp_path, file=f"\n{key}=1\n")
    assert problem.startswith(f"{key} ({tmp_path / 'env'} line 2) is not a setting") and problem.endswith(hint)


def test_names_of_the_existing_product_that_nobody_reads_are_accepted(tmp_path: Path) -> None:
    loaded(tmp_path, **dict.fromkeys(NOT_OURS_YET - {"FLEET_PINNED_MODELS"}, "whatever"))


def test_the_agents_names_do_not_disturb_the_coordinator_nor_the_other_way_round(tmp_path: Path) -> None:
    loaded(tmp_path, FLEET_NODE_ANYTHING="1", OTHER="x")
    loaded(tmp_path, prefix=AGENT_PREFIX, FLEET_ANYTHING="1")
    assert "FLEET_NODE_ANYTHING" in problems(tmp_path, prefix=AGENT_PREFIX, FLEET_NODE_ANYTHING="1")[0]


def test_everything_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, "FLEET_MODE=loud\nnonsense\n", FLEET_PORT="x", FLEET_PROT="1")
    assert len(caught.value.problems) == 4
    assert str(caught.value).startswith("4 settings are wrong:\n  - ")
    assert len(str(caught.value).splitlines()) == 5


def test_a_record_may_refuse_what_does_not_go_together(tmp_path: Path) -> None:
    assert problems(tmp_path, FLEET_PATIENCE="200") == ("FLEET_PATIENCE may only be above 100 with FLEET_OPEN",)


def test_a_file_is_read_as_a_shell_would(tmp_path: Path) -> None:
    file = """\ufeff# a comment
export FLEET_PORT = 8080   # behind a value

FLEET_HOST="a b # not a comment"  # a comment
FLEET_KEY='it"s=#1'
FLEET_PINNED_MODELS=a#b,c
OLLAMA_HOST=somebody else's
"""
    settings = loaded(tmp_path, file)
    assert (settings.of(Door).port, settings.of(Door).host) == (8080, "a b # not a comment")
    assert (settings.of(Taste).key, settings.of(Taste).pinned) == ('it"s=#1', ("a#b", "c"))


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("FLEET_PORT", "line 1 is not KEY=value"),
        ("=3", "line 1 is not KEY=value"),
        ("FLEET_HOST='x", "quote that opens the value of FLEET_HOST"),
    ],
)
def test_a_line_that_is_no_setting_is_named(tmp_path: Path, line: str, complaint: str) -> None:
    assert complaint in problems(tmp_path, file=line)[0]


def test_a_file_that_cannot_be_read_is_said_and_a_missing_one_is_fine(tmp_path: Path) -> None:
    load(BOTH, {}, tmp_path / "missing")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="is not UTF-8 text"):
        load(BOTH, {}, tmp_path / "binary")
    with pytest.raises(ConfigError, match="cannot be read"):
        load(BOTH, {}, tmp_path)
    (tmp_path / "huge").write_bytes(b"#" * (config.ENV_FILE_MAX_BYTES + 1))
    with pytest.raises(ConfigError, match="larger than 256 kB"):
        load(BOTH, {}, tmp_path / "huge")


def test_a_composition_root_gets_its_record_of_records(tmp_path: Path) -> None:
    assert parts_of(Whole) == [Door, Taste]
    whole = loaded(tmp_path, FLEET_PORT="1").compose(Whole)
    assert (whole.door.port, whole.taste, whole.name) == (1, Taste(), "a field that is no record")


def test_documentation_has_a_row_for_every_setting() -> None:
    lines = documentation(BOTH).splitlines()
    assert len(lines) == 2 + len(settings_of(Door)) + len(settings_of(Taste))
    assert "| `FLEET_PORT` | `11435` | a whole number from 0 to 65535 | Port to listen on. |" in lines
    assert "| `FLEET_KEY` | | text | A key. |" in lines
    assert lines[2:] == sorted(lines[2:])
    assert not re.search(str(Path.home()), "\n".join(lines))


def test_mistakes_in_a_record_are_found_at_start() -> None:
    @dataclass(frozen=True, slots=True)
    class Wrong:
        when: complex = field(default=1j, metadata={"env": "FLEET_WHEN", "help": "?"})

    @dataclass(frozen=True, slots=True)
    class Twin:
        port: int = field(default=1, metadata={"env": "FLEET_PORT", "help": "?"})

    with pytest.raises(TypeError, match=r"Wrong\.when"):
        load([Wrong], {}, None)
    with pytest.raises(AssertionError, match="FLEET_PORT"):
        load([Door, Twin], {}, None)
