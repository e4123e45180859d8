"""Compares each loaded model's context window with the tokens that its requests use (`herd windows`)."""

from __future__ import annotations

from collections.abc import Iterator

from rich.text import Text

from herd.cli.client import CoordinatorClient, Json
from herd.cli.table import Cell, Column, table
from herd.cli.terminal import console, printable, show, wrapped
from herd.core.state.fleet import GB
from herd.text import number

COLUMNS = (
    Column("model", 9, min_width=8),
    Column("node", 8),
    Column("window", 7, is_right=True),
    Column("used (p99)", 6, is_right=True),
    Column("suggested", 7, is_right=True),
    Column("saves", 5, is_right=True),
)
NO_MODELS = "No loaded model supports changing its context window."


def windows(coordinator: CoordinatorClient, as_json: bool) -> None:
    show(coordinator.get("/fleet/windows"), as_json, lambda answer: lines(answer, console.width))


def lines(answer: Json, width: int) -> Iterator[Text]:
    if not answer["models"]:
        yield Text(NO_MODELS)
        return
    yield from table(COLUMNS, [_row(one) for one in answer["models"]], width)
    yield Text()
    yield from wrapped(Text(), _next_step(answer), width, "dim")


def _row(one: Json) -> list[Cell]:
    saves = one["frees_bytes"]
    used = str(one["usual_tokens"]) if one["usual_tokens"] else number(one["samples"], "request")
    return [
        Cell(printable(one["model"])),
        Cell(printable(one["node_id"])),
        Cell(str(one["loaded_tokens"])),
        Cell(used),
        Cell(str(one["chosen_tokens"] or "-")),
        Cell(f"{saves / GB:.1f} GB" if saves is not None else "-"),
    ]


def _next_step(answer: Json) -> str:
    if not answer["is_applied"]:
        return (
            "These are suggestions only. To use them at the next loads, set FLEET_DYNAMIC_NUM_CTX=true "
            "(for smaller windows also FLEET_NUM_CTX_AUTO_CALCULATE=true)."
        )
    if answer["may_shrink"]:
        return "The next loads use the suggested window."
    return "The next loads use the suggested window if it is larger than the engine's own."
