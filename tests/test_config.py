"""Tests the sources of settings, their order, the conversion from text, and the list of problems."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from herd import config
from herd.config import AGENT_PREFIX, Config, ConfigError, RawValue, documentation, load, parts_of, settings_of


@dataclass(frozen=True, slots=True)
class ServerSettings:
    port: int = field(
        default=11435, metadata={"env": "FLEET_PORT", "help": "Port to listen on.", "min": 0, "max": 65535}
    )
    host: str = field(default="0.0.0.0", metadata={"env": "FLEET_HOST", "help": "Address to listen on."})
    folder: Path = field(default=Path("~/.fleet-manager"), metadata={"env": "FLEET_DATA_DIR", "help": "Folder."})
    not_a_setting: int = 7


@dataclass(frozen=True, slots=True)
class OtherSettings:
    open: bool = field(default=False, metadata={"env": "FLEET_OPEN", "help": "Accept any node."})
    wait_max_s: float = field(default=2.5, metadata={"env": "FLEET_WAIT_MAX", "help": "Seconds.", "min": 0.5})
    pinned: tuple[str, ...] = field(default=(), metadata={"env": "FLEET_PINNED_MODELS", "help": "Models."})
    limit: int | None = field(default=None, metadata={"env": "FLEET_LIMIT", "help": "None means no limit.", "max": 10})
    mode: str = field(default="strip", metadata={"env": "FLEET_MODE", "help": "How.", "choices": ("strip", "warn")})
    key: str = field(default="", metadata={"env": "FLEET_KEY", "help": "A key.", "secret": True})

    def __post_init__(self) -> None:
        if self.wait_max_s > 100 and not self.open:
            raise ValueError("FLEET_WAIT_MAX may only be above 100 with FLEET_OPEN")


@dataclass(frozen=True, slots=True)
class AllSettings:
    server: ServerSettings = field(default_factory=ServerSettings)
    other: OtherSettings = field(default_factory=OtherSettings)
    name: str = "not a record"


RECORDS = (ServerSettings, OtherSettings)


def loaded(
    tmp_path: Path, file: str = "", flags: dict[str, RawValue] | None = None, prefix: str = "FLEET_", **environ: str
) -> Config:
    (tmp_path / "env").write_text(file, encoding="utf-8")
    return load(RECORDS, environ, tmp_path / "env", flags, prefix)


def problems(tmp_path: Path, file: str = "", prefix: str = "FLEET_", **environ: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, file, prefix=prefix, **environ)
    return caught.value.problems


def source_of(settings: Config, env: str) -> str:
    return next(row["source"] for row in settings.describe() if row["key"] == env)


def test_without_any_source_every_setting_has_its_default() -> None:
    settings = load(RECORDS, {}, None)
    assert settings.of(ServerSettings) == ServerSettings(folder=Path("~/.fleet-manager").expanduser())
    assert settings.of(OtherSettings) == OtherSettings()
    assert {row["source"] for row in settings.describe()} == {"default"}


def test_the_dashboards_values_win_over_the_file_and_lose_to_the_environment(tmp_path: Path) -> None:
    (tmp_path / "env").write_text("FLEET_PORT=1\nFLEET_HOST=file\n", encoding="utf-8")
    dashboard = {"FLEET_PORT": RawValue("2", "settings.env"), "FLEET_HOST": RawValue("dashboard", "settings.env")}
    settings = load(RECORDS, {"FLEET_PORT": "3"}, tmp_path / "env", dashboard=dashboard)
    assert (settings.of(ServerSettings).port, settings.of(ServerSettings).host) == (3, "dashboard")
    assert source_of(settings, "FLEET_HOST") == "settings.env"


def test_the_later_source_wins_and_each_value_names_its_source(tmp_path: Path) -> None:
    file = "FLEET_PORT=1\nFLEET_HOST=file\nFLEET_OPEN=true\n"
    flags = {"FLEET_PORT": RawValue("3", "--port")}
    settings = loaded(tmp_path, file, flags, FLEET_PORT="2", FLEET_HOST="shell")
    assert (settings.of(ServerSettings).port, settings.of(ServerSettings).host, settings.of(OtherSettings).open) == (
        3,
        "shell",
        True,
    )
    assert source_of(settings, "FLEET_PORT") == "--port"
    assert source_of(settings, "FLEET_HOST") == "environment"
    assert source_of(settings, "FLEET_OPEN") == f"{tmp_path / 'env'} line 3"
    assert source_of(settings, "FLEET_DATA_DIR") == "default"


def test_every_type_is_converted_from_text(tmp_path: Path) -> None:
    settings = loaded(
        tmp_path,
        FLEET_OPEN="Yes",
        FLEET_WAIT_MAX=" 3.5 ",
        FLEET_PINNED_MODELS="a:1, b ,,c",
        FLEET_LIMIT="-4",
        FLEET_MODE="WARN",
        FLEET_DATA_DIR="~/elsewhere",
    )
    assert settings.of(OtherSettings) == OtherSettings(True, 3.5, ("a:1", "b", "c"), -4, "warn")
    assert settings.of(ServerSettings).folder == Path("~/elsewhere").expanduser()


def test_an_empty_value_means_not_set_unless_the_type_has_an_empty_value(tmp_path: Path) -> None:
    settings = loaded(tmp_path, FLEET_PORT="", FLEET_LIMIT=" ", FLEET_HOST="", FLEET_PINNED_MODELS="", FLEET_OPEN="")
    assert settings.of(ServerSettings).port == 11435 and settings.of(ServerSettings).host == ""
    assert (
        settings.of(OtherSettings).limit is None
        and settings.of(OtherSettings).pinned == ()
        and settings.of(OtherSettings).open is False
    )


@pytest.mark.parametrize(
    ("env", "text", "expected"),
    [
        ("FLEET_PORT", "eighty", "a whole number from 0 to 65535"),
        ("FLEET_PORT", "1.5", "a whole number from 0 to 65535"),
        ("FLEET_PORT", "65536", "a whole number from 0 to 65535"),
        ("FLEET_PORT", "-1", "a whole number from 0 to 65535"),
        ("FLEET_WAIT_MAX", "nan", "a number of at least 0.5"),
        ("FLEET_WAIT_MAX", "inf", "a number of at least 0.5"),
        ("FLEET_WAIT_MAX", "0.4", "a number of at least 0.5"),
        ("FLEET_LIMIT", "11", "a whole number of at most 10"),
        ("FLEET_OPEN", "maybe", "true or false"),
        ("FLEET_MODE", "loud", "one of strip, warn"),
    ],
)
def test_an_invalid_value_is_reported_with_key_source_and_expected_type(
    tmp_path: Path, env: str, text: str, expected: str
) -> None:
    (problem,) = problems(tmp_path, **{env: text})
    assert problem == f"{env}='{text}' (environment): expected {expected}"


def test_a_secret_is_never_shown(tmp_path: Path) -> None:
    settings = loaded(tmp_path, FLEET_KEY="hunter2")
    assert settings.of(OtherSettings).key == "hunter2"
    assert "hunter2" not in str(settings.describe())
    assert next(row["value"] for row in settings.describe() if row["key"] == "FLEET_KEY") == "(set)"


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("FLEET_PROT", "did you mean FLEET_PORT?"),
        ("FLEET_PINED_MODELS", "did you mean FLEET_PINNED_MODELS?"),
        ("FLEET_ZZZZZZ", "list all settings with: herd config"),
    ],
)
def test_an_unknown_name_is_a_problem_and_the_most_similar_name_is_suggested(
    tmp_path: Path, key: str, hint: str
) -> None:
    (problem,) = problems(tmp_path, file=f"\n{key}=1\n")
    assert problem.startswith(f"{key} ({tmp_path / 'env'} line 2) is not a setting") and problem.endswith(hint)


def test_each_process_ignores_the_settings_of_the_other(tmp_path: Path) -> None:
    loaded(tmp_path, FLEET_NODE_ANYTHING="1", OTHER="x")
    loaded(tmp_path, prefix=AGENT_PREFIX, FLEET_ANYTHING="1")
    assert "FLEET_NODE_ANYTHING" in problems(tmp_path, prefix=AGENT_PREFIX, FLEET_NODE_ANYTHING="1")[0]


def test_all_problems_are_reported_together(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, "FLEET_MODE=loud\nnonsense\n", FLEET_PORT="x", FLEET_PROT="1")
    assert len(caught.value.problems) == 4
    assert str(caught.value).startswith("4 settings are invalid:\n  - ")
    assert len(str(caught.value).splitlines()) == 5


def test_a_record_can_reject_a_combination_of_values(tmp_path: Path) -> None:
    assert problems(tmp_path, FLEET_WAIT_MAX="200") == ("FLEET_WAIT_MAX may only be above 100 with FLEET_OPEN",)


def test_an_environment_file_is_read_as_a_shell_reads_it(tmp_path: Path) -> None:
    file = """\ufeff# a comment
