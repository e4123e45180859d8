"""Shows which models should be on which nodes, with the cost and the gain of each change (`herd recommend`)."""

from __future__ import annotations

from collections.abc import Iterator
from types import MappingProxyType

from rich.text import Text

from herd.cli.client import CoordinatorClient, Json
from herd.cli.terminal import console, printable, show, wrapped
from herd.core.state.fleet import GB
from herd.text import duration

PATH = "/dashboard/api/v1/recommendations"
STYLES = MappingProxyType({"pull": "green", "pin": "green", "delete": "yellow", "leave": "dim"})


def recommend(coordinator: CoordinatorClient, as_json: bool) -> None:
    show(coordinator.get(PATH), as_json, lambda answer: lines(answer, console.width))


def lines(answer: Json, width: int) -> Iterator[Text]:
    yield from wrapped(Text(), answer["summary"], width, "bold")
    for one in answer["recommendations"]:
        yield Text()
        yield from wrapped(Text(f"{one['kind']:7} ", STYLES.get(one["kind"], "")), one["title"], width)
        yield from wrapped(Text(" " * 8), one["reason"], width, "dim")
        yield from wrapped(Text(" " * 8), _numbers(one), width)
        if one["kind"] in ("pull", "delete"):
            verb = "pull" if one["kind"] == "pull" else "rm"
            yield Text(f"{' ' * 10}ollama {verb} {printable(one['model'])}  # on {printable(one['node_id'])}")


def _numbers(one: Json) -> str:
    cost = one["cost"]
    parts = [f"{cost['bytes'] / GB:.1f} GB of {'disk' if one['kind'] == 'pull' else 'memory'}"] if cost["bytes"] else []
    if one["kind"] == "pull":
        parts.append(f"about {duration(cost['seconds'] * 1000)} to download")
    return ", ".join([*parts, one["gain"]["text"]]) + f" (rule {one['rule']})"
