"""`herd status` and `herd models`: who is there and what they have, drawn to fit. Reads; changes nothing."""

from __future__ import annotations

from rich.text import Text

from herd.cli.client import CoordinatorClient, Json
from herd.cli.columns import Cell, Column, table
from herd.cli.screen import clean, console, show, style_of
from herd.core.state.fleet import canonical
from herd.text import BYTES_PER_GB, duration, gb, number

NO_NODES = "No node has reported yet. On each machine with an engine run: herd-node"
NO_MODELS = "No node has a model yet. On one of them run, for example: ollama pull llama3.2:3b"
DIGEST_SHOWN_CHARS = 12

NODE_COLUMNS = (
    Column("node", 9, least=8),
    Column("status", 8),
    Column("running", 7, is_right=True),
    Column("waiting", 6, is_right=True),
    Column("memory free", 4, is_right=True),
    Column("engine", 3, least=8),
    Column("in memory", 5, least=14),
    Column("heard", 2, is_right=True),
)
MODEL_COLUMNS = (
    Column("model", 9, least=16),
    Column("size", 7, is_right=True),
    Column("params", 3, is_right=True),
    Column("quant", 2),
    Column("in memory (window)", 8, least=18),
    Column("on disk only", 5, least=12),
)


def status(coordinator: CoordinatorClient, as_json: bool) -> None:
    show(coordinator.get("/fleet/status"), as_json, lambda state: status_lines(state, console.width))


def models(coordinator: CoordinatorClient, as_json: bool) -> None:
    """Every model, the nodes that have it, and where it is in memory."""
    show(by_model(coordinator.get("/fleet/status")), as_json, lambda found: model_lines(found, console.width))


# --- nodes ---


def status_lines(state: Json, width: int) -> list[Text]:
    lines = [headline(state)]
    if state["nodes"]:
        lines += [Text(), *node_lines(state["nodes"], width)]
    else:
        lines.append(Text(NO_NODES))
    if (state.get("store") or {}).get("failing_since") is not None:
        lines += [
            Text(),
            Text(f"Traces are not being stored: {clean(state['store']['problem'])}", "yellow"),
            Text("  look closer with: herd doctor"),
        ]
    if (capture := state.get("capture") or {}).get("is_on"):
        lines += [Text(), Text(capture_line(capture["ends_in_s"]), "yellow")]
    return lines


def capture_line(ends_in_s: float) -> str:
    return f"PROMPTS ARE KEPT in memory for {duration(ends_in_s * 1000)} more (FLEET_CAPTURE); who may do everything can read them."


def headline(state: Json) -> Text:
    """The fleet in one line."""
    fleet = state["fleet"]
    online, total = fleet["nodes_online"], fleet["nodes_total"]
    nodes = number(total, "node") + " online" if online == total else f"{online} of {number(total, 'node')} online"
    told = f"{nodes}, {fleet['requests_active']} running, {fleet['requests_waiting']} waiting"
    return Text(told, "bold" if online or not total else "bold red")


def node_lines(nodes: list[Json], width: int) -> list[Text]:
    return table(NODE_COLUMNS, [_node_row(node) for node in nodes], width)


def _node_row(node: Json) -> list[Cell]:
    state = node_state(node)
    engines = ", ".join(f"{engine['kind']} x{engine['slots']}" for engine in node["engines"])
    loaded = ", ".join(model["name"] for model in node["models"] if model["loaded"])
    is_gone = "dim" if state == "offline" else ""
    return [
        Cell(clean(node["node_id"]), is_gone),
        Cell(state, style_of(state)),
        Cell(str(node["requests_active"]), is_gone),
        Cell(str(node["requests_pending"]), is_gone),
        Cell(gb(node["memory"]["available_gb"] * BYTES_PER_GB), is_gone),
        Cell(clean(engines or "none found"), is_gone if engines else "yellow"),
        Cell(clean(loaded or "-"), is_gone),
        Cell(_heard(node["last_heartbeat_s"]), "dim"),
    ]


def _heard(silent_s: float) -> str:
    if silent_s < 1:
        return "now"
    return f"{silent_s:.0f} s ago" if silent_s < 60 else f"{duration(silent_s * 1000)} ago"


def node_state(node: Json) -> str:
    """One word: what most keeps a node from getting requests."""
    if node["status"] == "offline":
        return "offline"
    if not node["reachable"]:
        return "unreachable"
    if node["draining"]:
        return "draining"
    return "paused" if node["paused"] else str(node["status"])


# --- models ---


def by_model(state: Json) -> list[Json]:
    """The nodes' models, turned around: one entry per model, by name. `has_drifted`: its nodes have different files under one name."""
    found: dict[str, Json] = {}
    for node in state["nodes"]:
        for model in node["models"]:
            facts = {key: model[key] for key in ("size_gb", "parameter_size", "quantization", "capabilities")}
            entry = found.setdefault(canonical(model["name"]), {"name": model["name"], **facts, "nodes": []})
            here = {key: model[key] for key in ("engine", "digest", "loaded", "loaded_gb", "context_length")}
            entry["nodes"].append({"node_id": node["node_id"], "status": node_state(node), **here})
    for entry in found.values():
        entry["has_drifted"] = len({here["digest"] for here in entry["nodes"] if here["digest"]}) > 1
    return [found[name] for name in sorted(found)]


def model_lines(found: list[Json], width: int) -> list[Text]:
    if not found:
        return [Text(NO_MODELS)]
    lines = table(MODEL_COLUMNS, [_model_row(model) for model in found], width)
    for model in found:
        if model["has_drifted"]:
            lines += _drift_lines(model)
    return lines


def _model_row(model: Json) -> list[Cell]:
    loaded = ", ".join(
        f"{here['node_id']} ({here['context_length'] or '?'})" for here in model["nodes"] if here["loaded"]
    )
    unloaded = ", ".join(here["node_id"] for here in model["nodes"] if not here["loaded"])
    return [
        Cell(clean(model["name"])),
        Cell(gb(model["size_gb"] * BYTES_PER_GB) if model["size_gb"] else "-"),
        Cell(clean(model["parameter_size"] or "-")),
        Cell(clean(model["quantization"] or "-")),
        Cell(clean(loaded or "-"), "green" if loaded else ""),
        Cell(clean(unloaded or "-")),
    ]


def _drift_lines(model: Json) -> list[Text]:
    versions = ", ".join(
        f"{here['digest'].removeprefix('sha256:')[:DIGEST_SHOWN_CHARS]} on {here['node_id']}"
        for here in model["nodes"]
        if here["digest"]
    )
    told = f"{clean(model['name'])} is not the same everywhere: {clean(versions)}"
    return [
        Text(),
        Text(told, "yellow"),
        Text(f"  the same again, on each of them: ollama pull {clean(model['name'])}"),
    ]
