"""The environment file of ollama-herd 0.11.4 starts both processes, and says which of its settings have no effect."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from herd import config
from herd.agent import app as agent_app
from herd.config import AGENT_PREFIX, COORDINATOR_PREFIX, Config, ConfigError, RecordType, read_env_file
from herd.coordinator import settings as coordinator_settings
from herd.coordinator.models.pinned_models import PinSettings
from herd.ollama_herd_settings import ALL, REPLACED, WITHOUT_EFFECT

SAMPLE = Path(__file__).parent / "protocol_samples" / "ollama_herd" / "env"
NAMES_IN_0_11_4 = 108
BOTH: list[tuple[RecordType, str]] = [
    (coordinator_settings.Settings, COORDINATOR_PREFIX),
    (agent_app.Settings, AGENT_PREFIX),
]


def loaded(whole: RecordType, prefix: str, environ: dict[str, str], file: Path | None = None) -> Config:
    return config.load(config.parts_of(whole), environ, file, prefix=prefix)


def names() -> set[str]:
    return set(read_env_file(SAMPLE, []))


def own_names() -> set[str]:
    return {setting.env for whole, _ in BOTH for record in config.parts_of(whole) for setting in settings_of(record)}


def settings_of(record: RecordType) -> list[config.Setting]:
    return config.settings_of(record)


@pytest.mark.parametrize(("whole", "prefix"), BOTH, ids=["coordinator", "agent"])
def test_both_processes_start_with_every_name_and_its_default(whole: RecordType, prefix: str) -> None:
    assert len(names()) == NAMES_IN_0_11_4
    assert loaded(whole, prefix, {}, SAMPLE).notices


def test_every_name_is_a_setting_here_or_is_replaced_or_has_a_reason() -> None:
    assert names() <= own_names() | ALL
    assert not own_names() & ALL and not set(REPLACED) & set(WITHOUT_EFFECT)
    assert {replacement.env for replacement in REPLACED.values()} <= own_names()


def test_each_setting_without_effect_is_reported_by_the_process_that_reads_it() -> None:
    environ = dict.fromkeys(WITHOUT_EFFECT, "x")
    by_process = [loaded(whole, prefix, environ).notices for whole, prefix in BOTH]
    reported = [notice.partition(" ")[0] for notices in by_process for notice in notices]
    assert sorted(reported) == sorted(WITHOUT_EFFECT)
    assert all(name.startswith("FLEET_NODE_") for name in (notice.partition(" ")[0] for notice in by_process[1]))
    assert (
        "FLEET_TELEMETRY (environment): known, no effect here, because herd sends no data to other parties"
        in by_process[0]
    )


def test_a_setting_without_a_value_is_not_reported() -> None:
    assert not loaded(*BOTH[0], {"FLEET_TELEMETRY_URL": " "}).notices


@pytest.mark.parametrize("reason", sorted(set(WITHOUT_EFFECT.values())))
def test_reasons_continue_the_sentence_and_name_only_existing_settings(reason: str) -> None:
    assert not reason.endswith(".") and reason[0] != " "
    named = re.findall(r"FLEET_[A-Z_]*[A-Z]", reason)
    assert not [name for name in named if not any(own == name or own.startswith(f"{name}_") for own in own_names())]


def test_replaced_names_set_the_setting_here_unless_it_is_set_itself() -> None:
    whole, prefix = BOTH[0]
    origins = "https://chat.example.org,http://localhost:*"
    settings = loaded(whole, prefix, {"FLEET_CORS_ORIGINS": origins})
    [row] = [row for row in settings.describe() if row["key"] == "FLEET_ALLOWED_ORIGINS"]
    assert (row["value"], row["source"]) == (origins, "FLEET_CORS_ORIGINS, environment") and not settings.notices
    both = loaded(whole, prefix, {"FLEET_CORS_ORIGINS": "https://a", "FLEET_ALLOWED_ORIGINS": "https://b"})
    assert "https://b" in {row["value"] for row in both.describe()}


@pytest.mark.parametrize(("value", "preload_max"), [("true", 0), (" YES ", 0), ("false", PinSettings().preload_max)])
def test_values_of_replaced_settings_are_translated(value: str, preload_max: int) -> None:
    settings = loaded(*BOTH[0], {"FLEET_DISABLE_MODEL_PRELOADER": value})
    assert settings.of(PinSettings).preload_max == preload_max


def test_invalid_value_of_a_replaced_setting_names_its_source() -> None:
    environ = {"FLEET_DISABLE_MODEL_PRELOADER": "true", "FLEET_TELEMETRI": "1"}
    with pytest.raises(ConfigError) as caught:
        loaded(*BOTH[0], environ)
    assert caught.value.problems == ("FLEET_TELEMETRI (environment) is not a setting, did you mean FLEET_TELEMETRY?",)
