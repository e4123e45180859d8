"""`herd why ID`: the choice behind one request in words: every node with its seconds, points or reason. Reads; decides nothing."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from math import floor
from types import MappingProxyType

from rich.text import Text

from herd.cli.client import CliError, CoordinatorClient, Json
from herd.cli.screen import clean, console, folded, show, style_of
from herd.core.planning import decision_record
from herd.core.planning.decision_record import CandidateRecord
from herd.core.state.fleet import GB, canonical
from herd.dashboard.alternatives import alternatives, is_by_seconds
from herd.text import BYTES_PER_GB, duration, gb, tokens

TERMS = (
    ("wait", "wait"),
    ("load", "loading"),
    ("prefill", "reading"),
    ("decode", "writing"),
    ("harm", "harm to others"),
)
"""The terms of the expected seconds, in words and in the order in which they come to pass."""
SIGNALS = MappingProxyType(
    {
        "thermal": "model at hand",
        "memory_fit": "room",
        "queue_depth": "queue",
        "wait_time": "expected wait",
        "role_affinity": "size suits",
        "availability_trend": "becoming free",
        "context_fit": "window fits",
    }
)
"""The public names of the signals, in words."""
OUTCOMES = MappingProxyType(
    {
        "completed": "answered by",
        "failed": "failed on",
        "failed_midstream": "broke off on",
        "retried": "failed on",
        "client_cancelled": "left by its client on",
        "rejected": "rejected",
    }
)
Sizes = Mapping[str, float]
"""Gigabytes of the model in question, by node."""


def why(coordinator: CoordinatorClient, request_id: str, as_json: bool) -> None:
    """`request_id` may be a beginning, or "last"."""
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
        raise CliError("no request has been made yet", "make one with: herd chat MODEL")
    return str(traces[0]["request_id"])


def sizes_of(coordinator: CoordinatorClient, model: str) -> Sizes:
    """How large the model is on each node that is there now."""
    nodes = coordinator.get("/fleet/status")["nodes"]
    wanted = canonical(model)
    return {
        node["node_id"]: one["size_gb"] for node in nodes for one in node["models"] if canonical(one["name"]) == wanted
    }


def why_lines(rows: list[Json], width: int, now: float, sizes: Sizes) -> list[Text]:
    """The request, then every attempt with the choice before it. `now` is unix seconds, `rows` are oldest first."""
    end = rows[-1]
    lines = [_head(end, now), *_facts(end, width)]
    for number, row in enumerate(rows, start=1):
        lines.append(Text())
        if len(rows) > 1:
            lines.append(_attempt(row, number))
        lines += choice_lines(row, width, sizes)
    return lines


def _head(row: Json, now: float) -> Text:
    ago = f"{duration(max(0.0, now - row['timestamp']) * 1000)} ago"
    return Text.assemble(
        (clean(row["request_id"]), "bold"),
        f"  {clean(row['original_model'] or row['model'])}  ",
        (row["status"], style_of(row["status"])),
        (f"  {ago}", "dim"),
    )


def _facts(row: Json, width: int) -> Iterable[Text]:
    if row["node_id"]:
        told = [f"{OUTCOMES.get(row['status'], 'on')} {row['node_id']}"]
        if row["time_to_first_token_ms"] is not None:
            told.append(f"first byte after {duration(row['time_to_first_token_ms'])}")
        told.append(f"{duration(row['latency_ms'])} in all")
        told += [
            f"{tokens(row[name])} {verb}"
            for name, verb in (("prompt_tokens", "read"), ("completion_tokens", "written"))
            if row[name]
        ]
        yield from folded(Text("  "), ", ".join(told), width)
    if (row["held_ms"] or 0) >= 1:
        yield from folded(Text("  "), f"waited {duration(row['held_ms'])} until a node could take it", width)
    if row["fallback_used"]:
        yield from folded(
            Text("  "),
            f"answered by the fallback {row['model']}, since {row['original_model']} was not to be had",
            width,
        )
    if row.get("truncated"):
        yield from folded(
            Text("  "),
            "its prompt was cut: FLEET_CONTEXT_OVERFLOW=enlarge (or strict) does not let that happen",
            width,
            "yellow",
        )
    if row["error_message"]:
        yield from folded(Text("  "), row["error_message"], width, "yellow")


def _attempt(row: Json, number: int) -> Text:
    words = OUTCOMES.get(row["status"], "on")
    told = f"Attempt {number}: {words} {row['node_id']}" if row["node_id"] else f"Attempt {number}: no node was left"
    problem = (
        f" after {duration(row['attempt_ms'])}: {row['error_message'] or row['failure']}"
        if row["status"] == "retried"
        else ""
    )
    return Text(clean(told + problem), "yellow" if problem else "")


def choice_lines(row: Json, width: int, sizes: Sizes) -> list[Text]:
    """Every node that was considered, the chosen one first; then those that were not, with the reason."""
    record = decision_record.of_row(row)
    scored, rejected = record.scored, record.rejected
    if not scored and not rejected:
        return [Text("  No node was considered.", "dim")]
    node_ids = [one.node_id for one in scored] + [one.node_id for one in rejected]
    size = max(len(clean(node_id)) for node_id in node_ids) + 1
    told = seconds_told if is_by_seconds(row) else points_told
    lines = []
    for place, one in enumerate(scored):
        head = Text.assemble(
            ("  -> " if place == 0 else "     "),
            (f"{clean(one.node_id)}:".ljust(size), "green" if place == 0 else ""),
            " ",
        )
        lines += folded(head, told(one, place == 0, size_gb(one, sizes)), width)
    if len(scored) > 1 and told(scored[0], True, None) == told(scored[1], True, None):
        lines.append(Text("     equal: then the shorter queue decides, then the name", "dim"))
    for out in rejected:
        head = Text.assemble("   x ", (f"{clean(out.node_id)}:".ljust(size), "dim"), " ")
        lines += folded(head, f"{out.reason} ({out.filter})", width, "dim")
    if record.left_out:
        lines.append(Text(f"     and {record.left_out} more that are not on record", "dim"))
    for sentence in alternatives(row):
        lines += folded(Text("     "), sentence, width, "dim")
    return lines


def size_gb(scored: CandidateRecord, sizes: Sizes) -> float | None:
    """As it was then; for rows that do not keep it, as it is now."""
    then = scored.seen.size_bytes if scored.seen is not None else 0
    return then / GB if then else sizes.get(scored.node_id)


def seconds_told(scored: CandidateRecord, is_chosen: bool, size_gb: float | None) -> str:
    """`1.2 s = 0.4 wait + 0.6 reading + 0.2 writing; would load 4.1 GB first`."""
    if not scored.expected_s:
        return points_told(scored, is_chosen, size_gb)
    load = ""
    if scored.term_s("load") > 0.0:
        load = f"; {'had to' if is_chosen else 'would'} load {gb(size_gb * BYTES_PER_GB) if size_gb else 'the model'} first"
    return _seconds(scored) + load


def points_told(scored: CandidateRecord, _is_chosen: bool, _size_gb: float | None) -> str:
    """`72 points = 50 model at hand + 30 room - 8 queue`."""
    return _points(scored)


def _seconds(scored: CandidateRecord) -> str:
    """Rounded so that the terms shown add up to the sum shown."""
    places = 2 if scored.seconds < 10 else 1
    least = 10.0**-places
    total = round(scored.seconds, places)
    units = [scored.term_s(name) / least for name, _ in TERMS]
    whole = [floor(one) for one in units]
    # What rounding down left over goes to those that lost most by it.
    left = max(0, min(len(whole), round(total / least) - sum(whole)))
    for at in sorted(range(len(units)), key=lambda at: whole[at] - units[at])[:left]:
        whole[at] += 1
    terms = [(words, one * least) for (_, words), one in zip(TERMS, whole, strict=True)]
    shown = [f"{value:.{places}f} {words}" for words, value in terms if value >= least / 2]
    return f"{total:.{places}f} s = {' + '.join(shown)}" if shown else "at once"


def _points(scored: CandidateRecord) -> str:
    terms = [(round(points), SIGNALS.get(name, name)) for name, points in scored.terms.items() if points is not None]
    told = "".join(f" {'-' if points < 0 else '+'} {abs(points)} {words}" for points, words in terms if points)
    return (
        f"{scored.points:.0f} points ={told.removeprefix(' +')}"
        if told
        else "0 points: nothing speaks for or against it"
    )
