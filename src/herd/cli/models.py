"""Lists models (`herd models`), and downloads, copies, deletes, loads and pins them (`herd pull`, `herd rm`, ...)."""

from __future__ import annotations

import json
import urllib.parse
from collections.abc import Iterator, Sequence
from types import MappingProxyType

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.text import Text

from herd.cli.certify.command import badge_texts
from herd.cli.client import CliError, CoordinatorClient, Json
from herd.cli.status import node_state
from herd.cli.table import Cell, Column, table
from herd.cli.terminal import console, error_console, print_lines, printable, show
from herd.core.state.fleet import canonical
from herd.text import BYTES_PER_GB, gb

NO_MODELS = "No node has a model yet. On one of them run, for example: ollama pull llama3.2:3b"
NO_PULLS = "No downloads in progress or recent. Download a model with: herd pull MODEL"
NO_PINS = "No model is pinned. Keep a model in memory with: herd pin MODEL"
DIGEST_SHOWN_CHARS = 12

MODEL_COLUMNS = (
    Column("model", 9, min_width=16),
    Column("size", 7, is_right=True),
    Column("params", 3, is_right=True),
    Column("quant", 2),
    Column("loaded (context)", 8, min_width=16),
    Column("on disk only", 5, min_width=12),
)
PULL_COLUMNS = (
    Column("pull", 6, min_width=6),
    Column("model and node", 9, min_width=12),
    Column("state", 8),
    Column("done", 5, is_right=True),
    Column("now", 3),
)
PIN_COLUMNS = (Column("model", 9, min_width=8), Column("node", 6), Column("loaded", 5))
STATE_STYLES = MappingProxyType(
    {"done": "green", "running": "cyan", "failed": "red", "cancelled": "yellow", "queued": "dim"}
)


# --- listing ---


def models(coordinator: CoordinatorClient, as_json: bool) -> None:
    """Shows every model, the nodes that have it, and where it is loaded."""
    found = by_model(coordinator.get("/fleet/status?detail=full"))
    badges = badge_texts(coordinator)
    for model in found:
        model["works_with"] = badges.get(canonical(model["name"]), "")
    show(found, as_json, lambda models: model_lines(models, console.width))


def by_model(state: Json) -> list[Json]:
    """One entry for each model of the nodes, sorted by name. `has_drifted`: nodes have different files for it."""
    found: dict[str, Json] = {}
    for node in state["nodes"]:
        for model in node["models"]:
            facts = {key: model[key] for key in ("size_gb", "parameter_size", "quantization", "capabilities")}
            entry = found.setdefault(canonical(model["name"]), {"name": model["name"], **facts, "nodes": []})
            copy = {key: model[key] for key in ("engine", "digest", "loaded", "loaded_gb", "context_length")}
            entry["nodes"].append({"node_id": node["node_id"], "status": node_state(node), **copy})
    for entry in found.values():
        entry["has_drifted"] = len({copy["digest"] for copy in entry["nodes"] if copy["digest"]}) > 1
    return [found[name] for name in sorted(found)]


def model_lines(found: list[Json], width: int) -> list[Text]:
    if not found:
        return [Text(NO_MODELS)]
    lines = table(MODEL_COLUMNS, [_model_row(model) for model in found], width)
    for model in found:
        if model["has_drifted"]:
            lines += _drift_lines(model)
    certified = [model for model in found if model.get("works_with")]
    if certified:
        lines += [Text(), Text("works with (herd certify)", "dim")]
        lines += [Text(printable(f"  {model['name']}: {model['works_with']}")) for model in certified]
    return lines


def _model_row(model: Json) -> list[Cell]:
    loaded = ", ".join(
        f"{copy['node_id']} ({copy['context_length'] or '?'})" for copy in model["nodes"] if copy["loaded"]
    )
    unloaded = ", ".join(copy["node_id"] for copy in model["nodes"] if not copy["loaded"])
    return [
        Cell(printable(model["name"])),
        Cell(gb(model["size_gb"] * BYTES_PER_GB) if model["size_gb"] else "-"),
        Cell(printable(model["parameter_size"] or "-")),
        Cell(printable(model["quantization"] or "-")),
        Cell(printable(loaded or "-"), "green" if loaded else ""),
        Cell(printable(unloaded or "-")),
    ]


def _drift_lines(model: Json) -> list[Text]:
    versions = ", ".join(
        f"{copy['digest'].removeprefix('sha256:')[:DIGEST_SHOWN_CHARS]} on {copy['node_id']}"
        for copy in model["nodes"]
        if copy["digest"]
    )
    return [
        Text(),
        Text(f"{printable(model['name'])} has different versions: {printable(versions)}", "yellow"),
        Text(f"  to get the same version, run on each of these nodes: ollama pull {printable(model['name'])}"),
    ]


# --- downloads and deletion ---


