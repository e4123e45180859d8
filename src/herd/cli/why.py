"""`herd why ID`: the choice behind one request, every node with its points or its reason. Reads; decides nothing."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

from herd.cli.client import Coordinator, Trouble
from herd.cli.screen import console, safe, seconds, show, styled, table

Json = dict[str, Any]

TERMS = (("wait", "wait"), ("load", "loading"), ("prefill", "reading"), ("decode", "writing"), ("harm", "harm to others"))
SIGNALS = MappingProxyType({
    "thermal": "model at hand", "memory_fit": "room", "queue_depth": "queue", "wait_time": "expected wait",
    "role_affinity": "size suits", "availability_trend": "becoming free", "context_fit": "window fits",
})  # fmt: skip
"""The public names of the signals, in words."""


def why(coordinator: Coordinator, request_id: str, as_json: bool) -> None:
    """`request_id` may be a beginning, or "last"."""
    if request_id == "last":
        request_id = _newest(coordinator)
    show(coordinator.get(f"/dashboard/api/requests/{request_id}")["rows"], as_json, draw)


def _newest(coordinator: Coordinator) -> str:
    traces = coordinator.get("/dashboard/api/traces?limit=1")["traces"]
    if not traces:
        raise Trouble("no request has been made yet", "make one with: herd chat MODEL")
    return str(traces[0]["request_id"])


def draw(rows: list[Json], brief: bool = False) -> None:
    """One block per attempt; `brief` leaves out what the reader has just seen."""
    for row in rows:
        if not brief:
            _draw_head(row)
        _draw_candidates(row.get("candidates") or {})


def _draw_head(row: Json) -> None:
    number = f", attempt {row['attempt']}" if row.get("attempt") else ""
    console.print(f"[bold]{safe(row['request_id'])}[/bold]  {safe(row['original_model'] or row['model'])}{number}: {styled(row['status'])}")
    if row["node_id"]:
        told = f"  answered by {safe(row['node_id'])}, first token after {seconds(row['time_to_first_token_ms'])}"
        console.print(f"{told}, {seconds(row['latency_ms'])} in all, {row['completion_tokens'] or 0} tokens")
    if row["error_message"]:
        console.print(f"  [yellow]{safe(row['error_message'])}[/yellow]")


def _draw_candidates(candidates: Json) -> None:
    _draw_scored(candidates.get("scored") or [])
    for one in candidates.get("rejected") or []:
        console.print(f"  [dim]{safe(one['node_id'])}: not considered, {safe(one['reason'])} ({safe(one['filter'])})[/dim]")


def _draw_scored(scored: list[Json]) -> None:
    """One line a node: seconds where the policy expected some, and the points of the signals that spoke."""
    drawn = table("", "", ">", "")
    for place, one in enumerate(scored):
        mark = "[green]  ->[/green]" if place == 0 else ""
        drawn.add_row(mark, safe(one["node_id"]), _total(one), _parts(one))
    console.print(drawn)


def _total(scored: Json) -> str:
    expected = scored.get("expected_s")
    return f"{expected['total']:.2f} s" if expected else f"{scored['total']:.0f} points"


def _parts(scored: Json) -> str:
    expected = scored.get("expected_s")
    if expected:
        told = [f"{expected[name]:.2f} {words}" for name, words in TERMS if expected.get(name, 0.0) >= 0.005]
        return "= " + " + ".join(told) if told else "= at once"
    told = [f"{points:+.0f} {SIGNALS.get(name, name)}" for name, points in scored["terms"].items() if abs(points) >= 0.5]
    return "= " + " ".join(told) if told else "= nothing speaks for or against it"
