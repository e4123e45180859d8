"""A node's past as letters: one for each stretch, the worst that was more than a hiccup."""

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
def test_a_stretch_is_the_worst_that_was_more_than_a_hiccup(
    seconds: tuple[float, float, float, float], state: str
) -> None:
    assert letter(*seconds) == state


@pytest.mark.parametrize("name", RANGES)
def test_every_range_ends_with_the_stretch_that_has_begun(database: sqlite3.Connection, name: str) -> None:
    stayed(database, "online", 1.0)
    [strip] = uptime_bars(database, name, NOW).strips
    assert strip.states == "-" * (RANGES[name].seconds // RANGES[name].step_s - 1) + "u"
    assert (
        strip.from_at + len(strip.states) * strip.step_s > NOW >= strip.from_at + (len(strip.states) - 1) * strip.step_s
    )


def test_what_a_node_was_is_where_it_was(database: sqlite3.Connection) -> None:
    for state, ago_s in (("online", 7200.0), ("gone", 3600.0), ("yielding", 1800.0), ("busy", 60.0)):
        stayed(database, state, ago_s)
    [strip] = uptime_bars(database, "24h", NOW).strips
    assert [one for one in strip.states if one != "-"] == ["u", "o", "p", "u"]


def test_nodes_are_told_apart_and_what_is_older_is_left_out(database: sqlite3.Connection) -> None:
    stayed(database, "online", 60.0)
    stayed(database, "gone", 60.0, node_id="beta")
    stayed(database, "online", 9 * 86400.0, node_id="gamma")
    assert [(strip.node_id, strip.states[-1]) for strip in uptime_bars(database, "7d", NOW).strips] == [
        ("alpha", "u"),
        ("beta", "o"),
    ]


def test_an_unknown_range_is_refused(database: sqlite3.Connection) -> None:
    with pytest.raises(BadRequest, match="range must be one of 24h, 7d, 30d, 90d"):
        uptime_bars(database, "a year", NOW)
