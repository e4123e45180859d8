"""`herd bench`: measures how fast each machine is, with a bar that shows how far it is; lists and compares earlier runs. Measures nothing itself."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from rich.progress import BarColumn, Progress, TextColumn
from rich.text import Text

from herd.cli.client import CliError, CoordinatorClient, Json
from herd.cli.columns import Cell, Column, table
from herd.cli.screen import clean, complaints, console, put, show
from herd.text import duration, number

PATH = "/dashboard/api/v1/benchmarks"
LOOK_EVERY_S = 0.5
COLUMNS = (
    Column("node", 9, least=8),
    Column("model", 8, least=12),
    Column("generation tok/s", 7, is_right=True),
    Column("prompt tok/s", 5, is_right=True),
    Column("first token ms", 6, is_right=True),
    Column("load s", 3, is_right=True),
    Column("at once", 4, least=8),
)
RUN_COLUMNS = (
    Column("run", 9, least=12),
    Column("when", 8),
    Column("took", 5, is_right=True),
    Column("state", 7),
    Column("nodes", 4, is_right=True),
    Column("models", 3, is_right=True),
    Column("gave way", 2, is_right=True),
)


def bench(
    coordinator: CoordinatorClient,
    nodes: Sequence[str],
    models: Sequence[str],
    kinds: Sequence[str],
    dry_run: bool,
    as_json: bool,
) -> None:
    """Starts a run and follows it to its end; Ctrl-C ends it with what it has."""
    asked = {"nodes": list(nodes), "models": list(models), "kinds": list(kinds), "dry_run": dry_run}
    _, started = coordinator.post(f"{PATH}/start", asked)
    if dry_run:
        show(started, as_json, estimate_lines)
        return
    if not as_json:
        put(*estimate_lines(started))
    try:
        _follow(coordinator)
    except KeyboardInterrupt:
        coordinator.post(f"{PATH}/cancel", {})
    show(coordinator.get(f"{PATH}/{started['run_id']}"), as_json, lambda run: run_lines(run, console.width))


def cancel(coordinator: CoordinatorClient, as_json: bool) -> None:
    _, told = coordinator.post(f"{PATH}/cancel", {})
    show(
        told,
        as_json,
        lambda _: [
            Text(
                "No benchmark is running."
                if told["run_id"] is None
                else f"{clean(told['run_id'])}: {clean(told['state'])}"
            )
        ],
    )


def runs(coordinator: CoordinatorClient, as_json: bool) -> None:
    show(coordinator.get(PATH), as_json, lambda told: list_lines(told, console.width))


def compare(coordinator: CoordinatorClient, pair: str, as_json: bool) -> None:
    found = coordinator.get(f"{PATH}?compare={_pair(coordinator, pair)}")["comparison"]
    show(found, as_json, comparison_lines)


def _pair(coordinator: CoordinatorClient, pair: str) -> str:
    """`last` are the two newest."""
    if pair != "last":
        return pair
    known = [run["run_id"] for run in coordinator.get(PATH)["runs"]]
    if len(known) < 2:
        raise CliError("there are no two runs to compare", "make one: herd bench")
    return f"{known[1]},{known[0]}"


def _follow(coordinator: CoordinatorClient) -> None:
    """Until it is over. Where nobody looks there is no bar."""
    columns = (BarColumn(bar_width=30), TextColumn("{task.completed}/{task.total} {task.description}", markup=False))
    with Progress(*columns, console=complaints, disable=not complaints.is_terminal, transient=True) as bar:
        task = bar.add_task("", total=None)
        while (told := coordinator.get(f"{PATH}/progress"))["state"] == "running":
            left = f", {duration(told['left_s'] * 1000)} left" if told["left_s"] is not None else ""
            bar.update(task, completed=told["done"], total=told["total"], description=clean(told["message"]) + left)
            time.sleep(LOOK_EVERY_S)


# --- drawing ---


def estimate_lines(told: Json) -> Iterator[Text]:
    yield Text(
        f"{number(told['requests'], 'request')}, about {duration(told['estimate_s'] * 1000)} on machines that have nothing else to do."
    )
    for one in told["left_out"]:
        yield Text(f"  left out: {clean(one['model'])} on {clean(one['node_id'])}: {clean(one['reason'])}", "dim")


def run_lines(run: Json, width: int) -> Iterator[Text]:
    if run["cells"]:
        yield from table(COLUMNS, [_cell_row(cell) for cell in run["cells"]], width)
    for one in run["left_out"]:
        yield Text(f"left out: {clean(one['model'])} on {clean(one['node_id'])}: {clean(one['reason'])}", "dim")
    gave_way = f", gave way {number(run['yields'], 'time')}" if run["yields"] else ""
    failed = f", {run['failures']} failed" if run["failures"] else ""
    yield Text(
        f"{clean(run['run_id'])}: {run['state']} after {duration(run['duration_s'] * 1000)}, {number(run['requests'], 'request')}{failed}{gave_way}.",
        "bold",
    )


def list_lines(told: Json, width: int) -> Iterator[Text]:
    if not told["runs"]:
        yield Text("There is no benchmark yet. Make one with: herd bench")
        return
    rows = [
        [
            Cell(clean(run["run_id"])),
            Cell(time.strftime("%Y-%m-%d %H:%M", time.localtime(run["timestamp"]))),
            Cell(duration(run["duration_s"] * 1000)),
            Cell(run["state"]),
            Cell(str(len(run["nodes"]))),
            Cell(str(len(run["models"]))),
            Cell(str(run["yields"])),
        ]
        for run in told["runs"]
    ]
    yield from table(RUN_COLUMNS, rows, width)


def comparison_lines(found: Json) -> Iterator[Text]:
    yield Text(clean(found["verdict"]), "bold")
    for one in found["cells"]:
        told = f"{clean(one['node_id'])}  {clean(one['model'])}  {one['measure']}: {_figure(one['a'])} -> {_figure(one['b'])}"
        style = ("green" if one["change"] > 0 else "red") if one["is_clear"] else "dim"
        yield Text(f"  {told} ({100 * one['change']:+.0f} %, +-{100 * one['plus_minus']:.0f} %)", style)


def _cell_row(cell: Json) -> list[Cell]:
    scaling = ", ".join(f"{point['concurrency']}: {point['tok_s']:.0f}" for point in cell["scaling"][1:])
    spreads = [cell[name] for name in ("decode_tok_s", "prefill_tok_s", "ttft_ms", "load_s")]
    return [
        Cell(clean(cell["node_id"])),
        Cell(clean(cell["model"])),
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
