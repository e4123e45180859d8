"""Shows a live view of nodes, running requests and recent requests (`herd top`).

On a small screen, recent requests are left out first, then running requests.
"""

from __future__ import annotations

import time

from rich.console import Group
from rich.live import Live
from rich.text import Text

from herd.cli.client import CliError, CoordinatorClient, Json
from herd.cli.status import NO_NODES, headline, node_lines
from herd.cli.table import Cell, Column, table
from herd.cli.terminal import console, printable, show, status_style
from herd.text import duration

REFRESH_S = 1.0
RECENT_MAX = 50
HEADER_LINES = (2, 3, 3)
"""Lines above the rows of each section: an empty line, a title (not for nodes) and the column titles."""
ROWS_MIN = 3
RUNNING_ROWS_MIN = 4
"""Rows reserved for running requests, so that the section below does not move with every request."""

RUNNING_COLUMNS = (
    Column("request", 9, min_width=8),
    Column("model", 7, min_width=10),
    Column("state", 8),
    Column("node", 6, min_width=6),
    Column("age", 5, is_right=True),
    Column("attempt", 3, is_right=True),
    Column("waiting for", 4, min_width=12),
)
RECENT_COLUMNS = (
    Column("request", 9, min_width=8),
    Column("model", 7, min_width=10),
    Column("node", 6, min_width=6),
    Column("status", 8),
    Column("TTFT", 4, is_right=True),
    Column("total", 5, is_right=True),
    Column("tokens", 3, is_right=True),
)


def top(coordinator: CoordinatorClient, as_json: bool) -> None:
    """Updates the screen every second until Ctrl-C. Raises CliError if the coordinator does not answer at the start."""
    snapshot = _snapshot(coordinator)
    if as_json or not console.is_terminal:
        show(snapshot, as_json, lambda snapshot: top_lines(snapshot, console.width, None))
        return
    try:
        with Live(
            _screen(snapshot), console=console, screen=True, auto_refresh=False, vertical_overflow="crop"
        ) as live:
            while True:
                time.sleep(REFRESH_S)
                live.update(_screen_now(coordinator), refresh=True)
    except KeyboardInterrupt:
        return


def _snapshot(coordinator: CoordinatorClient) -> Json:
    return {
        "status": coordinator.get("/fleet/status"),
        "queue": coordinator.get("/fleet/queue"),
        "ended": coordinator.get(f"/dashboard/api/traces?limit={RECENT_MAX}")["traces"],
    }


def _screen_now(coordinator: CoordinatorClient) -> Group:
    try:
        return _screen(_snapshot(coordinator))
    except CliError as error:
        return Group(
            Text(printable(error.problem), "red"),
            Text(printable(error.remedy)),
            Text(),
            Text("Retrying every second. Stop with Ctrl-C.", "dim"),
        )


def _screen(snapshot: Json) -> Group:
    return Group(*top_lines(snapshot, console.width, console.height))


def top_lines(snapshot: Json, width: int, height: int | None) -> list[Text]:
    """At most `height` lines; None for no limit."""
    state, running, recent = snapshot["status"], snapshot["queue"]["requests"], snapshot["ended"]
    running_rows = len(running) if height is None else max(len(running), RUNNING_ROWS_MIN)
    wanted = (len(state["nodes"]), running_rows, len(recent))
    for_nodes, for_running, for_recent = wanted if height is None else shares(height, wanted)
    lines = [headline(state)]
    lines += _node_section(state["nodes"], for_nodes, width)
    lines += _running_section(running, for_running, width)
    lines += _recent_section(recent[:for_recent], width)
    return lines if height is None else lines[:height]


def shares(height: int, wanted: tuple[int, int, int]) -> tuple[int, int, int]:
    """The number of rows of each section. On a small screen, the last section is left out first."""
    sections = len(HEADER_LINES)
    least = [min(lines, ROWS_MIN) for lines in wanted]
    while sections > 1 and 1 + sum(HEADER_LINES[:sections]) + sum(least[:sections]) > height:
        sections -= 1
        least[sections] = 0
    free = max(0, height - 1 - sum(HEADER_LINES[:sections]))
    given = list(least)
    for at in range(sections):
        given[at] = max(0, min(wanted[at], given[at] + free - sum(given)))
    return given[0], given[1], given[2]


def _node_section(nodes: list[Json], lines: int, width: int) -> list[Text]:
    if not nodes:
        return [Text(NO_NODES)]
    shown = fitting(len(nodes), lines)
    return [Text(), *node_lines(nodes[:shown], width), *_hidden(len(nodes) - shown)] if lines else []


def _running_section(requests: list[Json], lines: int, width: int) -> list[Text]:
    """Has a constant height, if there is room, so that the section below does not move with every request."""
    shown = fitting(len(requests), lines)
    if not lines and requests:
        return []
    columns = RUNNING_COLUMNS if any(one["waits_for"] for one in requests) else RUNNING_COLUMNS[:-1]
    drawn = (
        [Text("No running requests", "dim")]
        if not requests
        else [
            Text("Running", "bold"),
            *table(columns, [_running_row(one) for one in requests[:shown]], width),
            *_hidden(len(requests) - shown),
        ]
    )
    missing = HEADER_LINES[1] - 1 + lines - len(drawn)
    return [Text(), *drawn, *(Text() for _ in range(missing if lines else 0))]


def fitting(count: int, lines: int) -> int:
    """How many of `count` rows fit; if not all do, one line is needed to say how many are missing."""
    return count if count <= lines else max(0, lines - 1)


def _hidden(count: int) -> list[Text]:
    return [Text(f"and {count} more", "dim")] if count > 0 else []


def _running_row(one: Json) -> list[Cell]:
    waits = one["state"] in ("held", "pending")
    return [
        Cell(printable(one["request_id"])),
        Cell(printable(one["model"])),
        Cell(one["state"], "yellow" if waits else ""),
        Cell(printable(one["node_id"] or "-")),
        Cell(duration(one["age_s"] * 1000)),
        Cell(str(one["attempt"])),
        Cell(printable(_waiting(one))),
    ]


def _waiting(one: Json) -> str:
    """The queue position, the expected wait and what the request waits for; empty for a running request."""
    if not one["waits_for"]:
        return ""
    wait = f", {duration(one['expected_wait_s'] * 1000)}" if one.get("expected_wait_s") is not None else ""
    position = f"position {one['position']}{wait}: " if one.get("position") else ""
    return f"{position}{one['waits_for']}"


def _recent_section(traces: list[Json], width: int) -> list[Text]:
    if not traces:
        return [Text(), Text("No recent requests. Send one with: herd chat MODEL", "dim")]
    title = Text.assemble(("Recent", "bold"), ("  explain a routing decision with: herd why REQUEST", "dim"))
    return [Text(), title, *table(RECENT_COLUMNS, [_recent_row(row) for row in traces], width)]


def _recent_row(row: Json) -> list[Cell]:
    return [
        Cell(printable(row["request_id"])),
        Cell(printable(row["model"])),
        Cell(printable(row["node_id"] or "-")),
        Cell(row["status"], status_style(row["status"])),
        Cell(duration(row["time_to_first_token_ms"])),
        Cell(duration(row["latency_ms"])),
        Cell(str(row["completion_tokens"] or "-")),
    ]
