"""Runs, lists and compares benchmarks of the nodes (`herd bench`); the coordinator measures."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from rich.progress import BarColumn, Progress, TextColumn
from rich.text import Text

from herd.cli.client import CliError, CoordinatorClient, Json
from herd.cli.table import Cell, Column, table
from herd.cli.terminal import console, error_console, print_lines, printable, show
from herd.text import duration, number

PATH = "/dashboard/api/v1/benchmarks"
POLL_S = 0.5
COLUMNS = (
    Column("node", 9, min_width=8),
    Column("model", 8, min_width=12),
    Column("decode tok/s", 7, is_right=True),
    Column("prefill tok/s", 5, is_right=True),
    Column("TTFT ms", 6, is_right=True),
    Column("load s", 3, is_right=True),
    Column("concurrent", 4, min_width=8),
)
RUN_COLUMNS = (
    Column("run", 9, min_width=12),
    Column("started", 8),
    Column("duration", 5, is_right=True),
    Column("state", 7),
    Column("nodes", 4, is_right=True),
    Column("models", 3, is_right=True),
    Column("paused", 2, is_right=True),
)


def bench(
    coordinator: CoordinatorClient,
    nodes: Sequence[str],
    models: Sequence[str],
    kinds: Sequence[str],
    dry_run: bool,
    as_json: bool,
) -> None:
    """Starts a run and shows its progress until it ends. Ctrl-C stops it; results so far are stored."""
    options = {"nodes": list(nodes), "models": list(models), "kinds": list(kinds), "dry_run": dry_run}
    _, started = coordinator.post(f"{PATH}/start", options)
    if dry_run:
        show(started, as_json, estimate_lines)
        return
    if not as_json:
        print_lines(*estimate_lines(started))
    try:
        _follow(coordinator)
    except KeyboardInterrupt:
        coordinator.post(f"{PATH}/cancel", {})
    show(coordinator.get(f"{PATH}/{started['run_id']}"), as_json, lambda run: run_lines(run, console.width))


def cancel(coordinator: CoordinatorClient, as_json: bool) -> None:
    _, reply = coordinator.post(f"{PATH}/cancel", {})
    show(
        reply,
        as_json,
        lambda _: [
            Text(
                "No benchmark is running."
                if reply["run_id"] is None
                else f"{printable(reply['run_id'])}: {printable(reply['state'])}"
            )
        ],
    )


def runs(coordinator: CoordinatorClient, as_json: bool) -> None:
    show(coordinator.get(PATH), as_json, lambda found: list_lines(found, console.width))


def compare(coordinator: CoordinatorClient, pair: str, as_json: bool) -> None:
    found = coordinator.get(f"{PATH}?compare={_pair(coordinator, pair)}")["comparison"]
    show(found, as_json, comparison_lines)


def _pair(coordinator: CoordinatorClient, pair: str) -> str:
    """The two runs to compare; `last` means the two newest."""
    if pair != "last":
        return pair
    known = [run["run_id"] for run in coordinator.get(PATH)["runs"]]
    if len(known) < 2:
        raise CliError("there are fewer than two runs to compare", "start a run with: herd bench")
    return f"{known[1]},{known[0]}"


def _follow(coordinator: CoordinatorClient) -> None:
    """Shows the progress until the run ends; without a terminal there is no progress bar."""
    columns = (BarColumn(bar_width=30), TextColumn("{task.completed}/{task.total} {task.description}", markup=False))
    with Progress(*columns, console=error_console, disable=not error_console.is_terminal, transient=True) as bar:
        task = bar.add_task("", total=None)
        while (progress := coordinator.get(f"{PATH}/progress"))["state"] == "running":
            left = f", {duration(progress['left_s'] * 1000)} left" if progress["left_s"] is not None else ""
            description = printable(progress["message"]) + left
            bar.update(task, completed=progress["done"], total=progress["total"], description=description)
            time.sleep(POLL_S)


# --- printing ---


def estimate_lines(estimate: Json) -> Iterator[Text]:
    yield Text(
        f"{number(estimate['requests'], 'request')}, about {duration(estimate['estimate_s'] * 1000)} on idle nodes."
    )
    for one in estimate["left_out"]:
        yield Text(
            f"  skipped: {printable(one['model'])} on {printable(one['node_id'])}: {printable(one['reason'])}", "dim"
        )


def run_lines(run: Json, width: int) -> Iterator[Text]:
    if run["cells"]:
        yield from table(COLUMNS, [_cell_row(cell) for cell in run["cells"]], width)
    for one in run["left_out"]:
        yield Text(
            f"skipped: {printable(one['model'])} on {printable(one['node_id'])}: {printable(one['reason'])}", "dim"
        )
    paused = f", paused {number(run['yields'], 'time')} for other requests" if run["yields"] else ""
    failed = f", {run['failures']} failed" if run["failures"] else ""
    yield Text(
        f"{printable(run['run_id'])}: {run['state']} after {duration(run['duration_s'] * 1000)}, "
        f"{number(run['requests'], 'request')}{failed}{paused}.",
        "bold",
    )


def list_lines(found: Json, width: int) -> Iterator[Text]:
    if not found["runs"]:
        yield Text("There is no benchmark run yet. Start one with: herd bench")
        return
    rows = [
        [
            Cell(printable(run["run_id"])),
            Cell(time.strftime("%Y-%m-%d %H:%M", time.localtime(run["timestamp"]))),
            Cell(duration(run["duration_s"] * 1000)),
            Cell(run["state"]),
            Cell(str(len(run["nodes"]))),
            Cell(str(len(run["models"]))),
            Cell(str(run["yields"])),
        ]
        for run in found["runs"]
    ]
    yield from table(RUN_COLUMNS, rows, width)


def comparison_lines(found: Json) -> Iterator[Text]:
    yield Text(printable(found["verdict"]), "bold")
    for one in found["cells"]:
        place = f"{printable(one['node_id'])}  {printable(one['model'])}"
        change = f"{one['measure']}: {_figure(one['a'])} -> {_figure(one['b'])}"
        style = ("green" if one["change"] > 0 else "red") if one["is_clear"] else "dim"
        yield Text(f"  {place}  {change} ({100 * one['change']:+.0f} %, +-{100 * one['plus_minus']:.0f} %)", style)


def _cell_row(cell: Json) -> list[Cell]:
    scaling = ", ".join(f"{point['concurrency']}: {point['tok_s']:.0f}" for point in cell["scaling"][1:])
    spreads = [cell[name] for name in ("decode_tok_s", "prefill_tok_s", "ttft_ms", "load_s")]
    return [
        Cell(printable(cell["node_id"])),
        Cell(printable(cell["model"])),
        *(Cell(_spread(spread)) for spread in spreads),
        Cell(scaling or "-"),
    ]


def _spread(spread: Json | None) -> str:
    if spread is None:
        return "-"
    if spread["count"] < 2:
        return _figure(spread["median"])
    return f"{_figure(spread['median'])} ({_figure(spread['low'])}..{_figure(spread['high'])})"


def _figure(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"
