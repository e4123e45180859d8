"""Explains a routing decision: each node with its seconds, its points or the reason for its rejection (`herd why`)."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from math import floor
from types import MappingProxyType

from rich.text import Text

import herd.core.scheduling.signals
from herd.cli.client import CliError, CoordinatorClient, Json
from herd.cli.terminal import console, printable, show, status_style, wrapped
from herd.core.planning import decision_record
from herd.core.planning.decision_record import CandidateRecord
from herd.core.scheduling.signals import Signal
from herd.core.state.fleet import GB, canonical
from herd.dashboard.alternatives import alternatives, is_by_completion_time
from herd.discover import discover
from herd.text import BYTES_PER_GB, duration, gb, tokens

TERMS = (("wait", "wait"), ("load", "load"), ("prefill", "prefill"), ("decode", "decode"), ("harm", "delay to others"))
"""The terms of the expected seconds with the names shown to people, in the order in which they happen."""
LABELS = MappingProxyType(
    {signal.name: signal.label for signal in discover(herd.core.scheduling.signals, Signal, "SIGNAL")}
)
"""The labels of the signals by their public names."""
OUTCOMES = MappingProxyType(
    {
        "completed": "answered by",
        "failed": "failed on",
        "failed_midstream": "failed mid-stream on",
        "retried": "failed on",
        "client_cancelled": "cancelled by its client on",
        "coordinator_lost": "interrupted by the end of the coordinator",
        "rejected": "rejected",
    }
)
Sizes = Mapping[str, float]
"""The size of the request's model in GB, by node."""


def why(coordinator: CoordinatorClient, request_id: str, as_json: bool) -> None:
    """Shows one request; `request_id` may be a prefix, or "last"."""
    if request_id == "last":
        request_id = _newest(coordinator)
    rows = coordinator.get(f"/dashboard/api/requests/{request_id}")["rows"]
    show(
        rows,
        as_json,
        lambda found: why_lines(found, console.width, time.time(), sizes_of(coordinator, found[-1]["model"])),
    )


def _newest(coordinator: CoordinatorClient) -> str:
    traces = coordinator.get("/dashboard/api/traces?limit=1")["traces"]
    if not traces:
        raise CliError("there are no requests yet", "send one with: herd chat MODEL")
    return str(traces[0]["request_id"])


def sizes_of(coordinator: CoordinatorClient, model: str) -> Sizes:
    """The model's current size on each node."""
    nodes = coordinator.get("/fleet/status?detail=full")["nodes"]
    wanted = canonical(model)
    return {
        node["node_id"]: one["size_gb"] for node in nodes for one in node["models"] if canonical(one["name"]) == wanted
    }


def why_lines(rows: list[Json], width: int, now: float, sizes: Sizes) -> list[Text]:
    """The request, then each attempt with its routing decision. `now` is Unix time, `rows` are oldest first."""
    final = rows[-1]
    lines = [_headline(final, now), *_facts(final, width)]
    for number, row in enumerate(rows, start=1):
        lines.append(Text())
        if len(rows) > 1:
            lines.append(_attempt(row, number))
        lines += choice_lines(row, width, sizes)
    return lines


def _headline(row: Json, now: float) -> Text:
    ago = f"{duration(max(0.0, now - row['timestamp']) * 1000)} ago"
    return Text.assemble(
        (printable(row["request_id"]), "bold"),
        f"  {printable(row['original_model'] or row['model'])}  ",
        (row["status"], status_style(row["status"])),
        (f"  {ago}", "dim"),
    )


def _facts(row: Json, width: int) -> Iterable[Text]:
    if row["node_id"]:
        facts = [f"{OUTCOMES.get(row['status'], 'on')} {row['node_id']}"]
        if row["time_to_first_token_ms"] is not None:
            facts.append(f"time to first token {duration(row['time_to_first_token_ms'])}")
        facts.append(f"total {duration(row['latency_ms'])}")
        facts += [
            f"{tokens(row[name])} {kind}"
            for name, kind in (("prompt_tokens", "in the prompt"), ("completion_tokens", "generated"))
            if row[name]
        ]
        yield from wrapped(Text("  "), ", ".join(facts), width)
    if (row["held_ms"] or 0) >= 1:
        end = "for a node; none was available" if row["status"] == "rejected" else "until a node was available"
        yield from wrapped(Text("  "), f"waited {duration(row['held_ms'])} {end}", width)
    if row["fallback_used"]:
        yield from wrapped(
            Text("  "),
            f"answered by the fallback model {row['model']}, because {row['original_model']} was not available",
            width,
        )
    if row.get("truncated"):
        yield from wrapped(
            Text("  "),
            "the engine truncated the prompt; to prevent this, set FLEET_CONTEXT_OVERFLOW=enlarge (or strict)",
            width,
            "yellow",
        )
    if lost := row.get("without_effect"):
        yield from wrapped(Text("  "), f"without effect: {', '.join(lost)}", width, "yellow")
    if row.get("repairs"):
        yield from wrapped(Text("  "), f"{row['repairs']} (FLEET_TOOL_REPAIR=off disables this)", width)
    if row["error_message"]:
        yield from wrapped(Text("  "), row["error_message"], width, "yellow")


