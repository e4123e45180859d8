"""Tests that the support bundle of `herd diagnose` is useful and contains no secrets and no prompts."""

from __future__ import annotations

import http.client
import json
import sqlite3
import stat
import tarfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from fakes.fleet import Fleet, running_fleet
from fakes.ollama.server import FakeOllama
from herd import __version__, logs
from herd.cli.client import CliError, CoordinatorClient
from herd.cli.diagnose import LOG_TAIL_MAX_BYTES, _database, _tail, diagnose, write
from herd.cli.doctor import Setup
from herd.coordinator.storage.schema import SCHEMA_VERSION
from herd.logs import LogSettings
from terminal import IS_POSIX, herd

CANARY = "xylocanary9d"
CHAT = {"model": "m", "messages": [{"role": "user", "content": CANARY}], "stream": False}


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with FakeOllama(["m"]) as engine, running_fleet({"alpha": engine}, data_dir=tmp_path / "data") as running:
        yield running


def post(fleet: Fleet, path: str, body: object, **headers: str) -> tuple[dict[str, str], str]:
    connection = http.client.HTTPConnection("127.0.0.1", fleet.port, timeout=30)
    connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json", **headers})
    response = connection.getresponse()
    text = response.read().decode()
    connection.close()
    return {name.lower(): value for name, value in response.getheaders()}, text


def parts_of(path: Path) -> dict[str, str]:
    with tarfile.open(path) as archive:
        found = {entry.name.partition("/")[2]: archive.extractfile(entry) for entry in archive.getmembers()}
        return {name: file.read().decode() for name, file in found.items() if file is not None}


def written(fleet: Fleet, path: Path) -> dict[str, str]:
    setup = Setup(CoordinatorClient(fleet.url), fleet.data_dir, may_search=False)
    diagnose(setup, {"coordinator": [{"key": "FLEET_PORT", "value": "1"}]}, path, as_json=True)
    return parts_of(path)


def test_the_bundle_contains_versions_settings_findings_and_answers(fleet: Fleet, tmp_path: Path) -> None:
    post(fleet, "/api/chat", CHAT)
    fleet.settle()
    fleet.coordinator.store.flush()
    parts = written(fleet, tmp_path / "one.tar.gz")
    about = json.loads(parts["about.json"])
    assert about["herd"] == __version__ and "msgspec" in about["packages"]
    assert about["database"]["schema_version"] == SCHEMA_VERSION and about["database"]["traces"] == 1
    assert json.loads(parts["settings.json"])["coordinator"][0]["key"] == "FLEET_PORT"
    assert json.loads(parts["coordinator-fleet-status.json"])["nodes"][0]["node_id"] == "alpha"
    assert "alarms" in json.loads(parts["coordinator-fleet-status.json"])
    assert any(finding["about"] == "coordinator" for finding in json.loads(parts["findings.json"]))
    assert "masked" in parts["README.txt"]


def test_the_bundle_contains_no_key_code_cookie_signature_or_prompt(fleet: Fleet, tmp_path: Path) -> None:
    open_logs = logs.start(LogSettings(), fleet.data_dir, "herd")
    try:
        secrets = secrets_in_use(fleet)
    finally:
        open_logs.close()
    with (fleet.data_dir / "logs" / "herd.jsonl").open("a") as file:
        file.writelines(
            json.dumps({"level": "error", "msg": f"a component logged {secret}"}) + "\n" for secret in secrets.values()
        )
    fleet.coordinator.store.flush()
    parts = written(fleet, tmp_path / "one.tar.gz")
    assert parts["logs/herd.jsonl"].count("a component logged") == len(secrets)
    for kind, secret in {**secrets, "a prompt": CANARY}.items():
        for name, text in parts.items():
            assert secret not in text, f"{kind} is in {name}"


def secrets_in_use(fleet: Fleet) -> dict[str, str]:
    _, made = post(fleet, "/fleet/keys", {"name": "ann", "scopes": ["admin"]})
    key = json.loads(made)["key"]
    bearer = {"Authorization": f"Bearer {key}"}
    _, link = post(fleet, "/fleet/logins", {}, **bearer)
    _, invited = post(fleet, "/fleet/nodes/invite", {}, **bearer)
    connection = http.client.HTTPConnection("127.0.0.1", fleet.port, timeout=30)
    connection.request("GET", json.loads(link)["path"])
    cookie = connection.getresponse().getheader("set-cookie") or ""
    connection.close()
    _, other = post(fleet, "/fleet/logins", {}, **bearer)
    post(fleet, "/api/chat", CHAT, **bearer)
    post(fleet, "/api/chat", {**CHAT, "messages": CANARY}, **bearer)
    post(fleet, f"/api/{CANARY}", CHAT, **bearer)
    fleet.settle()
    credentials = fleet.coordinator.credentials
    return {
        "a key": key,
        "its digest": next(iter(credentials.keyring)).digest,
        "a code": json.loads(invited)["code"].rpartition("/")[2],
        "a link": json.loads(other)["path"].rpartition("=")[2],
        "a cookie": cookie.partition("=")[2].partition(";")[0],
        "the local code": credentials.local_code,
        "a signature": "ab" * 32,
    }


def test_without_a_coordinator_the_bundle_contains_the_problem(tmp_path: Path) -> None:
    setup = Setup(CoordinatorClient("http://127.0.0.1:1", timeout_s=1.0), tmp_path, may_search=False)
    diagnose(setup, {}, tmp_path / "d.tar.gz", as_json=True)
    parts = parts_of(tmp_path / "d.tar.gz")
    assert "problem" in json.loads(parts["coordinator-fleet-status.json"])
    assert "does not exist" in json.loads(parts["about.json"])["database"]["problem"]


def test_a_damaged_database_is_reported(tmp_path: Path) -> None:
    (tmp_path / "latency.db").write_bytes(b"no database" * 500)
    assert "not a database" in str(_database(tmp_path)["problem"])
    with closing(sqlite3.connect(tmp_path / "empty.db")) as connection:
        connection.execute("PRAGMA user_version = 1")
    (tmp_path / "empty.db").rename(tmp_path / "latency.db")
    assert "no such table" in str(_database(tmp_path)["problem"])


@pytest.mark.skipif(not IS_POSIX, reason="this system has other file permissions")
def test_only_the_owner_can_read_the_bundle_and_no_file_is_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "d.tar.gz"
    write(path, [("a", "b")])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(CliError, match="exists already"):
        write(path, [("a", "c")])
    with pytest.raises(CliError, match="cannot be written"):
        write(tmp_path / "nowhere" / "d", [("a", "c")])
    assert parts_of(path) == {"a": "b"}


def test_only_the_end_of_a_long_log_is_included(tmp_path: Path) -> None:
    path = tmp_path / "herd.jsonl"
    path.write_text("".join(f'{{"number": {number}}}\n' for number in range(200_000)))
    tail = _tail(path).splitlines()
    assert json.loads(tail[0]) and json.loads(tail[-1])["number"] == 199_999
    assert sum(map(len, tail)) <= LOG_TAIL_MAX_BYTES


def test_the_command_prints_the_path_of_the_bundle(fleet: Fleet, tmp_path: Path) -> None:
    done = herd("diagnose", str(tmp_path / "bundle.tar.gz"), url=fleet.url)
    assert done.status == 0, done.err
    assert "bundle.tar.gz" in done.out and "settings.json" in parts_of(tmp_path / "bundle.tar.gz")
