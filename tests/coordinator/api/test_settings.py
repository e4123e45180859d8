"""Tests listing, changing, undoing and previewing settings over real sockets."""

from __future__ import annotations

import http.client
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fakes.dashboard.settings_store import a_settings_store
from fakes.fleet import Fleet, running_fleet
from fakes.ollama.server import FakeOllama
from herd import config
from herd.config import ConfigError, RawValue
from herd.coordinator.settings import Settings
from herd.coordinator.settings_store import FILE_NAME
from herd.dashboard.pages.settings import SettingChanged, SettingHistory, SettingLine, SettingsPage, WeightsPreview
from herd.errors import BadRequest

CHAT = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hello"}], "stream": False}).encode()
ENVIRON = {"FLEET_HOLD_MAX_S": "20", "FLEET_TRACE_BATCH_ROWS": "128", "FLEET_ANTHROPIC_API_KEY": "sk-very-secret"}


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with (
        FakeOllama(["m"]) as one,
        FakeOllama(["m"]) as two,
        running_fleet(
            {"alpha": one, "beta": two}, data_dir=tmp_path, settings_store=a_settings_store(tmp_path, ENVIRON)
        ) as running,
    ):
        yield running


def post(fleet: Fleet, path: str, body: object, headers: dict[str, str] | None = None) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", fleet.port, timeout=30)
    connection.request(
        "POST", f"/dashboard/api/{path}", json.dumps(body), {"Content-Type": "application/json", **(headers or {})}
    )
    response = connection.getresponse()
    answer = json.loads(response.read())
    connection.close()
    return response.status, answer


def line(fleet: Fleet, name: str) -> SettingLine:
    page = msgspec.convert(fleet.get("/dashboard/api/settings"), SettingsPage)
    return next(one for one in page.settings if one.name == name)


def test_every_setting_is_shown_with_its_source_and_no_secret(fleet: Fleet) -> None:
    page = msgspec.convert(fleet.get("/dashboard/api/settings"), SettingsPage)
    known = {setting.env for record in config.parts_of(Settings) for setting in config.settings_of(record)}
    assert {one.name for one in page.settings} == known
    batch, days = line(fleet, "FLEET_TRACE_BATCH_ROWS"), line(fleet, "FLEET_TRACE_RETENTION_DAYS")
    assert (batch.value, batch.source, batch.may_change, batch.kind) == ("128", "env", False, "whole")
    assert (days.value, days.default, days.source, days.takes_effect, days.minimum) == (
        "30",
        "30",
        "default",
        "restart",
        0.01,
    )
    assert "sk-very-secret" not in json.dumps(fleet.get("/dashboard/api/settings"))
    assert not any(one.may_change for one in page.settings if one.is_secret)
    assert line(fleet, "FLEET_SCHEDULER").kind == "choice" and line(fleet, "FLEET_MDNS").kind == "switch"


def test_a_change_is_stored_in_the_history_and_undone(fleet: Fleet, tmp_path: Path) -> None:
    status, answer = post(fleet, "settings", {"name": "FLEET_TRACE_RETENTION_DAYS", "value": "14"})
    changed = msgspec.convert(answer, SettingChanged)
    assert status == 200 and (changed.setting.value, changed.setting.source, changed.setting.waits_for_restart) == (
        "14",
        "here",
        True,
    )
    assert changed.sentence == "FLEET_TRACE_RETENTION_DAYS is 14 after the next restart."
    assert a_settings_store(tmp_path, ENVIRON).settings().store.retention_days == 14.0, "the next start reads it"
    assert (tmp_path / FILE_NAME).stat().st_mode & 0o077 == 0
    [past] = msgspec.convert(fleet.get("/dashboard/api/settings/history"), SettingHistory).changes
    assert (past.change_id, past.name, past.before, past.after, past.may_undo, past.ip) == (
        changed.change_id,
        "FLEET_TRACE_RETENTION_DAYS",
        None,
        "14",
        True,
        "127.0.0.1",
    )
    assert post(fleet, "settings/undo", {"change_id": past.change_id})[0] == 200
    assert (
        line(fleet, "FLEET_TRACE_RETENTION_DAYS").source,
        a_settings_store(tmp_path, ENVIRON).settings().store.retention_days,
    ) == ("default", 30.0)
    later, first = msgspec.convert(fleet.get("/dashboard/api/settings/history"), SettingHistory).changes
    assert (later.before, later.after, later.may_undo, first.may_undo) == ("14", None, True, False)
    assert post(fleet, "settings/undo", {"change_id": first.change_id})[0] == 400
    for number in (999, 0, -1, 1 << 63, 10**40):
        assert post(fleet, "settings/undo", {"change_id": number})[0] == 400
    assert fleet.coordinator.store.flush()
    connection = sqlite3.connect(tmp_path / "latency.db")
    assert connection.execute("SELECT COUNT(*) FROM audit WHERE what = 'changed a setting'").fetchone() == (2,)
    assert connection.execute("SELECT COUNT(*) FROM fleet_events WHERE kind = 'settings'").fetchone() == (2,)
    connection.close()


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("FLEET_TRACE_RETENTION_DAYS", "many", "expected a number of at least 0.01"),
        ("FLEET_TRACE_RETENTION_DAYS", "-1", "expected a number"),
        ("FLEET_NOTHING", "1", "unknown setting"),
        ("FLEET_TRACE_BATCH_ROWS", "7", "the environment sets it"),
        ("FLEET_DATA_DIR", "/elsewhere", "it is the folder in which the dashboard stores"),
        ("FLEET_SCHEDULER", "dice", "expected one of"),
        ("FLEET_ALLOWED_HOSTS", "a\nFLEET_OPEN=true", "one line"),
        ("FLEET_ALLOWED_HOSTS", 'a"b', "one line"),
        ("FLEET_ALLOWED_HOSTS", "a" * 5000, "one line"),
    ],
)
def test_an_invalid_change_is_refused_with_the_reason_and_changes_nothing(
    fleet: Fleet, tmp_path: Path, name: str, value: str, why: str
) -> None:
    status, answer = post(fleet, "settings", {"name": name, "value": value})
    assert status == 400 and why in answer["error"]
    assert not (tmp_path / FILE_NAME).exists() and fleet.get("/dashboard/api/settings/history")["changes"] == []


