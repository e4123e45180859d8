"""What would have changed a choice, in words: how far ahead it was, which circumstance held another back, the other policy. Decides nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from herd.cli.client import Json
from herd.cli.screen import duration

CIRCUMSTANCES = (
    ("wait", "had nobody been before it there"), ("load", "had the model been in memory there"),
    ("prefill", "had its prompt been cached there"), ("harm", "had nobody else lost time by it there"),
)  # fmt: skip
"""The terms that could have been otherwise, and how to say so. How fast a node writes is its nature."""
NAMED_MAX = 3
"""Nodes that are told with what held them back: the nearest."""
LEAST_S = 0.005
SECONDS, POINTS = "completion_time", "signals"


def is_by_seconds(row: Json) -> bool:
    """Which policy chose; rows of a time when it was not recorded are told by their kind."""
    scored = (row.get("candidates") or {}).get("scored") or [{}]
    return str(row.get("policy") or (SECONDS if scored[0].get("expected_s") else POINTS)) == SECONDS


def alternatives(row: Json) -> list[str]:
    """Sentences, none where nobody was chosen."""
    candidates = row.get("candidates") or {}
    scored: list[Json] = candidates.get("scored") or []
    if not candidates.get("chosen") or not scored:
        return []
    if len(scored) == 1:
        return ["No other node could have taken it."]
    by_seconds = is_by_seconds(row)
    told = [*_by_seconds(scored)] if by_seconds and all(one.get("expected_s") for one in scored) else [*_by_points(scored)] if not by_seconds else []
    return [*told, *_other_policy(scored, by_seconds)]


def _by_seconds(scored: Sequence[Json]) -> Iterable[str]:
    first, *others = scored
    best_s = _seconds(first)
    lead_s = _seconds(others[0]) - best_s
    if lead_s < LEAST_S:
        return
    yield f"{others[0]['node_id']} is next, {_told(lead_s)} later."
    held_back = [(one["node_id"], least) for one in others if (least := _least_without(one["expected_s"])) and least[0] < best_s]
    for node_id, (total_s, words) in held_back[:NAMED_MAX]:
        yield f"{node_id} would have been chosen {words}: {_told(total_s)}."
    if not held_back:
        yield "No single circumstance would have put another node first."


def _least_without(expected_s: Mapping[str, float]) -> tuple[float, str] | None:
    """The seconds it would have taken without the circumstance that cost it most, and that circumstance; None without any."""
    found = [(expected_s["total"] - cost_s, words) for name, words in CIRCUMSTANCES if (cost_s := expected_s.get(name, 0.0)) >= LEAST_S]
    return min(found, default=None)


def _by_points(scored: Sequence[Json]) -> Iterable[str]:
    first, second = scored[0], scored[1]
    lead = first["total"] - second["total"]
    if lead >= 0.5:
        yield f"{second['node_id']} is next, {lead:.0f} {'point' if round(lead) == 1 else 'points'} behind."


def _other_policy(scored: Sequence[Json], by_seconds: bool) -> Iterable[str]:
    """Whom the other policy would have chosen, where it can be told and is another."""
    if by_seconds:
        best = min(scored, key=lambda one: (-one["total"], one["depth"], one["node_id"]))
        told = f"By points it would have been {best['node_id']}: {best['total']:.0f} against {scored[0]['total']:.0f}."
    else:
        if not all(one.get("expected_s") for one in scored):
            return
        best = min(scored, key=lambda one: (_seconds(one), one["depth"], one["node_id"]))
        told = f"By expected seconds it would have been {best['node_id']}: {_told(_seconds(best))} against {_told(_seconds(scored[0]))}."
    if best is not scored[0]:
        yield told


def _seconds(one: Json) -> float:
    return float(one["expected_s"]["total"])


def _told(seconds: float) -> str:
    return duration(seconds * 1000)