def _attempt(row: Json, number: int) -> Text:
    outcome = f"{OUTCOMES.get(row['status'], 'on')} {row['node_id']}" if row["node_id"] else "no node was left"
    problem = (
        f" after {duration(row['attempt_ms'])}: {row['error_message'] or row['failure']}"
        if row["status"] == "retried"
        else ""
    )
    return Text(printable(f"Attempt {number}: {outcome}{problem}"), "yellow" if problem else "")


def choice_lines(row: Json, width: int, sizes: Sizes) -> list[Text]:
    """Every candidate, the chosen node first, then every rejected node with the reason."""
    record = decision_record.of_row(row)
    scored, rejected = record.scored, record.rejected
    if not scored and not rejected:
        return [Text("  No node was considered.", "dim")]
    node_ids = [one.node_id for one in scored] + [one.node_id for one in rejected]
    size = max(len(printable(node_id)) for node_id in node_ids) + 1
    describe = describe_seconds if is_by_completion_time(row) else describe_points
    lines = []
    for place, one in enumerate(scored):
        prefix = Text.assemble(
            ("  -> " if place == 0 else "     "),
            (f"{printable(one.node_id)}:".ljust(size), "green" if place == 0 else ""),
            " ",
        )
        lines += wrapped(prefix, describe(one, place == 0, size_gb(one, sizes)), width)
    if len(scored) > 1 and describe(scored[0], True, None) == describe(scored[1], True, None):
        lines.append(Text("     equal; decided by the shorter queue, then by the name", "dim"))
    for out in rejected:
        prefix = Text.assemble("   x ", (f"{printable(out.node_id)}:".ljust(size), "dim"), " ")
        lines += wrapped(prefix, f"{out.reason} ({out.filter})", width, "dim")
    if record.left_out:
        lines.append(Text(f"     and {record.left_out} more that were not recorded", "dim"))
    for sentence in alternatives(row):
        lines += wrapped(Text("     "), sentence, width, "dim")
    return lines


def size_gb(scored: CandidateRecord, sizes: Sizes) -> float | None:
    """The model's size at the time of the decision; if it was not recorded, its current size."""
    recorded = scored.seen.size_bytes if scored.seen is not None else 0
    return recorded / GB if recorded else sizes.get(scored.node_id)


def describe_seconds(scored: CandidateRecord, is_chosen: bool, size_gb: float | None) -> str:
    """`1.2 s = 0.4 wait + 0.6 prefill + 0.2 decode; would load 4.1 GB first`."""
    if not scored.expected_s:
        return describe_points(scored, is_chosen, size_gb)
    load = ""
    if scored.term_s("load") > 0.0:
        size = gb(size_gb * BYTES_PER_GB) if size_gb else "the model"
        load = f"; {'had to' if is_chosen else 'would'} load {size} first"
    return _seconds(scored) + load


def describe_points(scored: CandidateRecord, _is_chosen: bool, _size_gb: float | None) -> str:
    """`72 points = 50 model loaded + 30 free memory - 8 queue`."""
    return _points(scored)


def _seconds(scored: CandidateRecord) -> str:
    """The sum and its terms, rounded so that the shown terms add up to the shown sum."""
    places = 2 if scored.seconds < 10 else 1
    least = 10.0**-places
    total = round(scored.seconds, places)
    units = [scored.term_s(name) / least for name, _ in TERMS]
    whole = [floor(one) for one in units]
    # The remainder of rounding down goes to the terms that lost most by it.
    left = max(0, min(len(whole), round(total / least) - sum(whole)))
    for at in sorted(range(len(units)), key=lambda at: whole[at] - units[at])[:left]:
        whole[at] += 1
    terms = [(name, one * least) for (_, name), one in zip(TERMS, whole, strict=True)]
    shown = [f"{value:.{places}f} {name}" for name, value in terms if value >= least / 2]
    return f"{total:.{places}f} s = {' + '.join(shown)}" if shown else "immediately"


def _points(scored: CandidateRecord) -> str:
    terms = [(round(points), LABELS.get(name, name)) for name, points in scored.terms.items() if points is not None]
    shown = "".join(f" {'-' if points < 0 else '+'} {abs(points)} {name}" for points, name in terms if points)
    return f"{scored.points:.0f} points ={shown.removeprefix(' +')}" if shown else "0 points: no signal applies"
