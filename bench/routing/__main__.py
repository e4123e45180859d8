"""Compares the real dispatcher and scheduler with simple policies and an oracle in a simulated fleet.

Without --traces (or HERD_TRACES) the requests are synthetic, with the published distributions of the public traces.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from bench.routing import flood, report
from bench.routing.compare import Table
from bench.routing.costs import FLEETS, Fleet, decision_us
from bench.routing.runs import Case, Played, cases, main_load, played
from bench.routing.targets import OURS, SIGNALS
from sim.catalog import POLICIES, SCENARIOS
from sim.traces import Traces

SCENARIO_NAMES = tuple(one.name for one in SCENARIOS)
POLICY_NAMES = tuple(one.name for one in POLICIES)
DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "benchmarks" / "routing.md"
PICTURE = DOCUMENT.with_suffix(".svg")
QUICK_POLICIES = (OURS, SIGNALS, "hot_first_weighted", "weighted_least_connections", "prefix_hash", "least_connections")
QUICK_REQUESTS = 250
QUICK_SEEDS = 3
QUICK_WORST = 0.8
"""The lowest ratio to the best simple policy that a quick run accepts in a scenario: far below random variation."""
QUICK_GEOMEAN = 1.1
SMOKE_SCENARIO = "S2"
SMOKE_REQUESTS = 60
PROGRESS_S = 10.0


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="dev.py bench routing", description=__doc__)
    parser.add_argument(
        "--traces",
        type=Path,
        default=os.environ.get("HERD_TRACES") or None,
        metavar="DIR",
        help="folder with the public traces",
    )
    parser.add_argument("--quick", action="store_true", help="run for under a minute; exit status 1 on a regression")
    parser.add_argument("--smoke", action="store_true", help="check in a few seconds that every policy answers")
    parser.add_argument(
        "--flood", action="store_true", help="only: what a flood of one of twelve users costs the others"
    )
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--requests", type=int, default=500, help="requests in one run (default 500)")
    parser.add_argument("--loads", default="0.6,1.0,1.25")
    parser.add_argument("--scenarios", default="", help=f"comma-separated: {', '.join(SCENARIO_NAMES)}")
    parser.add_argument("--policies", default="", help=f"comma-separated: {', '.join(POLICY_NAMES)}")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every row of every run")
    parser.add_argument(
        "--write-docs", action="store_true", help=f"write the tables into {DOCUMENT.name} and draw its chart"
    )
    chosen = parser.parse_args(given)
    chosen.traces = Path(chosen.traces) if chosen.traces else None
    if chosen.traces is not None and not chosen.traces.is_dir():
        parser.error(f"--traces: the folder {chosen.traces} does not exist")
    if chosen.seeds < 1 or chosen.requests < 50 or chosen.jobs < 1:
        parser.error("--seeds and --jobs must be at least 1, --requests at least 50")
    for option, known in (("scenarios", SCENARIO_NAMES), ("policies", POLICY_NAMES)):
        names = [name for name in getattr(chosen, option).split(",") if name]
        if unknown := set(names) - set(known):
            parser.error(f"--{option}: unknown: {', '.join(sorted(unknown))}; choose from {', '.join(known)}")
        setattr(chosen, option, names or list(known))
    try:
        chosen.loads = [float(load) for load in chosen.loads.split(",")]
    except ValueError:
        parser.error(f"--loads: {chosen.loads!r} is not a list of numbers such as 0.6,1.0")
    if chosen.smoke:
        chosen.loads, chosen.seeds, chosen.requests = [1.0], 1, SMOKE_REQUESTS
        chosen.scenarios, chosen.json, chosen.write_docs = [SMOKE_SCENARIO], None, False
    if chosen.quick:
        chosen.loads, chosen.seeds, chosen.requests = [1.0], QUICK_SEEDS, QUICK_REQUESTS
        chosen.policies = [name for name in chosen.policies if name in QUICK_POLICIES]
    return chosen


def main(given: Sequence[str] | None = None) -> int:
    chosen = arguments(given)
    if chosen.flood:
        return _flood_status(chosen)
    wanted = cases(chosen.scenarios, chosen.loads, chosen.seeds, chosen.requests, chosen.policies, chosen.traces)
    begun = time.monotonic()
    done = _all_played(wanted, chosen.jobs, begun)
    if chosen.smoke:
        return _smoke_status(done)
    table = Table.of(done)
    costs = [(policy, fleet, _cost(policy, fleet)) for policy in (OURS, SIGNALS) for fleet in FLEETS]
    text = _text(table, chosen, costs, time.monotonic() - begun)
    print(text)
    if chosen.json is not None:
        rows = [{"scenario": p.case.scenario, "load": p.case.load, "seed": p.case.seed, "rows": p.rows} for p in done]
        chosen.json.write_text(json.dumps(rows, sort_keys=True), "utf-8")
    if chosen.write_docs:
        _write(text, table, main_load(chosen.loads))
    return _quick_status(table) if chosen.quick else 0


def _flood_status(chosen: argparse.Namespace) -> int:
    """Prints the table; 1 if our policy misses the goal."""
    traces, seeds = Traces(chosen.traces), range(chosen.seeds)
    found = [flood.measure(policy, turns, chosen.requests, seeds, traces) for policy, turns in flood.LINES]
    print(flood.table(found))
    return int(found[0].ratio > flood.RATIO_MAX)


def _all_played(wanted: Sequence[Case], jobs: int, begun: float) -> list[Played]:
    done: list[Played] = []
    printed_at = begun
    for one in played(wanted, jobs):
        done.append(one)
        now = time.monotonic()
        if now - printed_at >= PROGRESS_S:
            printed_at = now
            left_s = (now - begun) / len(done) * (len(wanted) - len(done))
            print(f"{len(done)} of {len(wanted)} runs, about {left_s:.0f} s left", file=sys.stderr, flush=True)
    return done


def _cost(policy: str, fleet: Fleet) -> float:
    return decision_us(next(one for one in POLICIES if one.name == policy), fleet)


def _text(table: Table, chosen: argparse.Namespace, costs: Sequence[tuple[str, Fleet, float]], took_s: float) -> str:
    source = "public traces" if chosen.traces else "synthetic requests"
    judged = main_load(chosen.loads)
    parts = [
        f"{chosen.seeds} seeds, {chosen.requests} requests a run, {source}; {len(chosen.policies)} policies; "
        f"{took_s:.0f} s on {chosen.jobs} cores.",
        f"## Goals, load {judged:g}",
        report.targets(table, judged) if OURS in chosen.policies else "",
    ]
    for load in chosen.loads:
        if OURS in chosen.policies:
            parts += [f"## By scenario, load {load:g}", report.ratios(table, load)]
    parts += [f"## Every policy, load {judged:g}", report.everything(table, judged, chosen.policies)]
    parts += ["## One decision", report.decisions(costs)]
    return "\n\n".join(part for part in parts if part)


def _write(text: str, table: Table, load: float) -> None:
    known = DOCUMENT.read_text("utf-8")
    before, _, rest = known.partition(report.BEGIN)
    _, _, after = rest.partition(report.END)
    DOCUMENT.write_text(f"{before}{report.BEGIN}\n\n{text}\n\n{report.END}{after}", "utf-8")
    PICTURE.write_text(report.picture(table, load), "utf-8")


def _smoke_status(done: Sequence[Played]) -> int:
    """1 if a policy answered less than nine of ten requests."""
    problems = [
        f"{name}: {row['bad']:.0f} of {row['requests']:.0f} requests without an answer"
        for one in done
        for name, row in one.rows.items()
        if not row["requests"] or row["bad"] > row["requests"] / 10
    ]
    print("\n".join(f"PROBLEM {problem}" for problem in problems) or f"{len(done[0].rows)} policies answer")
    return 1 if problems else 0


def _quick_status(table: Table) -> int:
    """1 if the policy became worse by more than random variation explains."""
    pairs = [(s, best) for s in table.scenarios(1.0) if (best := table.best_simple(s, 1.0)) is not None]
    worse = []
    for scenario, best in pairs:
        ratio = table.ratio(scenario, 1.0, best, OURS, "mean")
        if ratio.high < QUICK_WORST:
            worse.append(f"{scenario}: {best} needs {ratio} of our time")
    overall = table.geomean(1.0, pairs, OURS, "mean")
    if len(pairs) == len(SCENARIO_NAMES) and overall.high < QUICK_GEOMEAN:
        worse.append(f"geometric mean over the scenarios: {overall}, must be at least {QUICK_GEOMEAN}")
    print("\n".join(f"REGRESSION {line}" for line in worse), file=sys.stderr)
    return 1 if worse else 0


if __name__ == "__main__":
    # On SIGTERM the worker processes end too.
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(128 + signal.SIGTERM))
    sys.exit(main())
