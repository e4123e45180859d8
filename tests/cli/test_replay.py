"""What is typed behind `herd replay`, and rows that cannot be decided again: counted, never a crash."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from msgspec import structs

from builders import a_card, a_report, a_request, a_world
from herd.cli.client import CliError
from herd.cli.replay import ReplayRequest, asked, lines, parsed_span, parsed_weights, replayed
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
    world.hears(
        a_report("hot", [a_card("m", 4.0, loaded=True)], memory_bandwidth_gbps=30.0),
        a_report("fast", [a_card("m", 4.0)], memory_bandwidth_gbps=800.0),
    )
    decision = world.dispatcher.scheduler.decide(request, request.model, world.at)
    return Record(101.0, request, Outcome.COMPLETED, 100.0, request.model, decision)


def a_column() -> str:
    column = trace_row(a_record(), NOW, 256, RULES.fingerprint).candidates
    assert column is not None
    return column


def told(path: Path, **more: object) -> tuple[object, str]:
    wanted = replace(ReplayRequest(path), **more)  # type: ignore[arg-type]
    done = replayed(wanted, NOW)
    return done, "\n".join(line.plain for line in lines(done, wanted, 100))


def test_rows_that_keep_too_little_are_counted(tmp_path: Path) -> None:
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
        good.replace(RULES.fingerprint, "unheard"),
    ]
    nobody = json.dumps({"model": "m", "chosen": None, "scored": [], "rejected": []})
    path = a_database(tmp_path, good, *broken, nobody)
    done = replayed(ReplayRequest(path), NOW)
    assert (done.whole.choices, done.whole.changed, done.without_node, done.unreadable) == (1, 0, 1, len(broken))
    _, text = told(path)
    assert "1 choice, all the same (100 %)." in text
    assert f"{len(broken)} rows of an older version, or without candidates, cannot be decided again." in text
    assert "1 request had no node to choose from" in text


def test_a_database_from_before_there_were_rules_is_read_too(tmp_path: Path) -> None:
    path = a_database(tmp_path, a_column(), rules=None)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TABLE decision_rules")
    done, text = told(path)
    assert done.unreadable == 1  # type: ignore[attr-defined]
    assert "No choice on record could be decided again." in text


def test_rules_that_nobody_can_read_make_their_choices_old(tmp_path: Path) -> None:
    path = a_database(tmp_path, a_column())
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE decision_rules SET weights = '{'")
        connection.commit()
    done, _ = told(path)
    assert done.unreadable == 1  # type: ignore[attr-defined]


def test_what_a_column_says_beyond_our_knowledge_is_no_reason_to_fail(tmp_path: Path) -> None:
    """A later version may add fields."""
    more = json.loads(a_column()) | {"novel": {"a": 1}}
    more["scored"][0]["novel"] = [1]
    done, _ = told(a_database(tmp_path, json.dumps(more)))
    assert done.whole.choices == 1  # type: ignore[attr-defined]


def test_a_change_is_told_in_plain_words(tmp_path: Path) -> None:
    _, text = told(a_database(tmp_path, *[a_column()] * 4), policy="signals")
    assert text.splitlines()[:2] == [
        "Decided again with the policy signals; all else as it was then.",
        "4 of 4 choices would change (100 %).",
    ]
    assert "By the estimates of then:" in text and "lost for those who asked" in text
    assert "4 from fast to hot" in text
    assert [line.split() for line in text.splitlines()[-2:]] == [["fast", "4", "0", "-4"], ["hot", "0", "4", "+4"]]


def test_only_what_is_young_enough_is_looked_at(tmp_path: Path) -> None:
    path = a_database(tmp_path, *[a_column()] * 10)
    assert replayed(ReplayRequest(path, since_s=150.0), NOW).whole.choices == 3
    assert replayed(ReplayRequest(path, limit=7), NOW).whole.choices == 7


def test_weights_go_by_their_own_names_or_their_settings() -> None:
    assert parsed_weights("harm_weight=0.5, FLEET_SCORE_MODEL_HOT=80 ,eviction_horizon_s=30") == {
        "harm_weight": 0.5,
        "model_hot": 80.0,
        "eviction_horizon_s": 30.0,
    }
    assert parsed_weights("") == {}
    rules = DecisionRules().changed(None, parsed_weights("FLEET_HARM_WEIGHT=0,memory_fit_max=1"))
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
def test_what_makes_no_sense_is_explained_with_the_next_command(
    tmp_path: Path, given: dict[str, object], words: str
) -> None:
    typed = {"policy": None, "weights": None, "since": None, "limit": 5, **given}
    with pytest.raises(CliError) as trouble:
        asked(tmp_path, **typed)  # type: ignore[arg-type]
    assert words in f"{trouble.value.problem} {trouble.value.remedy}"


def test_spans_are_read() -> None:
    assert [parsed_span(text) for text in ("90s", "30m", "24h", "7d", "1.5h", "2w")] == [
        90,
        1800,
        86_400,
        604_800,
        5400,
        1_209_600,
    ]
