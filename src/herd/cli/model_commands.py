"""Declares the commands for models: their arguments, options and help."""

from __future__ import annotations

from typing import Annotated

import typer

from herd.cli import models, settings
from herd.cli.options import Json, Url

Model = Annotated[str, typer.Argument(metavar="MODEL", help="Name of the model as in Ollama, e.g. qwen3:8b.")]
OptionalModel = Annotated[
    str, typer.Argument(metavar="MODEL", help="Name of the model; without it, the pinned models are listed.")
]
Node = Annotated[
    str, typer.Option("--node", metavar="NODE", help="Name of the node; without it, herd chooses the node.")
]
Nodes = Annotated[
    list[str] | None,
    typer.Option("--to", metavar="NODE", help="Target node (repeatable); without it, every node with enough disk."),
]


def pull(
    model: Model,
    node: Node = "",
    lan_only: Annotated[
        bool, typer.Option("--lan-only", help="Copy from another node only, never from the internet.")
    ] = False,
    json: Json = False,
    url: Url = None,
) -> None:
    """Download a model to a node. It is copied from another node if one has it, else from the internet."""
    models.pull(settings.coordinator(url), model, node, lan_only, json)


def pulls(json: Json = False, url: Url = None) -> None:
    """List current and recent downloads."""
    models.pulls(settings.coordinator(url), json)


def cancel(
    pull_id: Annotated[str, typer.Argument(metavar="PULL", help="ID of the download, from `herd pulls`.")],
    json: Json = False,
    url: Url = None,
) -> None:
    """Stop a download; the data downloaded so far remains on disk."""
    models.cancel(settings.coordinator(url), pull_id, json)


def rm(
    model: Model,
    node: Annotated[
        str,
        typer.Option(
            "--node",
            metavar="NODE",
            help="Name of the node; needed if several nodes have the model. * deletes from every node.",
        ),
    ] = "",
    yes: Annotated[bool, typer.Option("--yes", help="Delete without asking for confirmation.")] = False,
    json: Json = False,
    url: Url = None,
) -> None:
    """Delete a model from a node's disk."""
    models.remove(settings.coordinator(url), model, node, yes, json)


def sync(model: Model, to: Nodes = None, json: Json = False, url: Url = None) -> None:
    """Copy a model to other nodes over the local network."""
    models.spread(settings.coordinator(url), "/fleet/sync", model, to or [], json)


def update(model: Model, json: Json = False, url: Url = None) -> None:
    """Update a model on every node that has it. The registry is checked once."""
    models.spread(settings.coordinator(url), "/fleet/update", model, [], json)


def load(model: Model, node: Node = "", json: Json = False, url: Url = None) -> None:
    """Load a model into a node's memory."""
    models.place(settings.coordinator(url), "load", model, node, json)


def unload(
    model: Model,
    node: Annotated[str, typer.Option("--node", metavar="NODE", help="Name of the node; without it, every node.")] = "",
    json: Json = False,
    url: Url = None,
) -> None:
    """Unload a model from one node or from every node."""
    models.place(settings.coordinator(url), "unload", model, node, json)


def pin(
    model: OptionalModel = "",
    node: Node = "",
    force: Annotated[
        bool, typer.Option("--force", help="Also if the node's memory is not enough for all pinned models.")
    ] = False,
    json: Json = False,
    url: Url = None,
) -> None:
    """Keep a model in memory. Without a model, list the pinned models."""
    if model:
        models.place(settings.coordinator(url), "pin", model, node, json, force)
    else:
        models.pins(settings.coordinator(url), json)


def unpin(model: Model, json: Json = False, url: Url = None) -> None:
    """Stop keeping a model in memory."""
    models.unpin(settings.coordinator(url), model, json)


COMMANDS = (pull, pulls, cancel, rm, sync, update, load, unload, pin, unpin)