export FLEET_PORT = 8080   # after a value

FLEET_HOST="a b # not a comment"  # a comment
FLEET_KEY='it"s=#1'
FLEET_PINNED_MODELS=a#b,c
OLLAMA_HOST=another program's
"""
    settings = loaded(tmp_path, file)
    assert (settings.of(ServerSettings).port, settings.of(ServerSettings).host) == (8080, "a b # not a comment")
    assert (settings.of(OtherSettings).key, settings.of(OtherSettings).pinned) == ('it"s=#1', ("a#b", "c"))


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (r'"{\"default\": \"m\"}" # JSON', '{"default": "m"}'),
        (r'"a \$HOME \\ \n"', r"a $HOME \ \n".replace("\\\\", "\\")),
        (r"'a \" b'", r"a \" b"),
        (r'"C:\herd\data\"', "C:\\herd\\data\\"),
        (r'"C:\herd\data" # a folder', r"C:\herd\data"),
        ('""', ""),
    ],
)
def test_quotes_and_backslashes_are_those_of_a_shell(tmp_path: Path, written: str, read: str) -> None:
    assert loaded(tmp_path, f"FLEET_HOST={written}\n").of(ServerSettings).host == read


def test_values_and_names_may_be_written_as_in_ollama_herd(tmp_path: Path) -> None:
    """Its settings have names in any case, whole numbers such as 2.0, and every word for true and false."""
    settings = loaded(tmp_path, "fleet_port=8000.0\nFleet_Host=a\nFLEET_HOST=b\n", fleet_open="T", fleet_limit="-4.00")
    assert (settings.of(ServerSettings).port, settings.of(ServerSettings).host) == (8000, "b")
    assert (settings.of(OtherSettings).open, settings.of(OtherSettings).limit) == (True, -4)
    for word, is_open in (("y", True), ("t", True), ("N", False), ("f", False)):
        assert loaded(tmp_path, FLEET_OPEN=word).of(OtherSettings).open is is_open
    assert "did you mean FLEET_PORT?" in problems(tmp_path, file="fleet_prot=1\n")[0]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("FLEET_PORT", "line 1 is not KEY=value"),
        ("=3", "line 1 is not KEY=value"),
        ("FLEET_HOST='x", "quote that opens the value of FLEET_HOST"),
    ],
)
def test_a_line_that_is_not_a_setting_is_reported(tmp_path: Path, line: str, problem: str) -> None:
    assert problem in problems(tmp_path, file=line)[0]


def test_an_unreadable_file_is_reported_and_a_missing_one_is_not(tmp_path: Path) -> None:
    load(RECORDS, {}, tmp_path / "missing")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="is not UTF-8 text"):
        load(RECORDS, {}, tmp_path / "binary")
    with pytest.raises(ConfigError, match="cannot be read"):
        load(RECORDS, {}, tmp_path)
    (tmp_path / "huge").write_bytes(b"#" * (config.ENV_FILE_MAX_BYTES + 1))
    with pytest.raises(ConfigError, match="larger than 256 kB"):
        load(RECORDS, {}, tmp_path / "huge")


def test_the_records_are_composed_into_one(tmp_path: Path) -> None:
    assert parts_of(AllSettings) == [ServerSettings, OtherSettings]
    all_settings = loaded(tmp_path, FLEET_PORT="1").compose(AllSettings)
    assert (all_settings.server.port, all_settings.other, all_settings.name) == (1, OtherSettings(), "not a record")


def test_documentation_has_a_row_for_every_setting() -> None:
    lines = documentation(RECORDS).splitlines()
    assert len(lines) == 2 + len(settings_of(ServerSettings)) + len(settings_of(OtherSettings))
    assert "| `FLEET_PORT` | `11435` | a whole number from 0 to 65535 | Port to listen on. |" in lines
    assert "| `FLEET_KEY` | | text | A key. |" in lines
    assert lines[2:] == sorted(lines[2:])
    assert not re.search(str(Path.home()), "\n".join(lines))


def test_an_invalid_record_is_rejected_at_start() -> None:
    @dataclass(frozen=True, slots=True)
    class Unsupported:
        when: complex = field(default=1j, metadata={"env": "FLEET_WHEN", "help": "?"})

    @dataclass(frozen=True, slots=True)
    class SameName:
        port: int = field(default=1, metadata={"env": "FLEET_PORT", "help": "?"})

    with pytest.raises(TypeError, match=r"Unsupported\.when"):
        load([Unsupported], {}, None)
    with pytest.raises(AssertionError, match="FLEET_PORT"):
        load([ServerSettings, SameName], {}, None)
