"""Computes ratios between policies, paired by seed, with bootstrapped confidence intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from bench.routing.measures import Row
from bench.routing.runs import Played
from sim.catalog import POLICIES

RESAMPLES = 1000
SIMPLE = tuple(one.name for one in POLICIES if one.is_simple)


@dataclass(frozen=True, slots=True)
class Ratio:
    """`value` 2 means that the other policy took twice as long. `low` to `high` is the 95 % confidence interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} ({self.low:.2f}-{self.high:.2f})"


@dataclass(slots=True)
class Table:
    """`rows[(scenario, load)][policy]` has one row for each seed, in the order of the seeds."""

    rows: dict[tuple[str, float], dict[str, list[Row]]]

    @classmethod
    def of(cls, played: Sequence[Played]) -> Table:
        rows: dict[tuple[str, float], dict[str, list[Row]]] = {}
        for one in sorted(played, key=lambda p: (p.case.scenario, p.case.load, p.case.seed)):
            of_policy = rows.setdefault((one.case.scenario, one.case.load), {})
            for policy, row in one.rows.items():
                of_policy.setdefault(policy, []).append(row)
        return cls(rows)

    def scenarios(self, load: float) -> list[str]:
        found = [scenario for scenario, of in self.rows if of == load]
        return sorted(found, key=lambda name: (int("".join(c for c in name if c.isdigit())), name))

    def mean(self, scenario: str, load: float, policy: str, what: str) -> float:
        rows = self.rows[(scenario, load)][policy]
        return sum(row[what] for row in rows) / len(rows)

    def best_simple(self, scenario: str, load: float) -> str | None:
        """The simple policy with the lowest mean here, chosen after the run, which makes the comparison harder."""
        known = [name for name in SIMPLE if name in self.rows[(scenario, load)]]
        return min(known, key=lambda name: self.mean(scenario, load, name, "mean")) if known else None

    def ratio(self, scenario: str, load: float, other: str, ours: str, what: str) -> Ratio:
        """Time of `other` over time of `ours` in one scenario."""
        pairs = [(scenario, other)]
        return self._ratios(load, pairs, ours, what)

    def geomean(self, load: float, others: Sequence[tuple[str, str]], ours: str, what: str) -> Ratio:
        """The geometric mean over (scenario, other policy)."""
        return self._ratios(load, others, ours, what)

    def _ratios(self, load: float, others: Sequence[tuple[str, str]], ours: str, what: str) -> Ratio:
        columns = []
        for scenario, other in others:
            of_policy = self.rows[(scenario, load)]
            columns.append([(a[what], b[what]) for a, b in zip(of_policy[other], of_policy[ours], strict=True)])
        value = math.exp(sum(_log_ratio(column) for column in columns) / len(columns))
        rng, found = Random(1), []
        for _ in range(RESAMPLES):
            logs = [_log_ratio(rng.choices(column, k=len(column))) for column in columns]
            found.append(math.exp(sum(logs) / len(logs)))
        found.sort()
        return Ratio(value, found[int(0.025 * RESAMPLES)], found[int(0.975 * RESAMPLES) - 1])


def _log_ratio(pairs: Sequence[tuple[float, float]]) -> float:
    other, ours = sum(a for a, _ in pairs), sum(b for _, b in pairs)
    return math.log(max(other, 1e-9) / max(ours, 1e-9))
