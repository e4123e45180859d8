"""`herd pull`, `rm`, `sync`, `update`, `pin`, `load` and what belongs to them: models on disks and in memory. Asks the coordinator only."""

from __future__ import annotations

import json
import urllib.parse
from collections.abc import Iterator, Sequence
from types import MappingProxyType

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.text import Text

from herd.cli.client import CliError, CoordinatorClient, Json
from herd.cli.columns import Cell, Column, table
from herd.cli.screen import clean, complaints, console, put, show

PULL_COLUMNS = (
    Column("pull", 6, least=6),
    Column("model and node", 9, least=12),
    Column("state", 8),
    Column("done", 5, is_right=True),
    Column("now", 3),
)
PIN_COLUMNS = (Column("model", 9, least=8), Column("node", 6), Column("in memory", 5))
NO_PULLS = "Nothing is being fetched, and nothing was of late. Bring a model with: herd pull MODEL"
NO_PINS = "Nothing is pinned. Keep a model in memory with: herd pin MODEL"
STATE_STYLES = MappingProxyType(
    {"done": "green", "running": "cyan", "failed": "red", "cancelled": "yellow", "queued": "dim"}
)


def pull(coordinator: CoordinatorClient, model: str, node: str, is_lan_only: bool, as_json: bool) -> None:
    """Brings it, with a bar on a terminal; Ctrl-C stops it, and the next time it goes on from there."""
    body = {"model": model, "node_id": node, "lan_only": is_lan_only}
    lines = (json.loads(line) for _, line in coordinator.lines("/api/pull", body))
    if as_json:
        for line in lines:
            typer.echo(json.dumps(line))
            last = line
    else:
        last = _with_a_bar(model, lines)
    if last.get("status") != "success":
        raise CliError(
            last.get("error", "it broke off"),
            f"what was read is kept; go on with: herd pull {model}" + (f" --node {node}" if node else ""),
        )
    if not as_json:
        put(Text(f"{clean(model)} is on {clean(last['node'])} now, from {origin(last['source'])}."))


def _with_a_bar(model: str, lines: Iterator[Json]) -> Json:
    last: Json = {}
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task(clean(model), total=None)
        for last in lines:
            told = f"{clean(model)} to {clean(last['node'])}" + (
                f" from {origin(last['source'])}" if last.get("source") else " (waits)"
            )
            bar.update(task, description=told, total=last.get("total"), completed=last.get("completed", 0))
    return last


def origin(source: str) -> str:
    return "the internet" if source == "internet" else clean(source)


def pulls(coordinator: CoordinatorClient, as_json: bool) -> None:
    show(coordinator.get("/fleet/pulls"), as_json, lambda told: pull_lines(told["jobs"], console.width))


def pull_lines(jobs: Sequence[Json], width: int) -> list[Text]:
    return table(PULL_COLUMNS, [_pull_row(job) for job in jobs], width) if jobs else [Text(NO_PULLS)]


def _pull_row(job: Json) -> list[Cell]:
    share = f"{100 * job['done'] // job['total']} % of {job['total'] / 1e9:.1f} GB" if job["total"] else ""
    return [
        Cell(job["job_id"]),
        Cell(clean(job["title"])),
        Cell(job["state"], STATE_STYLES.get(job["state"], "")),
        Cell(share),
        Cell(clean(job["message"]), "red" if job["state"] == "failed" else "dim"),
    ]


def cancel(coordinator: CoordinatorClient, pull_id: str, as_json: bool) -> None:
    show(
        coordinator.delete(f"/fleet/pulls/{quoted(pull_id)}"),
        as_json,
        lambda told: [Text(f"{told['job_id']} is stopped; what was read is kept.")],
    )


def remove(coordinator: CoordinatorClient, model: str, node: str, is_confirmed: bool, as_json: bool) -> None:
    """Asks for the name again, unless it was said with --yes."""
    if not is_confirmed:
        where = f" from {node}" if node and node != "*" else " from every node" if node else ""
        complaints.print(f"This deletes {clean(model)}{clean(where)}. Type its name again:", end=" ")
        if input().strip() != model:
            raise CliError("that is not its name; nothing was deleted", f"without the question: herd rm {model} --yes")
    told = coordinator.delete("/api/delete", {"model": model, "node_id": node, "confirm": model})
    show(told, as_json, lambda one: [Text(f"{clean(one['model'])} is deleted from {clean(', '.join(one['nodes']))}.")])


def spread(coordinator: CoordinatorClient, path: str, model: str, nodes: Sequence[str], as_json: bool) -> None:
    """`sync` and `update`: begun here, watched with `herd pulls`."""
    _, told = coordinator.post(path, {"model": model, "node_ids": list(nodes)})
    show(
        told,
        as_json,
        lambda one: (
            [*pull_lines(one["jobs"], console.width), Text("Watch it with: herd pulls")]
            if one["jobs"]
            else [Text("Every node that can has it already.")]
        ),
    )


def place(coordinator: CoordinatorClient, verb: str, model: str, node: str, as_json: bool) -> None:
    """`load`, `unload` and `pin`."""
    _, told = coordinator.post(f"/fleet/{verb}", {"model": model, "node_id": node})
    nodes = told.get("nodes") or ([told["node_id"]] if told.get("node_id") else [])
    where = f" on {', '.join(nodes)}" if nodes else ""
    show(told, as_json, lambda one: [Text(clean(f"{one['model']} is {one['status']}{where}."))])


def pins(coordinator: CoordinatorClient, as_json: bool) -> None:
    show(coordinator.get("/fleet/pin"), as_json, lambda told: pin_lines(told["pins"], console.width))


def pin_lines(found: Sequence[Json], width: int) -> list[Text]:
    rows = [
        [
            Cell(clean(pin["model"])),
            Cell(clean(pin["node_id"] or "any")),
            Cell("yes", "green") if pin["is_loaded"] else Cell("not yet", "yellow"),
        ]
        for pin in found
    ]
    return table(PIN_COLUMNS, rows, width) if rows else [Text(NO_PINS)]


def unpin(coordinator: CoordinatorClient, model: str, as_json: bool) -> None:
    show(
        coordinator.delete(f"/fleet/pin/{quoted(model)}"),
        as_json,
        lambda told: [Text(f"{clean(told['model'])} may leave memory again.")],
    )


def quoted(text: str) -> str:
    return urllib.parse.quote(text, safe="")
