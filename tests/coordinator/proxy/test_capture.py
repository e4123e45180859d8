"""Tests the capture of prompts: off by default, in memory, limited in size and time, and visible to users."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fakes.fleet import Fleet, running_fleet, settings_for_tests
from fakes.ollama.server import FakeOllama
from herd import logs
from herd.cli.status import status_lines
from herd.coordinator.proxy.capture import ENTRY_MAX_BYTES, Capture, CaptureSettings
from herd.logs import LogSettings

CANARY = "xylocanary5c"
FORWARDED = {"X-Forwarded-For": "203.0.113.9"}


class ManualClock:
    """A clock that the test moves."""

    at = 100.0

    def now(self) -> float:
        return self.at


def a_capture(clock: ManualClock, **settings: Any) -> Capture:
    return Capture(CaptureSettings(is_on=True, **settings), clock.now, lambda: 1e9)


def captured(capture: Capture) -> list[str]:
    return [entry.body for entry in capture._captured]


def test_capture_is_off_by_default() -> None:
    capture = Capture(CaptureSettings(), ManualClock().now, lambda: 0.0)
    capture.add("r1", "/api/chat", b"x")
    assert not capture.is_on and not captured(capture)
    assert capture.state() == {"is_on": False, "ends_in_s": 0.0, "requests": 0}


def test_capture_ends_by_itself_and_deletes_the_prompts() -> None:
    clock = ManualClock()
    capture = a_capture(clock, lasts_s=60.0)
    capture.add("r1", "/api/chat", b"one")
    clock.at += 59.0
    assert capture.state() == {"is_on": True, "ends_in_s": 1.0, "requests": 1}
    clock.at += 1.0
    assert capture.state()["requests"] == 0
    capture.add("r2", "/api/chat", b"two")
    assert not captured(capture) and not capture.is_on


def test_the_oldest_prompts_are_dropped_when_the_memory_is_full() -> None:
    capture = a_capture(ManualClock(), max_bytes=10_000)
    for number in range(1000):
        capture.add(f"r{number}", "/api/chat", f"{number}".encode())
    assert 1 < len(captured(capture)) < 20 and captured(capture)[-1] == "999"
    assert capture._stored_bytes <= 10_000
    capture.add("big", "/api/chat", b"a" * 20_000)
    assert not captured(capture), "a prompt over the limit is not stored"


def test_a_long_prompt_is_truncated_and_marked() -> None:
    capture = a_capture(ManualClock())
    capture.add("r1", "/api/chat", b"\xff" * (ENTRY_MAX_BYTES + 1))
    [entry] = capture._captured
    assert (len(entry.body), entry.bytes, entry.is_cut) == (ENTRY_MAX_BYTES, ENTRY_MAX_BYTES + 1, True)


# --- in a running coordinator ---


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    settings = replace(settings_for_tests(), capture=CaptureSettings(is_on=True))
    with FakeOllama(["m"]) as engine, running_fleet({"alpha": engine}, settings=settings) as running:
        yield running


def ask(fleet: Fleet, method: str, path: str, body: object = None, **headers: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", fleet.port, timeout=30)
    connection.request(
        method, path, None if body is None else json.dumps(body), {"Content-Type": "application/json", **headers}
    )
    response = connection.getresponse()
    text = response.read().decode()
    connection.close()
    return response.status, text


def chat(fleet: Fleet) -> None:
    assert (
        ask(
            fleet,
            "POST",
            "/api/chat",
            {"model": "m", "messages": [{"role": "user", "content": CANARY}], "stream": False},
        )[0]
        == 200
    )


def test_only_an_admin_can_read_captured_prompts(fleet: Fleet) -> None:
    chat(fleet)
    _, made = ask(fleet, "POST", "/fleet/keys", {"name": "reader", "scopes": ["read", "chat", "models"]})
    reader = {"Authorization": f"Bearer {json.loads(made)['key']}"}
    status, text = ask(fleet, "GET", "/fleet/capture")
    [entry] = json.loads(text)["captured"]
    assert (
        status == 200
        and CANARY in entry["body"]
        and entry["path"] == "/api/chat"
        and entry["request_id"].startswith("r")
    )
    for headers in (FORWARDED, {**FORWARDED, **reader}):
        status, text = ask(fleet, "GET", "/fleet/capture", **headers)
        assert status in (401, 403) and CANARY not in text


def test_an_active_capture_is_shown_in_status_and_log(fleet: Fleet, caplog: pytest.LogCaptureFixture) -> None:
    state = fleet.get("/fleet/status")
    assert state["capture"]["is_on"] and 3500 < state["capture"]["ends_in_s"] <= 3600
    assert "PROMPT CAPTURE IS ON" in "\n".join(line.plain for line in status_lines(state, 100))
    state["capture"]["is_on"] = False
    assert "PROMPT CAPTURE" not in "\n".join(line.plain for line in status_lines(state, 100))
    assert any("FLEET_CAPTURE is set" in record.getMessage() for record in caplog.get_records("setup"))


def test_capture_can_be_ended_and_the_prompts_are_deleted(fleet: Fleet) -> None:
    chat(fleet)
    assert json.loads(ask(fleet, "POST", "/fleet/capture/end", {})[1]) == {
        "is_on": False,
        "ends_in_s": 0.0,
        "requests": 0,
    }
    chat(fleet)
    assert json.loads(ask(fleet, "GET", "/fleet/capture")[1])["captured"] == []


def test_captured_prompts_reach_no_disk_no_log_and_no_other_route(fleet: Fleet) -> None:
    logged = logs.start(LogSettings(), fleet.data_dir, "herd")
    try:
        chat(fleet)
        fleet.settle()
    finally:
        logged.close()
    assert fleet.coordinator.store.flush()
    for path in ("/fleet/status", "/fleet/queue", "/dashboard/api/traces"):
        assert CANARY not in ask(fleet, "GET", path)[1], path
    files: list[Path] = [path for path in fleet.data_dir.rglob("*") if path.is_file()]
    assert len(files) > 3
    for file in files:
        assert CANARY.encode() not in file.read_bytes(), file.name


def test_without_the_setting_no_prompt_can_be_read() -> None:
    with FakeOllama(["m"]) as engine, running_fleet({"alpha": engine}) as off:
        chat(off)
        assert json.loads(ask(off, "GET", "/fleet/capture")[1])["captured"] == []
        assert CANARY not in ask(off, "GET", "/fleet/capture")[1]
        assert off.get("/fleet/status")["capture"]["is_on"] is False
