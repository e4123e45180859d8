"""`herd top`: the fleet on one screen that follows it, or one picture of it. Reads; changes nothing.

Nodes come first, then what runs, then what ended; when the screen is short, what ended gives way first.
"""

from __future__ import annotations

import time

from rich.console import Group
from rich.live import Live
from rich.text import Text

from herd.cli.client import CliError, CoordinatorClient, Json
from herd.cli.columns import Cell, Column, table
from herd.cli.fleet import NO_NODES, headline, node_lines
from herd.cli.screen import clean, console, show, style_of
from herd.text import duration

REFRESH_S = 1.0
ENDED_MAX = 50
HEADS = (2, 3, 3)
"""Lines above the rows of each section: nodes, what runs, what ended. An empty line, a title, the columns' heads."""
ROWS_MIN = 3
RUNNING_STEADY = 4
"""Rows kept free for what runs, so that what stands below stays where it is."""

RUNNING_COLUMNS = (
    Column("request", 9, least=8),
    Column("model", 7, least=10),
    Column("state", 8),
    Column("node", 6, least=6),
    Column("age", 5, is_right=True),
    Column("attempt", 3, is_right=True),
    Column("waits for", 4, least=12),
)
ENDED_COLUMNS = (
    Column("request", 9, least=8),
    Column("model", 7, least=10),
    Column("node", 6, least=6),
    Column("ended", 8),
    Column("first byte", 4, is_right=True),
    Column("in all", 5, is_right=True),
    Column("tokens", 3, is_right=True),
)


def top(coordinator: CoordinatorClient, as_json: bool) -> None:
    """Follows the fleet until Ctrl-C. Raises Trouble when the coordinator does not answer at the start."""
    picture = _picture(coordinator)
    if as_json or not console.is_terminal:
        show(picture, as_json, lambda told: top_lines(told, console.width, None))
        return
    try:
        with Live(_screen(picture), console=console, screen=True, auto_refresh=False, vertical_overflow="crop") as live:
            while True:
                time.sleep(REFRESH_S)
                live.update(_screen_now(coordinator), refresh=True)
    except KeyboardInterrupt:
        return


def _picture(coordinator: CoordinatorClient) -> Json:
    return {
        "status": coordinator.get("/fleet/status"),
        "queue": coordinator.get("/fleet/queue"),
        "ended": coordinator.get(f"/dashboard/api/traces?limit={ENDED_MAX}")["traces"],
    }


def _screen_now(coordinator: CoordinatorClient) -> Group:
    try:
        return _screen(_picture(coordinator))
    except CliError as trouble:
        return Group(
            Text(clean(trouble.problem), "red"),
            Text(clean(trouble.remedy)),
            Text(),
            Text("Asking again every second. Ctrl-C ends.", "dim"),
        )


def _screen(picture: Json) -> Group:
    return Group(*top_lines(picture, console.width, console.height))


def top_lines(picture: Json, width: int, height: int | None) -> list[Text]:
    """No more lines than `height`; None for as many as there are."""
    state, running, ended = picture["status"], picture["queue"]["requests"], picture["ended"]
    wanted = (len(state["nodes"]), len(running) if height is None else max(len(running), RUNNING_STEADY), len(ended))
    for_nodes, for_running, for_ended = wanted if height is None else shares(height, wanted)
    lines = [headline(state)]
    lines += _node_section(state["nodes"], for_nodes, width)
    lines += _running_section(running, for_running, width)
    lines += _ended_section(ended[:for_ended], width)
    return lines if height is None else lines[:height]


def shares(height: int, wanted: tuple[int, int, int]) -> tuple[int, int, int]:
    """The lines under the heads of the three sections. The last section goes first when the screen is short."""
    there = len(HEADS)
    least = [min(lines, ROWS_MIN) for lines in wanted]
    while there > 1 and 1 + sum(HEADS[:there]) + sum(least[:there]) > height:
        there -= 1
        least[there] = 0
    free = max(0, height - 1 - sum(HEADS[:there]))
    given = list(least)
    for at in range(there):
        given[at] = max(0, min(wanted[at], given[at] + free - sum(given)))
    return given[0], given[1], given[2]


def _node_section(nodes: list[Json], lines: int, width: int) -> list[Text]:
    if not nodes:
        return [Text(NO_NODES)]
    shown = fitting(len(nodes), lines)
    return [Text(), *node_lines(nodes[:shown], width), *_left_out(len(nodes) - shown)] if lines else []


def _running_section(requests: list[Json], lines: int, width: int) -> list[Text]:
    """Always as tall, where there is room: what stands below must not jump with every request."""
    shown = fitting(len(requests), lines)
    if not lines and requests:
        return []
    columns = RUNNING_COLUMNS if any(one["waits_for"] for one in requests) else RUNNING_COLUMNS[:-1]
    drawn = (
        [Text("Now: nothing runs", "dim")]
        if not requests
        else [
            Text("Now", "bold"),
            *table(columns, [_running_row(one) for one in requests[:shown]], width),
            *_left_out(len(requests) - shown),
        ]
    )
    missing = HEADS[1] - 1 + lines - len(drawn)
    return [Text(), *drawn, *(Text() for _ in range(missing if lines else 0))]


def fitting(count: int, lines: int) -> int:
    """How many of them can be shown, when one line must tell of the rest."""
    return count if count <= lines else max(0, lines - 1)


def _left_out(count: int) -> list[Text]:
    return [Text(f"and {count} more", "dim")] if count > 0 else []


def _running_row(one: Json) -> list[Cell]:
    waits = one["state"] in ("held", "pending")
    return [
        Cell(clean(one["request_id"])),
        Cell(clean(one["model"])),
        Cell(one["state"], "yellow" if waits else ""),
        Cell(clean(one["node_id"] or "-")),
        Cell(duration(one["age_s"] * 1000)),
        Cell(str(one["attempt"])),
        Cell(clean(_waiting(one))),
    ]


def _waiting(one: Json) -> str:
    """Its place in the line, how long that may take, and for what; empty once it runs."""
    if not one["waits_for"]:
        return ""
    soon = f", {duration(one['expected_wait_s'] * 1000)}" if one.get("expected_wait_s") is not None else ""
    place = f"place {one['position']}{soon}: " if one.get("position") else ""
    return f"{place}{one['waits_for']}"


def _ended_section(traces: list[Json], width: int) -> list[Text]:
    if not traces:
        return [Text(), Text("Lately: nothing has ended. Ask something: herd chat MODEL", "dim")]
    head = Text.assemble(("Lately", "bold"), ("  why one went where it went: herd why REQUEST", "dim"))
    return [Text(), head, *table(ENDED_COLUMNS, [_ended_row(row) for row in traces], width)]


def _ended_row(row: Json) -> list[Cell]:
    return [
        Cell(clean(row["request_id"])),
        Cell(clean(row["model"])),
        Cell(clean(row["node_id"] or "-")),
        Cell(row["status"], style_of(row["status"])),
        Cell(duration(row["time_to_first_token_ms"])),
        Cell(duration(row["latency_ms"])),
        Cell(str(row["completion_tokens"] or "-")),
    ]
