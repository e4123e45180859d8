"""Tests the uptime bars: one letter per interval."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

import pytest

from herd.coordinator.storage import node_history, schema
from herd.coordinator.storage.node_history import StateInterval
from herd.coordinator.storage.uptime_queries import RANGES, letter, uptime_bars
from herd.errors import BadRequest

NOW = 1_795_448_123.0


@pytest.fixture
def database() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    for step in schema.steps_needed(connection):
        schema.apply(connection, step)
    yield connection
    connection.close()


def stayed(
    database: sqlite3.Connection, state: str, ago_s: float, seconds: float = 60.0, node_id: str = "alpha"
) -> None:
    node_history.insert_history(database, [StateInterval(NOW - ago_s, node_id, state, seconds, 1)], [])


@pytest.mark.parametrize(
    ("seconds", "state"),
    [
        ((60, 0, 0, 0), "u"),
        ((59, 0, 0, 1), "u"),
        ((50, 0, 0, 10), "o"),
        ((50, 10, 0, 0), "d"),
        ((0, 0, 60, 0), "p"),
        ((0, 5, 5, 5), "o"),
        ((0, 0, 0, 0), "-"),
    ],
)
def test_an_interval_shows_the_worst_state_that_lasted_long_enough(
    seconds: tuple[float, float, float, float], state: str
) -> None:
    assert letter(*seconds) == state


@pytest.mark.parametrize("name", RANGES)
def test_every_range_ends_with_the_current_interval(database: sqlite3.Connection, name: str) -> None:
    stayed(database, "online", 1.0)
    [bar] = uptime_bars(database, name, NOW).strips
    assert bar.states == "-" * (RANGES[name].seconds // RANGES[name].step_s - 1) + "u"
    assert bar.from_at + len(bar.states) * bar.step_s > NOW >= bar.from_at + (len(bar.states) - 1) * bar.step_s


def test_a_state_is_shown_at_its_time(database: sqlite3.Connection) -> None:
    for state, ago_s in (("online", 7200.0), ("gone", 3600.0), ("yielding", 1800.0), ("busy", 60.0)):
        stayed(database, state, ago_s)
    [bar] = uptime_bars(database, "24h", NOW).strips
    assert [one for one in bar.states if one != "-"] == ["u", "o", "p", "u"]


def test_each_node_has_its_bar_and_older_states_are_left_out(database: sqlite3.Connection) -> None:
    stayed(database, "online", 60.0)
    stayed(database, "gone", 60.0, node_id="beta")
    stayed(database, "online", 9 * 86400.0, node_id="gamma")
    assert [(bar.node_id, bar.states[-1]) for bar in uptime_bars(database, "7d", NOW).strips] == [
        ("alpha", "u"),
        ("beta", "o"),
    ]


def test_an_unknown_range_is_refused(database: sqlite3.Connection) -> None:
    with pytest.raises(BadRequest, match="range must be one of 24h, 7d, 30d, 90d"):
        uptime_bars(database, "a year", NOW)