def test_only_an_admin_changes_settings(fleet: Fleet) -> None:
    for path, body in (
        ("settings", {"name": "FLEET_MDNS", "value": "true"}),
        ("settings/undo", {"change_id": 1}),
        ("settings/preview", {"values": {}}),
    ):
        assert post(fleet, path, body, {"X-Forwarded-For": "203.0.113.9"})[0] == 401
        assert post(fleet, path, body, {"Origin": "https://evil.example"})[0] == 403


def test_a_changed_weight_is_used_by_the_next_decision_and_named_in_its_row(fleet: Fleet) -> None:
    fleet.ask("POST", "/api/chat", CHAT)
    status, answer = post(fleet, "settings", {"name": "FLEET_SCORE_MODEL_COLD", "value": "33"})
    assert status == 200 and answer["setting"]["takes_effect"] == "now" and not answer["setting"]["waits_for_restart"]
    fleet.ask("POST", "/api/chat", CHAT)
    fleet.settle()
    assert fleet.coordinator.store.flush()
    later, earlier = fleet.get("/dashboard/api/traces?limit=2")["traces"]
    assert later["candidates"]["rules"] != earlier["candidates"]["rules"]
    assert max(later["scores_breakdown"].values()) == 33.0


def test_other_weights_are_previewed_on_recorded_decisions_without_a_change(fleet: Fleet, tmp_path: Path) -> None:
    for _ in range(3):
        fleet.ask("POST", "/api/chat", CHAT)
    fleet.settle()
    assert fleet.coordinator.store.flush()
    result = msgspec.convert(post(fleet, "settings/preview", {"values": {}})[1], WeightsPreview)
    assert (result.choices, result.changed, result.undecidable) == (3, 0, 0)
    assert result.sentence == "None of the last 3 requests would have been routed to another node."
    assert post(fleet, "settings/preview", {"values": {"FLEET_MDNS": "true"}})[0] == 400
    assert post(fleet, "settings/preview", {"values": {"FLEET_SCORE_MODEL_HOT": "much"}})[0] == 400
    assert not (tmp_path / FILE_NAME).exists()


def test_a_flag_overrides_a_setting_and_is_named_as_its_source(tmp_path: Path) -> None:
    settings_store = a_settings_store(
        tmp_path, ENVIRON, flags={"FLEET_TRACE_RETENTION_DAYS": RawValue("3", "--retention")}
    )
    with pytest.raises(BadRequest, match="the command line sets it"):
        settings_store.change("FLEET_TRACE_RETENTION_DAYS", "4")


def test_an_invalid_file_makes_the_start_fail_and_is_named(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_text('FLEET_TRACE_RETENTION_DAYS="many"\n')
    with pytest.raises(ConfigError, match=FILE_NAME):
        a_settings_store(tmp_path, ENVIRON)


def test_any_value_survives_being_stored(tmp_path: Path) -> None:
    for value in ("a,b", " # no comment", "it's", "\\n", "$HOME", ""):
        a_settings_store(tmp_path, ENVIRON).change("FLEET_ALLOWED_HOSTS", value)
        settings_store = a_settings_store(tmp_path, ENVIRON)
        assert (settings_store.dashboard_value("FLEET_ALLOWED_HOSTS") or "").strip() == value.strip()


def test_without_a_settings_store_there_are_no_settings() -> None:
    with running_fleet({}) as bare:
        assert bare.get("/dashboard/api/settings") == {"settings": []}
        assert post(bare, "settings", {"name": "FLEET_MDNS", "value": "true"})[0] == 503
