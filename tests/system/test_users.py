"""Tests users of a chat server that share one key: turns, usage, and that no name is stored or forwarded."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from access_fixtures import CHAT, a_key, ask
from fakes.faults import Gate
from fakes.fleet import Fleet, running_fleet, settings_for_tests
from fakes.ollama.server import FakeModel, FakeOllama, FakeSettings
from herd.coordinator.api.overview import usage_report
from herd.dashboard.usage import By
from herd.trust.identity import IdentitySettings
from herd.trust.user_limits import UserLimitSettings
from terminal import herd

USERS = tuple(f"person{number}@example.org" for number in range(12))


@contextmanager
def one_slot_fleet(limits: UserLimitSettings | None = None, **identity: Any) -> Iterator[tuple[FakeOllama, Fleet]]:
    settings = replace(
        settings_for_tests(), identity=IdentitySettings(**identity), user_limits=limits or UserLimitSettings()
    )
    node = FakeOllama([FakeModel(name="m", answer_tokens=2)], FakeSettings(num_parallel=1))
    with node, running_fleet({"alpha": node}, settings=settings) as fleet:
        yield node, fleet


def open_webui(user: str) -> dict[str, str]:
    """The headers that Open WebUI sends with ENABLE_FORWARD_USER_INFO_HEADERS=true."""
    return {
        "X-OpenWebUI-User-Name": "Person%20Example",
        "X-OpenWebUI-User-Id": f"id-of-{user}",
        "X-OpenWebUI-User-Email": user,
        "X-OpenWebUI-User-Role": "user",
        "User-Agent": "Python/3.11 aiohttp/3.12.15",
    }


def stored(fleet: Fleet) -> None:
    """Returns when every trace is in the database."""
    fleet.settle()
    assert fleet.coordinator.store.flush()


def usage(fleet: Fleet) -> dict[str, Any]:
    stored(fleet)
    report: Any = fleet.coordinator.store.read(usage_report, 0.0)
    return {row["user"]: row for row in report["by_user"] if row["user_kind"] == "user"}


def test_twelve_users_of_one_key_take_turns_and_are_counted() -> None:
    with one_slot_fleet() as (node, fleet):
        key = a_key(fleet, names_users=True)
        admin = a_key(fleet, scopes=["admin"])
        gate = Gate(at="request")
        node.fail(gate)
        order: list[str] = []
        threads = []
        core = fleet.coordinator.driver.dispatcher

        def one_chat(user: str) -> None:
            assert ask(fleet, "POST", "/api/chat", CHAT, **key, **open_webui(user))[0] == 200
            order.append(user)

        for number, user in enumerate([USERS[0]] * 6 + list(USERS[1:])):
            thread = threading.Thread(target=one_chat, args=(user,))
            thread.start()
            threads.append(thread)
            while fleet.on_loop(lambda: len(core.live_requests)) <= number:
                pass
        view = ask(fleet, "GET", "/fleet/queue", **admin)[1]["requests"]
        assert len({one["tenant"] for one in view}) == 12
        assert all(one["tenant"].startswith("user u-") for one in view)
        gate.release()
        for thread in threads:
            thread.join()
        flood = [number for number, user in enumerate(order) if user == USERS[0]]
        assert max(n for n, user in enumerate(order) if user != USERS[0]) < flood[3], "the others wait for a few of it"
        counted = usage(fleet)
        assert sorted(row["request_count"] for row in counted.values()) == [1] * 11 + [6]
        assert all(row["gpu_s"] > 0 and row["total_completion_tokens"] for row in counted.values())
        heads = str([one.headers for one in node.inference]).lower()
        assert "person" not in heads and "x-openwebui" not in heads
        files = b"".join(path.read_bytes() for path in fleet.data_dir.rglob("*") if path.is_file())
        assert b"person0" not in files and b"example.org" not in files and b"Person%20" not in files


@pytest.mark.parametrize(
    ("identity", "wanted_key", "is_known"),
    [
        ({}, {}, False),
        ({}, {"names_users": True}, True),
        ({"trusted": ("127.0.0.0/8",)}, None, True),
        ({"trusted": ("192.0.2.0/24",)}, None, False),
    ],
)
def test_users_count_only_from_trusted_keys_and_addresses(
    identity: dict[str, Any], wanted_key: dict[str, Any] | None, is_known: bool
) -> None:
    with one_slot_fleet(**identity, shows_names=True) as (_, fleet):
        key = a_key(fleet, **wanted_key) if wanted_key is not None else {}
        ask(fleet, "POST", "/api/chat", CHAT, **key, **open_webui(USERS[0]))
        body = {**CHAT, "metadata": {"user_id": "user_d_account_acc_session_1"}}
        ask(fleet, "POST", "/v1/chat/completions", {**CHAT, "safety_identifier": "s-7"}, **key)
        ask(fleet, "POST", "/v1/messages", {**body, "max_tokens": 9}, **key)
        ask(fleet, "POST", "/v1/chat/completions", {**body, "user": "bob"}, **key)
        assert set(usage(fleet)) == ({USERS[0], "s-7", "acc", "bob"} if is_known else set())


def test_usage_has_the_same_figures_by_user_app_model_key_and_day() -> None:
    """The dashboard's route and the command; a user is a hash, a key its name."""
    with one_slot_fleet() as (_, fleet):
        key = a_key(fleet, name="open-webui", names_users=True)
        admin = a_key(fleet, scopes=["admin"])
        for user in (USERS[0], USERS[0], USERS[1]):
            assert ask(fleet, "POST", "/api/chat", CHAT, **key, **open_webui(user))[0] == 200
        stored(fleet)
        secret = admin["Authorization"].removeprefix("Bearer ")
        named = {}
        for by in By:
            answer = ask(fleet, "GET", f"/dashboard/api/usage/lines?by={by.value}&range=24h", **admin)[1]
            lines = answer["lines"]
            assert (sum(one["requests"] for one in lines), answer["by"]) == (3, by.value), by
            assert sum(one["completion_tokens"] for one in lines) > 0 and all(one["busy_s"] > 0 for one in lines)
            printed = herd("usage", "--by", by.value, "--range", "24h", url=fleet.url, env={"HERD_KEY": secret})
            assert printed.status == 0 and all(one["name"][:8] in printed.out for one in lines), printed
            assert "example.org" not in printed.out + json.dumps(answer)
            named[by] = [one["name"] for one in lines]
        assert len(named[By.USER]) == 2 and all(name.startswith("u-") for name in named[By.USER])
        assert (named[By.KEY], named[By.MODEL]) == (["open-webui"], ["m:latest"])
        status, wrong, _ = ask(fleet, "GET", "/dashboard/api/usage/lines?by=nobody", **admin)
        assert status == 400 and "user, app, model, key, day" in wrong["error"]


