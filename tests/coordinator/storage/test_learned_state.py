"""Tests that learned estimates survive a restart, and that invalid or expired ones do not."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from builders import World, a_model_info, a_report, a_request, a_world
from herd.coordinator.storage import learned_state
from herd.coordinator.storage.database import open_for_writing
from herd.coordinator.storage.retention import DAY_S
from herd.coordinator.storage.store_settings import StoreSettings
from herd.coordinator.storage.writer import TraceStore
from herd.core.planning.replay import DecisionRules
from herd.core.state.events import AttemptFinished, ClientLeft, FirstByte, RequestArrived
from herd.core.state.learned_values import CHANGES_MAX, TAKEN_MAX, Changes, LearnedValue
from herd.core.state.request import Counters, RequestId

NOW = 1_800_000_000.0
QUICK = StoreSettings(busy_timeout_s=0.0, flush_interval_s=60.0, trim_interval_s=0.0)


class Wall:
    def __init__(self) -> None:
        self.now = NOW


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    with closing(open_for_writing(tmp_path / "latency.db", 0.0)) as opened:
        yield opened


def a_fleet() -> World:
    world = a_world("completion_time")
    beat(world)
    return world


def beat(world: World) -> None:
    """Both nodes send a heartbeat without changes."""
    model_infos = [a_model_info("m", 4.0, loaded=True), a_model_info("k", 9.0), a_model_info("never-run", 2.0)]
    world.receives(
        a_report("slow", model_infos, memory_gb=64.0),
        a_report("fast", model_infos, memory_gb=64.0, memory_bandwidth_gbps=400.0),
    )


def work(world: World) -> None:
    """Finishes requests of several apps, alone and together, with times that differ from the priors; some have cold
    loads."""
    for number in range(40):
        name = RequestId(f"w{number}")
        model, is_pair = ("m", "k")[number % 2], number % 5 == 0
        request = a_request(name, model, tags=("web",) if number % 3 else (), prompt_tokens=600)
        world.feed(RequestArrived(world.now, request))
        if is_pair:
            world.feed(RequestArrived(world.now, a_request(f"{name}-beside", model, prompt_tokens=600)))
        world.now += 2.0
        for one in (name, RequestId(f"{name}-beside")) if is_pair else (name,):
            if one in world.dispatcher.live_requests and world.dispatcher.live_requests[one].is_running:
                world.feed(FirstByte(world.now, one, 1))
                world.now += 1.5
                counters = Counters(700, 60 + number, 0, 3.0 if number % 2 else None, 1.1, 0.9, "stop")
                world.feed(AttemptFinished(world.now, one, 1, counters))
        world.now += 10.0
    for name in list(world.dispatcher.live_requests):
        world.feed(ClientLeft(world.now, name))


def expectations(world: World) -> dict[str, dict[str, float]]:
    """Expected seconds of every model on every node, for a known app and an unknown one."""
    found: dict[str, dict[str, float]] = {}
    for model in ("m", "k", "never-run"):
        for tag in ("web", "new"):
            request = a_request("asked", model, tags=(tag,), prompt_tokens=900)
            decision = world.dispatcher.scheduler.decide(request, request.model, world.now)
            found |= {f"{model} {tag} {one.node_id}": one.expected_s for one in decision.scored}
    return found


def test_estimates_are_the_same_after_a_restart(tmp_path: Path) -> None:
    before, untaught = a_fleet(), a_fleet()
    work(before)
    beat(before)
    store = a_store(tmp_path)
    store.record_learned(before.dispatcher.forecast.changes())
    store.close()

    after, store = a_fleet(), a_store(tmp_path)
    assert learned_state.restore(store.read(learned_state.load_learned, NOW), after.dispatcher.forecast.restore) > 4
    store.close()
    freshen(before)
    known, again = expectations(before), expectations(after)
    assert again == {key: pytest.approx(terms) for key, terms in known.items()}
    assert all(terms != pytest.approx(known[key]) for key, terms in expectations(untaught).items())


def freshen(world: World) -> None:
    """Drops the state that is not stored: current loads, recently loaded models, last uses."""
    for node in world.dispatcher.fleet:
        node.loading_until.clear()
        node.unloaded_at.clear()
        world.dispatcher.forecast.residency.forget(node.id)


def test_many_changes_are_fetched_in_parts_and_none_is_lost() -> None:
    changes = Changes()
    keys = [("pair", f"n{number}", "m") for number in range(TAKEN_MAX + 10)]
    for key in [*keys, *keys]:
        changes.note(*key)
    assert [changes.take(), changes.take(), changes.take()] == [keys[:TAKEN_MAX], keys[TAKEN_MAX:], []]


def test_changes_that_are_never_fetched_are_bounded() -> None:
    changes = Changes()
    for number in range(CHANGES_MAX + 5):
        changes.note("pair", f"n{number}", "m")
    assert changes.take()[0] == ("pair", "n5", "m")


def a_store(folder: Path, wall: Wall | None = None) -> TraceStore:
    wall = wall or Wall()
    store = TraceStore(QUICK, folder, wall=lambda: wall.now, monotonic=lambda: 0.0, rules=DecisionRules())
    store.open()
    return store


def a_value(subject: str = "alpha", model: str = "m:latest", kind: str = "pair", log: float = 0.5) -> LearnedValue:
    return LearnedValue(kind, subject, model, {"prompt_log": log, "prompt_samples": 3.0})


def test_the_newest_value_is_stored(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    store.record_learned([a_value(log=0.1), a_value("beta"), a_value(log=0.2)])
    assert store.flush()
    store.record_learned([a_value(log=0.3)])
    store.close()
    store = a_store(tmp_path)
    found = store.read(learned_state.load_learned, NOW)
    store.close()
    assert sorted((one.subject, one.numbers["prompt_log"]) for one in found) == [("alpha", 0.3), ("beta", 0.5)]


def test_unused_nodes_expire_and_nodes_in_use_keep_all_their_models(connection: sqlite3.Connection) -> None:
    old = NOW - (learned_state.EXPIRES_DAYS + 1) * DAY_S
    gone, used = (
        [a_value("gone"), a_value("gone", "", "node")],
        [a_value("used", "rare:latest"), a_value("used", "", "node")],
    )
    learned_state.upsert(connection, [*gone, *used, a_value("", "old:latest", "tokens")], old)
    learned_state.upsert(connection, [a_value("used", "", "node")], NOW)
    assert {(one.kind, one.subject, one.model) for one in learned_state.load_learned(connection, NOW)} == {
        ("node", "used", ""),
        ("pair", "used", "rare:latest"),
    }


def test_rows_are_limited_and_the_oldest_are_deleted_first(
    connection: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learned_state, "ROWS_MAX", 3)
    for number in range(5):
        learned_state.upsert(connection, [a_value(f"n{number}")], NOW + number)
    assert [one.subject for one in learned_state.load_learned(connection, NOW)] == ["n2", "n3", "n4"]


STRANGE = (
    ("pair", "alpha", "m:latest", "{"),
    ("pair", "alpha", "n:latest", '{"prompt_log": "fast"}'),
    ("pair", b"\x00\xff", "m", "{}"),
    ("pair", "alpha", "o:latest", "[]"),
)
IMPOSSIBLE = (
    LearnedValue("pair", "a", "m", {"prompt_log": 400.0, "prompt_samples": 3}),
    LearnedValue("pair", "a", "m", {"step_log": 1.0, "step_samples": -3}),
    LearnedValue("pair", "a", "m", {"step_log": float("nan"), "step_samples": 3}),
    LearnedValue("node", "a", "", {"load_log": 1.0}),
    LearnedValue("output", "", "m", {"mean": -1.0, "square": 1.0, "samples": 1}),
    LearnedValue("output", "", "m", {}),
    LearnedValue("tokens", "", "m", {"factor": 1e9}),
    LearnedValue("prophecy", "a", "m", {"prompt_log": 1.0}),
)


def test_invalid_rows_are_skipped_with_one_log_line(
    connection: sqlite3.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    learned_state.upsert(connection, [a_value("good")], NOW)
    connection.executemany(learned_state.UPSERT, [(*row, NOW) for row in STRANGE])
    with caplog.at_level(logging.WARNING):
        assert [one.subject for one in learned_state.load_learned(connection, NOW)] == ["good"]
    assert len(caplog.records) == 1 and vars(caplog.records[0])["rows"] == len(STRANGE)


def test_impossible_values_are_skipped_with_one_log_line(caplog: pytest.LogCaptureFixture) -> None:
    world = a_fleet()
    before = expectations(world)
    with caplog.at_level(logging.WARNING):
        assert learned_state.restore([*IMPOSSIBLE, a_value("elsewhere")], world.dispatcher.forecast.restore) == 1
    assert len(caplog.records) == 1 and vars(caplog.records[0])["rows"] == len(IMPOSSIBLE)
    assert expectations(world) == before


def test_names_that_sqlite_rejects_do_not_stop_the_writer(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    store.record_learned([a_value("lone \ud800 surrogate"), a_value("x" * 100_000)])
    assert store.flush() and store.state.problem == ""
    found = store.read(learned_state.load_learned, NOW)
    store.close()
    assert sorted(len(one.subject) for one in found) == [len("lone ? surrogate"), learned_state.NAME_MAX_CHARS]


def test_values_that_could_not_be_written_are_written_later(tmp_path: Path) -> None:
    store = a_store(tmp_path)
    with closing(sqlite3.connect(tmp_path / "latency.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        store.record_learned([a_value("early")])
        assert not store.flush() and "locked" in store.state.problem
        other.execute("ROLLBACK")
    store.record_learned([a_value("late")])
    assert store.flush() and store.state.problem == ""
    assert {one.subject for one in store.read(learned_state.load_learned, NOW)} == {"early", "late"}
    store.close()


def test_each_set_of_decision_rules_is_stored_once(tmp_path: Path) -> None:
    other = DecisionRules("signals").changed(None, {"model_hot": 7.5, "harm_weight": 0.25})
    for rules in (DecisionRules(), other, DecisionRules()):
        store = TraceStore(QUICK, tmp_path, wall=lambda: NOW, monotonic=lambda: 0.0, rules=rules)
        store.open()
        store.close()
    with closing(sqlite3.connect(tmp_path / "latency.db")) as opened:
        assert learned_state.load_rules(opened) == {one.fingerprint: one for one in (DecisionRules(), other)}
