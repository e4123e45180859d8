"""The routing benchmark computes its ratios and goals correctly, and equal runs print equal tables."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

import herd
from bench.routing.__main__ import main
from bench.routing.compare import Table
from bench.routing.measures import UNANSWERED_S, Row, measured
from bench.routing.runs import Case, Played
from bench.routing.targets import goals
from sim.catalog import POLICIES, SCENARIOS
from sim.compose import build_world
from sim.traces import Traces

ROOT = Path(__file__).resolve().parents[2]
SOURCES = Path(herd.__file__).resolve().parents[1]
SMALL = ["--scenarios", "S2,S15", "--seeds", "2", "--requests", "60", "--loads", "1.0", "--jobs", "1"]
POLICY_ARGUMENTS = ["--policies", "completion_time,seven_signals,least_connections,oracle"]


def a_row(mean: float, good: float = 1.0) -> Row:
    return {"mean": mean, "p99": 2 * mean, "first99": mean, "good": good}


def a_table(ours: list[float], simple: list[float], scenario: str = "S2") -> Table:
    plays = [
        Played(
            Case(scenario, 1.0, seed, 100, (), None),
            {
                "completion_time": a_row(a),
                "least_connections": a_row(b),
                "seven_signals": a_row(3 * b),
                "oracle": a_row(a),
            },
        )
        for seed, (a, b) in enumerate(zip(ours, simple, strict=True))
    ]
    return Table.of(plays)


def test_a_ratio_is_of_sums_paired_by_seed_and_lies_in_its_interval() -> None:
    table = a_table([1.0, 2.0, 3.0], [2.0, 4.0, 6.3])
    ratio = table.ratio("S2", 1.0, "least_connections", "completion_time", "mean")
    assert ratio.value == pytest.approx(12.3 / 6.0)
    assert 2.0 <= ratio.low <= ratio.value <= ratio.high <= 2.1


def test_goals_are_met_or_missed() -> None:
    met = {goal.title: goal.is_met for goal in goals(a_table([1.0, 1.1], [2.0, 2.2]), 1.0)}
    assert set(met.values()) == {True}
    missed = {goal.title: goal.is_met for goal in goals(a_table([1.0, 1.1], [0.9, 0.9]), 1.0)}
    assert not missed["mean in the worst scenario"]


def test_a_request_without_an_answer_counts_with_its_penalty() -> None:
    play = next(one for one in SCENARIOS if one.name == "S8").build(Traces(), 1.5, 120, Random(4))
    baseline = next(one for one in POLICIES if one.name == "random")
    world = build_world(play, baseline, Random(4))
    world.run()
    row = measured(world)
    if row["bad"]:
        assert row["mean"] * row["requests"] >= row["bad"] * UNANSWERED_S
    assert 0.0 <= row["good"] <= 1.0 - row["bad"] / row["requests"]


def test_a_run_prints_its_tables_and_equal_runs_give_equal_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [tmp_path / "a.json", tmp_path / "b.json"]
    for file in files:
        assert main([*SMALL, *POLICY_ARGUMENTS, "--json", str(file)]) == 0
    printed = capsys.readouterr().out
    assert "| S15 |" in printed and "One decision" in printed and "synthetic" in printed
    assert files[0].read_text() == files[1].read_text()
    assert len(json.loads(files[0].read_text())) == 4


def test_two_processes_with_other_hash_seeds_print_the_same_table(tmp_path: Path) -> None:
    """All but the measured times. The scenarios include coding agents, churn and a bad network."""
    given = ["--scenarios", "S4,S6,S9b,S12", "--seeds", "1", "--requests", "100", "--loads", "1.0", "--jobs", "1"]
    tables, rows = [], []
    for hash_seed, sources in (("1", ROOT / "src"), ("2", SOURCES)):
        file = tmp_path / f"{hash_seed}.json"
        environment = {
            **os.environ,
            "PYTHONHASHSEED": hash_seed,
            "PYTHONPATH": f"{sources}{os.pathsep}{ROOT}",
            "HERD_TRACES": "",
        }
        ran = subprocess.run(
            [sys.executable, "-m", "bench.routing", *given, "--json", str(file)],
            env=environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr
        tables.append(re.sub(r"\d+ s on 1 cores", "", ran.stdout.partition("## One decision")[0]))
        rows.append(file.read_text("utf-8"))
    assert "| S9b |" in tables[0] and "completion_time" in tables[0]
    assert tables[0] == tables[1]
    assert rows[0] == rows[1]


@pytest.mark.parametrize(
    "given",
    [
        ["--scenarios", "S99"],
        ["--policies", "none"],
        ["--seeds", "0"],
        ["--loads", "much"],
        ["--traces", "/no/such/folder"],
    ],
)
def test_wrong_arguments_are_an_error(given: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(given)
    assert "error:" in capsys.readouterr().err