def test_an_app_that_nothing_but_its_key_names_has_the_name_of_the_key_everywhere() -> None:
    with one_slot_fleet() as (node, fleet):
        key = a_key(fleet, name="kitchen lights")
        admin = a_key(fleet, scopes=["admin"])
        assert ask(fleet, "POST", "/api/chat", CHAT, **key)[0] == 200
        stored(fleet)
        gate = Gate(at="request")
        node.fail(gate)
        thread = threading.Thread(target=ask, args=(fleet, "POST", "/api/chat", CHAT), kwargs=key)
        thread.start()
        node.wait(lambda: gate.reached, "the request at the node")
        overview = ask(fleet, "GET", "/dashboard/api/overview", **admin)[1]
        gate.release()
        thread.join()
        [done] = overview["latest"]
        details = ask(fleet, "GET", f"/dashboard/api/requests/{done['request_id']}", **admin)[1]
        [by_app] = ask(fleet, "GET", "/dashboard/api/usage/lines?by=app&range=24h", **admin)[1]["lines"]
        [line] = ask(fleet, "GET", "/dashboard/api/apps?range=24h", **admin)[1]["apps"]
        shown = [*overview["running"], done, details, line, {"app": by_app["name"]}]
        assert {one["app"] for one in shown} == {"key kitchen lights"}
        assert " for key kitchen lights: " in details["sentence"]


def test_an_e_mail_address_in_the_body_is_a_hash_in_every_tag() -> None:
    with one_slot_fleet() as (_, fleet):
        ask(fleet, "POST", "/v1/chat/completions", {**CHAT, "user": USERS[3]})
        stored(fleet)
        [trace] = fleet.get("/dashboard/api/traces")["traces"]
        assert trace["tags"][0].startswith("user:u-") and trace["user_id"] is None


def test_traces_have_the_app_and_can_be_filtered_by_user() -> None:
    with one_slot_fleet(trusted=("127.0.0.1/32",), shows_names=True) as (_, fleet):
        for user in USERS[:2]:
            ask(fleet, "POST", "/api/chat", CHAT, **open_webui(user))
        ask(fleet, "POST", "/api/chat", CHAT, **{"User-Agent": "claude-cli/2.0.14 (external, cli)"})
        stored(fleet)
        [trace] = fleet.get(f"/dashboard/api/traces?user={USERS[1]}")["traces"]
        assert (trace["user_id"], trace["app_name"]) == (USERS[1], "Open WebUI")
        assert {one["app_name"] for one in fleet.get("/dashboard/api/traces")["traces"]} == {
            "Open WebUI",
            "Claude Code",
        }
        assert {one["kind"] for one in fleet.get("/dashboard/api/apps?range=1h")["apps"]} == {"client"}


@pytest.mark.parametrize(
    ("path", "body"), [("/api/chat", CHAT), ("/v1/chat/completions", CHAT), ("/v1/messages", {**CHAT, "max_tokens": 9})]
)
def test_user_beyond_a_limit_gets_429_in_its_own_format(path: str, body: dict[str, Any]) -> None:
    limits = UserLimitSettings(requests_per_minute=2, tokens_per_day=100_000)
    with one_slot_fleet(limits, trusted=("127.0.0.1/32",)) as (_, fleet):
        statuses = [ask(fleet, "POST", path, body, **open_webui(USERS[0]))[0] for _ in range(2)]
        status, answer, headers = ask(fleet, "POST", path, body, **open_webui(USERS[0]))
        assert (statuses, status) == ([200, 200], 429)
        assert 1 <= int(headers["retry-after"]) <= 30
        assert "2 requests per minute" in str(answer["error"])
        if path == "/v1/messages":
            assert answer["error"]["type"] == "rate_limit_error"
        assert ask(fleet, "POST", path, body, **open_webui(USERS[1]))[0] == 200
        core = fleet.coordinator
        fleet.settle()
        assert core.user_limits is not None and len(core.user_limits) == 2


def test_use_of_today_survives_a_restart(tmp_path: Path) -> None:
    node = FakeOllama([FakeModel(name="m", answer_tokens=2)])
    base = replace(settings_for_tests(), identity=IdentitySettings(trusted=("127.0.0.1/32",)))
    settings = replace(base, user_limits=UserLimitSettings(tokens_per_day=5))
    with node:
        for statuses in ([200, 429], [429]):
            with running_fleet({"alpha": node}, settings=settings, data_dir=tmp_path) as fleet:
                found = [ask(fleet, "POST", "/api/chat", CHAT, **open_webui(USERS[0]))[0] for _ in statuses]
                assert found == statuses
                stored(fleet)
