"""Formats the results as Markdown tables and as an SVG chart."""

from __future__ import annotations

import math
from collections.abc import Sequence

from bench.routing.compare import Table
from bench.routing.costs import Fleet
from bench.routing.targets import ORACLE, OURS, SIGNALS, goals
from sim.catalog import SCENARIOS

HEAD = "| policy | mean s | p99 s | first p50 s | first p99 s | good | unanswered | loads | GB read | cached | Jain |"
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"


def targets(table: Table, load: float) -> str:
    lines = ["| goal | wanted | found | |", "|---|---|---|---|"]
    lines += [
        f"| {g.title} | {g.wanted} | {g.found} | {'met' if g.is_met else '**missed**'} |" for g in goals(table, load)
    ]
    return "\n".join(lines)


def ratios(table: Table, load: float) -> str:
    """One line a scenario: our values, and how much longer other policies take."""
    others = [SIGNALS] if SIGNALS in table.rows[(table.scenarios(load)[0], load)] else []
    head = [
        "scenario",
        "mean s",
        "p99 s",
        "first token p99 s",
        "good",
        "best simple",
        "its mean / ours",
        "its p99 / ours",
        "its first p99 / ours",
        "good",
    ]
    head += ["signals: mean", "p99"] if others else []
    head += ["ours / oracle"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for scenario in table.scenarios(load):
        best = table.best_simple(scenario, load)
        row = [
            scenario,
            *(f"{table.mean(scenario, load, OURS, key):.2f}" for key in ("mean", "p99", "first99", "good")),
        ]
        if best is not None:
            row += [best, *(str(table.ratio(scenario, load, best, OURS, key)) for key in ("mean", "p99", "first99"))]
            row.append(f"{table.mean(scenario, load, best, 'good'):.2f}")
        else:
            row += [""] * 5
        row += [str(table.ratio(scenario, load, other, OURS, key)) for other in others for key in ("mean", "p99")]
        has_oracle = ORACLE in table.rows[(scenario, load)]
        row.append(f"{1 / table.ratio(scenario, load, ORACLE, OURS, 'mean').value:.2f}" if has_oracle else "")
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def everything(table: Table, load: float, policies: Sequence[str]) -> str:
    """Every policy in every scenario: latencies in seconds, goodput, loads and the share of cached prompt tokens."""
    titles = {one.name: one.description for one in SCENARIOS}
    lines: list[str] = []
    for scenario in table.scenarios(load):
        lines += [f"\n**{scenario}** {titles[scenario]}\n", HEAD, "|" + "---|" * 11]
        for policy in policies:
            if policy not in table.rows[(scenario, load)]:
                continue
            m = {
                key: table.mean(scenario, load, policy, key)
                for key in ("mean", "p99", "first50", "first99", "good", "bad", "loads", "read_gb", "hit", "jain")
            }
            lines.append(
                f"| {policy} | {m['mean']:.2f} | {m['p99']:.1f} | {m['first50']:.2f} | {m['first99']:.1f} "
                f"| {m['good']:.3f} | {m['bad']:.1f} | {m['loads']:.0f} | {m['read_gb']:.0f} "
                f"| {m['hit']:.0%} | {m['jain']:.2f} |"
            )
    return "\n".join(lines)


def decisions(costs: Sequence[tuple[str, Fleet, float]]) -> str:
    lines = ["| policy | fleet | one decision | goal |", "|---|---|---|---|"]
    lines += [f"| {policy} | {fleet.title} | {us:.0f} us | <= {fleet.goal_us:.0f} us |" for policy, fleet, us in costs]
    return "\n".join(lines)


def picture(table: Table, load: float) -> str:
    """Bars: the mean of the signals, the best simple policy and ours, per scenario, on a logarithmic scale (SVG)."""
    scenarios = table.scenarios(load)
    names = (("signals", "#c0392b"), ("best simple", "#7f8c8d"), ("completion time", "#2471a3"))
    width, left, top, height = 60 * len(scenarios) + 90, 60, 40, 260
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{top + height + 50}"'
        ' font-family="sans-serif" font-size="11">'
    ]
    parts.append(
        f'<text x="{left}" y="16" font-size="13">'
        f"Mean seconds to the complete answer, load {load:g} (logarithmic; less is better)</text>"
    )
    for number, (name, color) in enumerate(names):
        parts.append(f'<rect x="{left + 130 * number}" y="22" width="10" height="10" fill="{color}"/>')
        parts.append(f'<text x="{left + 14 + 130 * number}" y="31">{name}</text>')
    ticks = (0.1, 1.0, 10.0, 100.0, 1000.0)
    for tick in ticks:
        y = _y(tick, top, height)
        parts.append(
            f'<line x1="{left}" x2="{width - 10}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>'
            f'<text x="8" y="{y + 4:.1f}">{tick:g} s</text>'
        )
    for number, scenario in enumerate(scenarios):
        best = table.best_simple(scenario, load)
        chosen = (SIGNALS, best, OURS)
        for bar, (policy, (_, color)) in enumerate(zip(chosen, names, strict=True)):
            if policy is None or policy not in table.rows[(scenario, load)]:
                continue
            value = table.mean(scenario, load, policy, "mean")
            y, x = _y(value, top, height), left + 60 * number + 6 + 15 * bar
            parts.append(
                f'<rect x="{x}" y="{y:.1f}" width="14" height="{top + height - y:.1f}" fill="{color}">'
                f"<title>{scenario} {policy}: {value:.2f} s</title></rect>"
            )
        parts.append(f'<text x="{left + 60 * number + 16}" y="{top + height + 16}">{scenario}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _y(value: float, top: int, height: int) -> float:
    """0.05 s at the bottom, 2000 s at the top."""
    low, high = math.log(0.05), math.log(2000.0)
    share = (math.log(min(2000.0, max(0.05, value))) - low) / (high - low)
    return top + height * (1 - share)
