"""Declares the commands of `herd nodes`."""

from __future__ import annotations

from typing import Annotated

import typer

from herd.cli import nodes_and_keys as access
from herd.cli import settings
from herd.cli.nodes import administration
from herd.cli.options import Json, Url

nodes_group = typer.Typer(help="Manage the fleet's nodes. Without a command, lists them.")

NodeName = Annotated[str, typer.Argument(metavar="NODE", help="Name or fingerprint of the node.")]


@nodes_group.callback(invoke_without_command=True)
def nodes(context: typer.Context, json: Json = False, url: Url = None) -> None:
    """List paired and pending nodes."""
    if context.invoked_subcommand is None:
        access.nodes(settings.coordinator(url), json)


@nodes_group.command()
def invite(json: Json = False, url: Url = None) -> None:
    """Print the command that adds another machine."""
    access.invite(settings.coordinator(url), json)


@nodes_group.command()
def approve(name: NodeName, json: Json = False, url: Url = None) -> None:
    """Approve a pending node."""
    access.approve(settings.coordinator(url), name, json)


@nodes_group.command()
def remove(name: NodeName, json: Json = False, url: Url = None) -> None:
    """Remove a node; it must be invited to return."""
    access.remove(settings.coordinator(url), name, json)


Reason = Annotated[str, typer.Option(metavar="TEXT", help="Why, for other people; shown with the node.")]
FleetNode = Annotated[str, typer.Argument(metavar="NODE", help="Name of the node.")]


@nodes_group.command()
def pause(name: FleetNode, reason: Reason = "", json: Json = False, url: Url = None) -> None:
    """Send a node no new requests; running ones finish."""
    administration.pause(settings.coordinator(url), name, reason, json)


@nodes_group.command()
def drain(
    name: FleetNode,
    reason: Reason = "",
    wait: Annotated[bool, typer.Option("--wait", help="Return when nothing runs on the node any more.")] = False,
    json: Json = False,
    url: Url = None,
) -> None:
    """Empty a node before it is switched off."""
    administration.drain(settings.coordinator(url), name, reason, wait, json)


@nodes_group.command()
def budget(
    name: FleetNode,
    memory: Annotated[
        str, typer.Option(metavar="AMOUNT", help="Memory for models, e.g. 20GB or 50%; none removes the limit.")
    ] = "",
    disk: Annotated[
        str, typer.Option(metavar="AMOUNT", help="Disk for models, e.g. 200GB or 30%; none removes the limit.")
    ] = "",
    json: Json = False,
    url: Url = None,
) -> None:
    """Limit what models may use on a node."""
    administration.budget(settings.coordinator(url), name, memory, disk, json)


@nodes_group.command()
def label(
    name: FleetNode,
    labels: Annotated[
        list[str] | None, typer.Argument(metavar="LABEL", help="Labels to add: a name, or NAME=VALUE.")
    ] = None,
    remove: Annotated[list[str] | None, typer.Option(metavar="LABEL", help="Remove this label (repeatable).")] = None,
    json: Json = False,
    url: Url = None,
) -> None:
    """Label a node; requests and keys can require labels."""
    administration.label(settings.coordinator(url), name, labels or [], remove or [], json)


@nodes_group.command()
def resume(name: FleetNode, json: Json = False, url: Url = None) -> None:
    """End a pause or a drain."""
    administration.resume(settings.coordinator(url), name, json)
