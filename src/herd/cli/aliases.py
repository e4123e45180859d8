"""Lists, defines and removes aliases of models (`herd alias`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.text import Text

from herd.cli.client import CoordinatorClient, Json
from herd.cli.table import Cell, Column, table
from herd.cli.terminal import console, printable, show, wrapped

COLUMNS = (Column("name", 9, min_width=8), Column("models", 8), Column("answers now", 7))
PATH = "/dashboard/api/aliases"
BY_TIER = "(by size)"
NO_ALIASES = "There are no aliases. Define one: herd alias set NAME MODEL"


def aliases(coordinator: CoordinatorClient, as_json: bool) -> None:
    show(coordinator.get(PATH), as_json, lambda answer: lines(answer, console.width))


def define(coordinator: CoordinatorClient, name: str, models: Sequence[str], as_json: bool) -> None:
    _, answer = coordinator.post(PATH, {"name": name, "models": list(models)})
    show(answer, as_json, lambda _: [Text(f"{printable(name)} is answered by {', '.join(map(printable, models))}.")])


def remove(coordinator: CoordinatorClient, name: str, as_json: bool) -> None:
    answer = coordinator.delete(PATH, {"name": name})
    show(answer, as_json, lambda _: [Text(f"{printable(name)} is not an alias any more.")])


def lines(answer: Json, width: int) -> Iterator[Text]:
    if not answer["aliases"]:
        yield Text(NO_ALIASES)
        return
    yield from table(COLUMNS, [_row(one) for one in answer["aliases"]], width)
    if not answer["are_listed"]:
        yield Text()
        yield from wrapped(Text(), "Lists of models do not show aliases (FLEET_ALIASES_LISTED).", width, "dim")


def _row(one: Json) -> list[Cell]:
    models = ", ".join(map(printable, one["models"])) if one["models"] else BY_TIER
    live = printable(one["live"][0]) if one["live"] else "none"
    return [Cell(printable(one["name"])), Cell(models), Cell(live, "" if one["live"] else "yellow")]
