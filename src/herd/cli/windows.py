"""`herd windows`: which windows models have, which their use asks for, and what that would free. Changes nothing."""

from __future__ import annotations

from collections.abc import Iterator

from rich.text import Text

from herd.cli.client import CoordinatorClient, Json
from herd.cli.columns import Cell, Column, table
from herd.cli.screen import clean, console, show
from herd.core.state.fleet import GB

COLUMNS = (
    Column("model", 9, least=8),
    Column("node", 8),
    Column("window", 7, is_right=True),
    Column("used", 6, is_right=True),
    Column("would do", 7, is_right=True),
    Column("frees", 5, is_right=True),
)
NOTHING = "No model whose window can be chosen is in memory."


def windows(coordinator: CoordinatorClient, as_json: bool) -> None:
    show(coordinator.get("/fleet/windows"), as_json, lambda told: lines(told, console.width))


def lines(told: Json, width: int) -> Iterator[Text]:
    if not told["models"]:
        yield Text(NOTHING)
        return
    yield from table(COLUMNS, [_cells(one) for one in told["models"]], width)
    yield Text()
    yield Text(_what_happens(told), "dim")


def _cells(one: Json) -> list[Cell]:
    frees = one["frees_bytes"]
    used = str(one["usual_tokens"]) if one["usual_tokens"] else f"{one['samples']} seen"
    return [
        Cell(clean(one["model"])),
        Cell(clean(one["node_id"])),
        Cell(str(one["loaded_tokens"])),
        Cell(used),
        Cell(str(one["chosen_tokens"] or "-")),
        Cell(f"{frees / GB:.1f} GB" if frees is not None else "-"),
    ]


def _what_happens(told: Json) -> str:
    if not told["is_applied"]:
        return "Nothing is changed by this. Have the next loads use it: FLEET_DYNAMIC_NUM_CTX=true (smaller ones too: FLEET_NUM_CTX_AUTO_CALCULATE=true)"
    return (
        "The next loads use it."
        if told["may_shrink"]
        else "The next loads use it where it is larger than the engine's own window."
    )
