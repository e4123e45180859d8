"""Shows the nodes and what they do (`herd status`)."""

from __future__ import annotations

from rich.text import Text

from herd.cli.client import CoordinatorClient, Json
from herd.cli.table import Cell, Column, table
from herd.cli.terminal import console, printable, show, status_style
from herd.text import BYTES_PER_GB, duration, gb, number

NO_NODES = "No node has reported yet. On each machine with an engine run: herd-node"

NODE_COLUMNS = (
    Column("node", 9, min_width=12),
    Column("status", 8),
    Column("running", 7, is_right=True),
    Column("queued", 6, is_right=True),
    Column("memory free", 4, is_right=True),
    Column("engine", 3, min_width=8),
    Column("loaded", 5, min_width=14),
    Column("last seen", 2, is_right=True),
)


def status(coordinator: CoordinatorClient, as_json: bool) -> None:
    show(coordinator.get("/fleet/status"), as_json, lambda state: status_lines(state, console.width))


def status_lines(state: Json, width: int) -> list[Text]:
    lines = [headline(state)]
    if state["nodes"]:
        lines += [Text(), *node_lines(state["nodes"], width)]
    else:
        lines.append(Text(NO_NODES))
    if (state.get("store") or {}).get("failing_since") is not None:
        lines += [
            Text(),
            Text(f"Traces cannot be stored: {printable(state['store']['problem'])}", "yellow"),
            Text("  for details run: herd doctor"),
        ]
    if (capture := state.get("capture") or {}).get("is_on"):
        lines += [Text(), Text(capture_line(capture["ends_in_s"]), "yellow")]
    return lines


def capture_line(ends_in_s: float) -> str:
    return (
        f"PROMPT CAPTURE IS ON for another {duration(ends_in_s * 1000)} (FLEET_CAPTURE): prompts are stored in memory, "
        "and anyone with an admin key can read them."
    )


def headline(state: Json) -> Text:
    """The fleet in one line."""
    fleet = state["fleet"]
    online, total = fleet["nodes_online"], fleet["nodes_total"]
    nodes = number(total, "node") + " online" if online == total else f"{online} of {number(total, 'node')} online"
    line = f"{nodes}, {fleet['requests_active']} running, {fleet['requests_waiting']} queued"
    return Text(line, "bold" if online or not total else "bold red")


def node_lines(nodes: list[Json], width: int) -> list[Text]:
    return table(NODE_COLUMNS, [_node_row(node) for node in nodes], width)


def _node_row(node: Json) -> list[Cell]:
    state = node_state(node)
    engines = ", ".join(f"{engine['kind']} x{engine['slots']}" for engine in node["engines"])
    loaded = ", ".join(model["name"] for model in node["models"] if model["loaded"])
    style = "dim" if state == "offline" else ""
    return [
        Cell(printable(node["node_id"]), style),
        Cell(state, status_style(state)),
        Cell(str(node["requests_active"]), style),
        Cell(str(node["requests_pending"]), style),
        Cell(gb(node["memory"]["available_gb"] * BYTES_PER_GB), style),
        Cell(printable(engines or "none found"), style if engines else "yellow"),
        Cell(printable(loaded or "-"), style),
        Cell(_last_seen(node["last_heartbeat_s"]), "dim"),
    ]


def _last_seen(age_s: float) -> str:
    if age_s < 1:
        return "now"
    return f"{age_s:.0f} s ago" if age_s < 60 else f"{duration(age_s * 1000)} ago"


def node_state(node: Json) -> str:
    """One word: the most important reason why the node gets no requests, else its status."""
    if node["status"] == "offline":
        return "offline"
    if not node["reachable"]:
        return "unreachable"
    if node["draining"]:
        return "draining"
    return "paused" if node["paused"] else str(node["status"])
