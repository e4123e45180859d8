"""Declares the commands that connect other programs to the fleet."""

from __future__ import annotations

from typing import Annotated

import typer

from herd.cli import settings
from herd.cli.certify import command as certify_command
from herd.cli.connect import command as connect_command
from herd.cli.options import Json, Url


def connect(
    client: Annotated[
        str | None,
        typer.Argument(metavar="CLIENT", help="The client, e.g. claude, codex or env; without it, lists all."),
    ] = None,
    write: Annotated[
        bool, typer.Option("--write", help="Write the client's files; everything else in them stays.")
    ] = False,
    undo: Annotated[bool, typer.Option("--undo", help="Restore the files as they were before --write.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="With --undo: also restore files that have changed since.")
    ] = False,
    model: Annotated[
        str | None, typer.Option(metavar="MODEL", help="A model or an alias; without it, herd chooses one.")
    ] = None,
    context: Annotated[
        int | None, typer.Option(metavar="TOKENS", min=1, help="Context window, if the client should use less.")
    ] = None,
    key: Annotated[
        str,
        typer.Option(metavar="KEY", help="An API key to use; without it, --write creates one if keys are required."),
    ] = "",
    shell: Annotated[str, typer.Option(metavar="SHELL", help="For env: sh, bash, zsh, fish or powershell.")] = "",
    json: Json = False,
    url: Url = None,
) -> None:
    """Configure a client for this fleet. Without --write, prints what would be written."""
    coordinator = settings.coordinator(url)
    options = connect_command.Options(
        model=model,
        context_tokens=context,
        key=key,
        syntax=shell,
        writes=write,
        undoes=undo,
        is_forced=force,
        data_dir=settings.data_dir(),
    )
    if client is None:
        connect_command.list_clients(coordinator, options.data_dir, json)
    else:
        connect_command.connect(coordinator, client, options, json)


def certify(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Name of a model, from `herd models`.")],
    node: Annotated[
        str, typer.Option("--node", metavar="NODE", help="Name of the node; without it, the one that answers.")
    ] = "",
    context: Annotated[
        int | None, typer.Option(metavar="TOKENS", min=1, help="Context window for the recall steps.")
    ] = None,
    json: Json = False,
    url: Url = None,
) -> None:
    """Test whether a model works with Claude Code, Codex, tools and JSON, and store the result."""
    if not certify_command.certify(settings.coordinator(url), model, node, context, json):
        raise typer.Exit(1)


COMMANDS = (connect, certify)
