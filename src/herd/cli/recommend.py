"""`herd recommend`: what should live where, with what it costs and what it gains. Changes nothing."""

from __future__ import annotations

from collections.abc import Iterator

from rich.text import Text

from herd.cli.client import CoordinatorClient, Json
from herd.cli.screen import clean, console, folded, show
from herd.core.state.fleet import GB
from herd.text import duration

PATH = "/dashboard/api/v1/recommendations"
STYLES = (("pull", "green"), ("pin", "green"), ("delete", "yellow"), ("leave", "dim"))


def recommend(coordinator: CoordinatorClient, as_json: bool) -> None:
    show(coordinator.get(PATH), as_json, lambda told: lines(told, console.width))


def lines(told: Json, width: int) -> Iterator[Text]:
    yield Text(clean(told["summary"]), "bold")
    for one in told["recommendations"]:
        yield Text()
        yield from folded(Text(f"{one['kind']:7} ", dict(STYLES).get(one["kind"], "")), one["title"], width)
        yield from folded(Text(" " * 8), one["reason"], width, "dim")
        yield from folded(Text(" " * 8), _numbers(one), width)
        if one["kind"] in ("pull", "delete"):
            verb = "pull" if one["kind"] == "pull" else "rm"
            yield Text(f"{' ' * 10}ollama {verb} {clean(one['model'])}  # on {clean(one['node_id'])}")


def _numbers(one: Json) -> str:
    cost = one["cost"]
    parts = [f"{cost['bytes'] / GB:.1f} GB of {'disk' if one['kind'] == 'pull' else 'memory'}"] if cost["bytes"] else []
    if one["kind"] == "pull":
        parts.append(f"about {duration(cost['seconds'] * 1000)} to fetch")
    return ", ".join([*parts, one["gain"]["text"]]) + f" (rule {one['rule']})"