def pull(coordinator: CoordinatorClient, model: str, node: str, is_lan_only: bool, as_json: bool) -> None:
    """Downloads a model, with a progress bar on a terminal. Ctrl-C stops it; the next pull resumes there."""
    body = {"model": model, "node_id": node, "lan_only": is_lan_only}
    lines = (json.loads(line) for _, line in coordinator.lines("/api/pull", body))
    last: Json = {}
    if as_json:
        for last in lines:
            typer.echo(json.dumps(last))
    else:
        last = _show_progress(model, lines)
    if last.get("status") != "success":
        raise CliError(
            last.get("error", "the download was interrupted"),
            f"the data downloaded so far remains on disk; resume with: herd pull {model}"
            + (f" --node {node}" if node else ""),
        )
    if not as_json:
        print_lines(Text(f"{printable(model)} is now on {printable(last['node'])}, from {origin(last['source'])}."))


def _show_progress(model: str, lines: Iterator[Json]) -> Json:
    last: Json = {}
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task(printable(model), total=None)
        for last in lines:
            description = f"{printable(model)} to {printable(last['node'])}" + (
                f" from {origin(last['source'])}" if last.get("source") else " (queued)"
            )
            bar.update(task, description=description, total=last.get("total"), completed=last.get("completed", 0))
    return last


def origin(source: str) -> str:
    return "the internet" if source == "internet" else printable(source)


def pulls(coordinator: CoordinatorClient, as_json: bool) -> None:
    show(coordinator.get("/fleet/pulls"), as_json, lambda found: pull_lines(found["jobs"], console.width))


def pull_lines(jobs: Sequence[Json], width: int) -> list[Text]:
    return table(PULL_COLUMNS, [_pull_row(job) for job in jobs], width) if jobs else [Text(NO_PULLS)]


def _pull_row(job: Json) -> list[Cell]:
    share = f"{100 * job['done'] // job['total']} % of {job['total'] / 1e9:.1f} GB" if job["total"] else ""
    return [
        Cell(job["job_id"]),
        Cell(printable(job["title"])),
        Cell(job["state"], STATE_STYLES.get(job["state"], "")),
        Cell(share),
        Cell(printable(job["message"]), "red" if job["state"] == "failed" else "dim"),
    ]


def cancel(coordinator: CoordinatorClient, pull_id: str, as_json: bool) -> None:
    show(
        coordinator.delete(f"/fleet/pulls/{quoted(pull_id)}"),
        as_json,
        lambda reply: [Text(f"{reply['job_id']} is stopped; the data downloaded so far remains on disk.")],
    )


def remove(coordinator: CoordinatorClient, model: str, node: str, is_confirmed: bool, as_json: bool) -> None:
    """Deletes a model. Asks the user to type its name unless `is_confirmed` (--yes)."""
    if not is_confirmed:
        where = f" from {node}" if node and node != "*" else " from every node" if node else ""
        question = f"This deletes {printable(model)}{printable(where)}. Type the model's name to confirm:"
        error_console.print(question, end=" ")
        if input().strip() != model:
            raise CliError(
                "the name does not match; nothing was deleted", f"to skip this question: herd rm {model} --yes"
            )
    reply = coordinator.delete("/api/delete", {"model": model, "node_id": node, "confirm": model})
    show(
        reply,
        as_json,
        lambda one: [Text(f"{printable(one['model'])} is deleted from {printable(', '.join(one['nodes']))}.")],
    )


def spread(coordinator: CoordinatorClient, path: str, model: str, nodes: Sequence[str], as_json: bool) -> None:
    """Starts a copy to other nodes (`herd sync`, `herd update`)."""
    _, reply = coordinator.post(path, {"model": model, "node_ids": list(nodes)})
    show(
        reply,
        as_json,
        lambda one: (
            [*pull_lines(one["jobs"], console.width), Text("Show the progress with: herd pulls")]
            if one["jobs"]
            else [Text("Every node that can hold the model already has it.")]
        ),
    )


# --- memory ---


def place(
    coordinator: CoordinatorClient, verb: str, model: str, node: str, as_json: bool, is_forced: bool = False
) -> None:
    """Loads, unloads or pins a model, by `verb`."""
    options = {"force": True} if is_forced else {}
    _, reply = coordinator.post(f"/fleet/{verb}", {"model": model, "node_id": node, **options})
    nodes = reply.get("nodes") or ([reply["node_id"]] if reply.get("node_id") else [])
    where = f" on {', '.join(nodes)}" if nodes else ""
    show(reply, as_json, lambda one: [Text(printable(f"{one['model']} is {one['status']}{where}."))])


def pins(coordinator: CoordinatorClient, as_json: bool) -> None:
    show(coordinator.get("/fleet/pin"), as_json, lambda found: pin_lines(found["pins"], console.width))


def pin_lines(found: Sequence[Json], width: int) -> list[Text]:
    rows = [
        [
            Cell(printable(pin["model"])),
            Cell(printable(pin["node_id"] or "any")),
            Cell("yes", "green") if pin["is_loaded"] else Cell("not yet", "yellow"),
        ]
        for pin in found
    ]
    return table(PIN_COLUMNS, rows, width) if rows else [Text(NO_PINS)]


def unpin(coordinator: CoordinatorClient, model: str, as_json: bool) -> None:
    show(
        coordinator.delete(f"/fleet/pin/{quoted(model)}"),
        as_json,
        lambda reply: [Text(f"{printable(reply['model'])} is no longer pinned.")],
    )


def quoted(text: str) -> str:
    return urllib.parse.quote(text, safe="")
