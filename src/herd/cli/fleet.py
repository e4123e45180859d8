"""`herd status`, `herd models`, `herd top`: who is there, what they have, what they do. Reads; changes nothing."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from herd.cli.client import Coordinator, Trouble
from herd.cli.screen import console, gb, safe, seconds, show, styled, table

Json = dict[str, Any]

TOP_REFRESH_S = 1.0
RECENT_SHOWN = 8
NODES_HINT = "No node has reported yet. On each machine with an engine run: herd-node"


def status(coordinator: Coordinator, as_json: bool) -> None:
    show(coordinator.get("/fleet/status"), as_json, _draw_status)


def models(coordinator: Coordinator, as_json: bool) -> None:
    """Every model, the nodes that have it, and where it is in memory."""
    show(by_model(coordinator.get("/fleet/status")), as_json, _draw_models)


def by_model(state: Json) -> list[Json]:
    """The nodes' models, turned around: one entry per model."""
    found: dict[str, Json] = {}
    for node in state["nodes"]:
        for model in node["models"]:
            entry = found.setdefault(
                model["name"].lower(),
                {"name": model["name"], "size_gb": model["size_gb"], "nodes": [], "loaded_on": [], "digests": []},
            )
            entry["nodes"].append(node["node_id"])
            if model["loaded"]:
                entry["loaded_on"].append({"node": node["node_id"], "context_length": model["context_length"]})
            if model["digest"] and model["digest"] not in entry["digests"]:
                entry["digests"].append(model["digest"])
    return [found[name] for name in sorted(found)]


def top(coordinator: Coordinator, rounds: int | None = None) -> None:
    """A screen that follows the fleet until Ctrl-C. Not a terminal: one plain picture."""
    if not console.is_terminal:
        console.print(_top_screen(coordinator))
        return
    try:
        with Live(_top_screen(coordinator), console=console, screen=True, auto_refresh=False) as live:
            while rounds is None or rounds > 0:
                rounds = None if rounds is None else rounds - 1
                time.sleep(TOP_REFRESH_S)
                live.update(_top_screen(coordinator), refresh=True)
    except KeyboardInterrupt:
        return


def _top_screen(coordinator: Coordinator) -> Group:
    try:
        state = coordinator.get("/fleet/status")
        queue = coordinator.get("/fleet/queue")
        traces = coordinator.get(f"/dashboard/api/traces?limit={RECENT_SHOWN}")
    except Trouble as trouble:
        return Group(Text(trouble.problem, style="red"), Text(trouble.remedy))
    fleet = state["fleet"]
    head = (
        f"{fleet['nodes_online']} of {fleet['nodes_total']} nodes   {fleet['models_loaded']} models in memory   "
        f"{fleet['requests_active']} running   {fleet['requests_waiting']} waiting"
    )
    return Group(
        Text(head, style="bold"), Text(""), _nodes_table(state["nodes"]), Text(""),
        Text("Now", style="dim"), _live_table(queue["requests"]), Text(""),
        Text("Lately", style="dim"), _traces_table(traces["traces"]),
    )  # fmt: skip


def _draw_status(state: Json) -> None:
    fleet = state["fleet"]
    console.print(f"{fleet['nodes_online']} of {fleet['nodes_total']} nodes online, {fleet['requests_active']} requests running, "
                  f"{fleet['requests_waiting']} waiting")  # fmt: skip
    if not state["nodes"]:
        console.print(NODES_HINT)
        return
    console.print(_nodes_table(state["nodes"]))
    if state["store"]["failing_since"] is not None:
        console.print(f"[yellow]traces are not being stored: {safe(state['store']['problem'])}[/yellow]")


def _nodes_table(nodes: list[Json]) -> Table:
    drawn = table("node", "status", "engine", ">running", ">waiting", ">memory free", "in memory")
    for node in nodes:
        engines = ", ".join(f"{e['kind']} x{e['slots']}" for e in node["engines"])
        loaded = ", ".join(m["name"] for m in node["models"] if m["loaded"]) or "-"
        drawn.add_row(
            safe(node["node_id"]), _node_status(node), safe(engines or "none found"), str(node["requests_active"]),
            str(node["requests_pending"]), gb(node["memory"]["available_gb"]), safe(loaded),
        )  # fmt: skip
    return drawn


def _node_status(node: Json) -> str:
    if node["status"] != "offline" and not node["reachable"]:
        return "[red]unreachable[/red]"
    if node["draining"] or node["paused"]:
        return "[yellow]draining[/yellow]" if node["draining"] else "[yellow]paused[/yellow]"
    return styled(node["status"])


def _draw_models(found: list[Json]) -> None:
    if not found:
        console.print(NODES_HINT)
        return
    drawn = table("model", ">size", "on", "in memory on")
    for model in found:
        loaded = ", ".join(f"{one['node']} (window {one['context_length'] or '?'})" for one in model["loaded_on"])
        drift = " [yellow](different versions)[/yellow]" if len(model["digests"]) > 1 else ""
        drawn.add_row(safe(model["name"]) + drift, gb(model["size_gb"]), safe(", ".join(model["nodes"])), safe(loaded or "-"))
    console.print(drawn)


def _live_table(requests: list[Json]) -> Table:
    drawn = table("request", "model", "state", "node", ">age")
    for one in requests[:20]:
        drawn.add_row(safe(one["request_id"]), safe(one["model"]), one["state"], safe(one["node_id"] or "-"), f"{one['age_s']:.1f} s")
    if not requests:
        drawn.add_row("[dim]nothing[/dim]")
    return drawn


def _traces_table(traces: list[Json]) -> Table:
    drawn = table("request", "model", "node", "ended", ">first token", ">in all", ">tokens")
    for row in traces:
        drawn.add_row(
            safe(row["request_id"]), safe(row["model"]), safe(row["node_id"] or "-"), styled(row["status"]),
            seconds(row["time_to_first_token_ms"]), seconds(row["latency_ms"]), str(row["completion_tokens"] or "-"),
        )  # fmt: skip
    return drawn
