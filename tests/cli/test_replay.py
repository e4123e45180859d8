"""Tests of the options of `herd replay`, and of rows that cannot be replayed: they are counted, without a crash."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from msgspec import structs

from builders import a_model_info, a_report, a_request, a_world
from herd.cli.client import CliError
from herd.cli.replay import ReplayRequest, compute_replay, lines, parse_options, parse_span, parse_weights
from herd.coordinator.storage.database import open_for_writing
from herd.coordinator.storage.learned_state import insert_rules
from herd.coordinator.storage.trace_rows import INSERT_TRACE, trace_row
from herd.core.planning.replay import DecisionRules
from herd.core.scheduling.completion_time import CompletionTimeSettings
from herd.core.state.commands import Record
from herd.core.state.request import Outcome

NOW = 2_000_000.0
RULES = DecisionRules()


def a_database(path: Path, *columns: str | None, rules: DecisionRules | None = RULES) -> Path:
    """One row for each of these `candidates`, a minute apart, the last one now."""
    with closing(open_for_writing(path / "latency.db", 0.0)) as connection:
        if rules is not None:
            insert_rules(connection, rules, NOW)
        for number, column in enumerate(columns):
            row = trace_row(a_record(), NOW - 60.0 * (len(columns) - 1 - number), 256, RULES.fingerprint)
            connection.execute(INSERT_TRACE, structs.astuple(structs.replace(row, candidates=column)))
    return path / "latency.db"


def a_record() -> Record:
    world, request = a_world("completion_time"), a_request("r1", "m", prompt_tokens=500)
    world.receives(
        a_report("hot", [a_model_info("m", 4.0, loaded=True)], memory_bandwidth_gbps=30.0),
        a_report("fast", [a_model_info("m", 4.0)], memory_bandwidth_gbps=800.0),
    )
    decision = world.dispatcher.scheduler.decide(request, request.model, world.now)
    return Record(
        at=101.0, request=request, outcome=Outcome.COMPLETED, arrived_at=100.0, model=request.model, decision=decision
    )


def a_column() -> str:
    column = trace_row(a_record(), NOW, 256, RULES.fingerprint).candidates
    assert column is not None
    return column


def replay_and_show(path: Path, **more: object) -> tuple[object, str]:
    options = replace(ReplayRequest(path), **more)  # type: ignore[arg-type]
    result = compute_replay(options, NOW)
    return result, "\n".join(line.plain for line in lines(result, options, 100))


def test_rows_without_enough_data_are_counted(tmp_path: Path) -> None:
    good = a_column()
    before = {key: value for key, value in json.loads(good).items() if key != "rules"}
    bare = json.loads(good)
    for one in bare["scored"]:
        del one["seen"]
    broken = [
        None,
        "",
        "{",
        "[]",
        "null",
        '{"scored": 7}',
        json.dumps(before),
        json.dumps(bare),
        good.replace(RULES.fingerprint, "unknown"),
    ]
    without_node = json.dumps({"model": "m", "chosen": None, "scored": [], "rejected": []})
    path = a_database(tmp_path, good, *broken, without_node)
    result = compute_replay(ReplayRequest(path), NOW)
    assert (result.totals.choices, result.totals.changed, result.without_node, result.unreadable) == (
        1,
        0,
        1,
        len(broken),
    )
    _, text = replay_and_show(path)
    assert "1 decision, all identical (100 %)." in text
    assert f"{len(broken)} rows from an older version, or without candidates, cannot be replayed." in text
    assert "1 request had no available node" in text


def test_a_database_without_a_rules_table_can_be_read(tmp_path: Path) -> None:
    path = a_database(tmp_path, a_column(), rules=None)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TABLE decision_rules")
    result, text = replay_and_show(path)
    assert result.unreadable == 1  # type: ignore[attr-defined]
    assert "No recorded decision could be replayed." in text


def test_decisions_with_unreadable_rules_are_not_replayed(tmp_path: Path) -> None:
    path = a_database(tmp_path, a_column())
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE decision_rules SET weights = '{'")
        connection.commit()
    result, _ = replay_and_show(path)
    assert result.unreadable == 1  # type: ignore[attr-defined]


def test_unknown_fields_of_a_later_version_are_ignored(tmp_path: Path) -> None:
    """A later version may add fields."""
    more = json.loads(a_column()) | {"novel": {"a": 1}}
    more["scored"][0]["novel"] = [1]
    result, _ = replay_and_show(a_database(tmp_path, json.dumps(more)))
    assert result.totals.choices == 1  # type: ignore[attr-defined]


def test_a_changed_decision_is_summarized(tmp_path: Path) -> None:
    _, text = replay_and_show(a_database(tmp_path, *[a_column()] * 4), policy="signals")
    assert text.splitlines()[:2] == [
        "Replayed with policy signals; everything else as recorded.",
        "4 of 4 decisions would change (100 %).",
    ]
    assert "Estimated:" in text and "lost for the changed requests" in text
    assert "4 from fast to hot" in text
    assert [line.split() for line in text.splitlines()[-2:]] == [["fast", "4", "0", "-4"], ["hot", "0", "4", "+4"]]


def test_only_recent_requests_are_replayed(tmp_path: Path) -> None:
    path = a_database(tmp_path, *[a_column()] * 10)
    assert compute_replay(ReplayRequest(path, since_s=150.0), NOW).totals.choices == 3
    assert compute_replay(ReplayRequest(path, limit=7), NOW).totals.choices == 7


def test_weights_are_named_by_field_or_by_setting() -> None:
    assert parse_weights("harm_weight=0.5, FLEET_SCORE_MODEL_HOT=80 ,eviction_horizon_s=30") == {
        "harm_weight": 0.5,
        "model_hot": 80.0,
        "eviction_horizon_s": 30.0,
    }
    assert parse_weights("") == {}
    rules = DecisionRules().changed(None, parse_weights("FLEET_HARM_WEIGHT=0,memory_fit_max=1"))
    assert rules.times == CompletionTimeSettings(harm_weight=0.0) and rules.weights.memory_fit_max == 1.0


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"weights": "harm_wieght=1"}, "did you mean harm_weight"),
        ({"weights": "model_hot=much"}, "must be a number"),
        ({"weights": "model_hot"}, "must be a number"),
        ({"weights": "model_hot=nan"}, "must be a number"),
        ({"policy": "dice"}, "--policy completion_time or --policy signals"),
        ({"since": "yesterday"}, "--since 24h"),
        ({"limit": 0}, "--limit"),
    ],
)
def test_an_invalid_option_is_reported_with_a_valid_example(
    tmp_path: Path, given: dict[str, object], words: str
) -> None:
    typed = {"policy": None, "weights": None, "since": None, "limit": 5, **given}
    with pytest.raises(CliError) as raised:
        parse_options(tmp_path, **typed)  # type: ignore[arg-type]
    assert words in f"{raised.value.problem} {raised.value.remedy}"


def test_durations_are_parsed() -> None:
    assert [parse_span(text) for text in ("90s", "30m", "24h", "7d", "1.5h", "2w")] == [
        90,
        1800,
        86_400,
        604_800,
        5400,
        1_209_600,
    ]
