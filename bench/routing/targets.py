"""Compares the results with the project's goals for the policy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.routing.compare import Ratio, Table

OURS = "completion_time"
SIGNALS = "seven_signals"
ORACLE = "oracle"
EQUAL = "S15"


@dataclass(frozen=True, slots=True)
class Goal:
    title: str
    wanted: str
    found: str
    is_met: bool


def goals(table: Table, load: float) -> list[Goal]:
    scenarios = table.scenarios(load)
    policies = table.rows[(scenarios[0], load)]
    found: list[Goal] = []
    if SIGNALS in policies:
        others = [(scenario, SIGNALS) for scenario in scenarios]
        found += [
            _at_least(f"{what} against the seven signals", table.geomean(load, others, OURS, key), least)
            for what, key, least in (("mean", "mean", 2.5), ("p99", "p99", 3.0))
        ]
    simple = [(s, best) for s in scenarios if (best := table.best_simple(s, load)) is not None]
    if simple:
        found += [
            _at_least(
                f"{what} against the best simple policy of each scenario", table.geomean(load, simple, OURS, key), least
            )
            for what, key, least in (("mean", "mean", 1.2), ("p99", "p99", 1.35), ("p99 first token", "first99", 1.4))
        ]
        ratios = [(table.ratio(s, load, best, OURS, "mean"), s) for s, best in simple]
        worst, where = min(ratios, key=lambda pair: pair[0].value)
        found.append(
            Goal(
                "mean in the worst scenario",
                ">= 0.97",
                f"{worst} in {where}",
                worst.value >= 0.97 or worst.high >= 0.97,
            )
        )
        goods = [(table.mean(s, load, OURS, "good") - table.mean(s, load, best, "good"), s) for s, best in simple]
        least, place = min(goods)
        found.append(
            Goal("goodput against the same, worst scenario", ">= 0", f"{least:+.3f} in {place}", least >= -0.0005)
        )
    if ORACLE in policies:
        found.append(_near(table, load, scenarios))
    if EQUAL in scenarios and (best := table.best_simple(EQUAL, load)) is not None:
        ratio = table.ratio(EQUAL, load, best, OURS, "mean")
        found.append(Goal("mean on the homogeneous fleet", "+-2 %", str(ratio), ratio.high >= 0.98))
    return found


def _near(table: Table, load: float, scenarios: Sequence[str]) -> Goal:
    """The distance to the oracle, which knows the future: the mean over all scenarios, and the largest one."""
    ratio = table.geomean(load, [(scenario, ORACLE) for scenario in scenarios], OURS, "mean")
    far = [(table.ratio(scenario, load, ORACLE, OURS, "mean").value, scenario) for scenario in scenarios]
    worst, where = min(far)
    measured = (
        f"{1 / ratio.value:.2f}x ({1 / ratio.high:.2f}-{1 / ratio.low:.2f}); farthest {1 / worst:.2f}x in {where}"
    )
    return Goal("mean against the oracle", "<= 1.10x", measured, 1 / ratio.value <= 1.10)


def _at_least(title: str, ratio: Ratio, least: float) -> Goal:
    return Goal(title, f">= {least}", str(ratio), ratio.value >= least)
