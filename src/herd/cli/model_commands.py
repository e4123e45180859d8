"""The verbs and flags of `library.py`. Decides nothing; `cli/__init__.py` adds them to `herd`."""

from __future__ import annotations

from typing import Annotated

import typer

from herd.cli import library, serving

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a drawing.")]
Url = Annotated[
    str | None,
    typer.Option(
        "--url", envvar="HERD_URL", metavar="URL", show_envvar=False, help="The coordinator to ask (HERD_URL)."
    ),
]
Model = Annotated[str, typer.Argument(metavar="MODEL", help="As Ollama names it, e.g. qwen3:8b.")]
SomeModel = Annotated[str, typer.Argument(metavar="[MODEL]", help="Without one, show what is pinned.")]
Node = Annotated[str, typer.Option("--node", metavar="NODE", help="On this node; without it, where it makes sense.")]
Nodes = Annotated[
    list[str] | None,
    typer.Option(
        "--to", metavar="NODE", help="To this node; several times for several; without it, to all that have room."
    ),
]


def pull(
    model: Model,
    node: Node = "",
    lan_only: Annotated[
        bool, typer.Option("--lan-only", help="Only from another node, never from the internet.")
    ] = False,
    json: Json = False,
    url: Url = None,
) -> None:
    """Bring a model onto a node: from another node where one has it, else from the internet."""
    library.pull(serving.coordinator(url), model, node, lan_only, json)


def pulls(json: Json = False, url: Url = None) -> None:
    """Show what is being fetched, and what was."""
    library.pulls(serving.coordinator(url), json)


def cancel(
    pull_id: Annotated[str, typer.Argument(metavar="PULL", help="As `herd pulls` shows it.")],
    json: Json = False,
    url: Url = None,
) -> None:
    """Stop a pull; what was read is kept."""
    library.cancel(serving.coordinator(url), pull_id, json)


def rm(
    model: Model,
    node: Annotated[str, typer.Option("--node", metavar="NODE", help="From this node; * for every node.")] = "",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for the name again.")] = False,
    json: Json = False,
    url: Url = None,
) -> None:
    """Delete a model from a node's disk."""
    library.remove(serving.coordinator(url), model, node, yes, json)


def sync(model: Model, to: Nodes = None, json: Json = False, url: Url = None) -> None:
    """Copy a model to other nodes over the local network."""
    library.spread(serving.coordinator(url), "/fleet/sync", model, to or [], json)


def update(model: Model, json: Json = False, url: Url = None) -> None:
    """Ask the registry once for a newer model of this name, and copy it to every node that has it."""
    library.spread(serving.coordinator(url), "/fleet/update", model, [], json)


def load(model: Model, node: Node = "", json: Json = False, url: Url = None) -> None:
    """Load a model into a node's memory."""
    library.place(serving.coordinator(url), "load", model, node, json)


def unload(model: Model, node: Node = "", json: Json = False, url: Url = None) -> None:
    """Have a model leave memory, on a node or everywhere."""
    library.place(serving.coordinator(url), "unload", model, node, json)


def pin(model: SomeModel = "", node: Node = "", json: Json = False, url: Url = None) -> None:
    """Keep a model in memory from now on; show what is pinned."""
    if model:
        library.place(serving.coordinator(url), "pin", model, node, json)
    else:
        library.pins(serving.coordinator(url), json)


def unpin(model: Model, json: Json = False, url: Url = None) -> None:
    """Let a pinned model go again."""
    library.unpin(serving.coordinator(url), model, json)


VERBS = (pull, pulls, cancel, rm, sync, update, load, unload, pin, unpin)
