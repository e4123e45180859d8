"""Prints or writes the configuration of a client, or restores what was there before (`herd connect`)."""

from __future__ import annotations

import dataclasses
import os
import shutil
import socket
import sys
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from rich.text import Text

from herd import mdns
from herd.addresses import host_and_port, is_loopback
from herd.cli.client import CliError, CoordinatorClient, Json, KeyNeeded
from herd.cli.connect import NO_KEY, Client, Connection, Edit, Place, Unreadable, clients, fleet_models, written_files
from herd.cli.connect.fleet_models import ListedModel
from herd.cli.connect.formats.shell_lines import SHELLS
from herd.cli.table import Cell, Column, table
from herd.cli.terminal import console, error_console, printable, show, wrapped
from herd.discover import discover
from herd.trust.keys import NAME_MAX_CHARS

CLIENTS = MappingProxyType({client.name: client for client in discover(clients, Client, "CLIENT")})
PLACEHOLDER = "YOUR_KEY"
COLUMNS = (Column("client", 9, min_width=14), Column("program", 8), Column("configuration", 7), Column("for", 6))
KEYS = "/fleet/keys"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the command line asks for. An empty text means that the option is missing."""

    model: str | None = None
    context_tokens: int | None = None
    key: str = ""
    syntax: str = ""
    writes: bool = False
    undoes: bool = False
    is_forced: bool = False
    data_dir: Path


def this_place(shell: str) -> Place:
    """This machine and this user. Raises CliError for an unknown shell."""
    known = shell or _own_shell()
    if known not in SHELLS:
        raise CliError(f"unknown shell {shell!r}", f"one of: {', '.join(SHELLS)}")
    return Place(Path.home(), Path.cwd(), os.environ, sys.platform, known)


def _own_shell() -> str:
    if sys.platform == "win32":
        return "powershell"
    return "fish" if Path(os.environ.get("SHELL", "")).name == "fish" else "sh"


def connect(coordinator: CoordinatorClient, name: str, options: Options, as_json: bool) -> None:
    """Does what the options ask for with the client of this name. Raises CliError."""
    client = CLIENTS.get(name)
    if client is None:
        raise CliError(f"unknown client {name!r}", f"one of: {', '.join(CLIENTS)}")
    place = this_place(options.syntax)
    if options.undoes:
        _undo(coordinator, client, options, as_json)
    elif options.writes:
        _write(coordinator, client, place, options, as_json)
    else:
        _print(coordinator, client, place, options, as_json)


# --- the connection ---


def keys_are_needed(coordinator: CoordinatorClient) -> bool:
    """Whether a client without a key is refused. Raises CliError."""
    try:
        dataclasses.replace(coordinator, key="").get("/v1/models")
    except KeyNeeded:
        return True
    return False


def _model(coordinator: CoordinatorClient, options: Options) -> ListedModel:
    asked = dataclasses.replace(coordinator, key=options.key) if options.key else coordinator
    return fleet_models.choose(asked, options.model)


def _connection(coordinator: CoordinatorClient, model: ListedModel, key: str, options: Options) -> Connection:
    return Connection(
        url=coordinator.url,
        lan_url=lan_url(coordinator.url),
        key=key,
        model=model.name,
        context_tokens=options.context_tokens or model.context_tokens,
        capabilities=model.capabilities,
    )


def lan_url(url: str) -> str:
    """The URL for other machines: this machine's address in its network instead of a loopback address."""
    parts = urllib.parse.urlsplit(url)
    host = parts.hostname or ""
    if host != "localhost" and not is_loopback(host):
        return url
    own = next((address for address in mdns.addresses("0.0.0.0") if not is_loopback(address)), host)
    return f"{parts.scheme}://{host_and_port(own, parts.port or 0)}"


def _new_key(coordinator: CoordinatorClient, client: Client) -> Json:
    """A key of its own for this client. Raises CliError."""
    name = f"{client.name} on {socket.gethostname()}"[:NAME_MAX_CHARS]
    try:
        _, created = coordinator.post(KEYS, {"name": name, "scopes": ["chat"]})
    except KeyNeeded as error:
        raise CliError(
            f"this fleet requires API keys, and creating one failed: {error.problem}",
            f"run it on the coordinator's machine, set HERD_KEY to an admin key, or give a key that you have:\n"
            f"herd connect {client.name} --key KEY",
        ) from error
    return created


# --- printing ---


def _print(coordinator: CoordinatorClient, client: Client, place: Place, options: Options, as_json: bool) -> None:
    model = _model(coordinator, options)
    key = options.key or (PLACEHOLDER if keys_are_needed(coordinator) else NO_KEY)
    connection = _connection(coordinator, model, key, options)
    files = [{"path": str(one.path), "content": one.edit("", connection)} for one in client.files(place)]
    answer = {"client": client.name, "model": model.name, "files": files, "steps": list(client.steps(connection))}
    show(answer, as_json, lambda _: _printed(client, answer, key))
    if not as_json:
        _warn(client, model)


def _printed(client: Client, answer: Json, key: str) -> Iterator[Text]:
    if client.is_script:
        yield Text("\n".join(one["content"] for one in answer["files"]).rstrip())
        return
    for one in answer["files"]:
        yield Text(f"{printable(one['path'])}:", "bold")
        yield Text()
        yield from (Text(f"  {printable(line)}") for line in one["content"].splitlines())
        yield Text()
    yield from _steps(answer["steps"])
    if answer["files"]:
        yield from wrapped(
            Text(),
            f"Write this, and keep everything else in the file, with: herd connect {client.name} --write",
            console.width,
        )
    if key == PLACEHOLDER:
        more = "with --write herd creates one for this client" if answer["files"] else "create one with: herd keys add"
        yield from wrapped(Text(), f"Replace {PLACEHOLDER} by an API key; {more}.", console.width, "yellow")


def _steps(steps: list[str]) -> Iterator[Text]:
    for step in steps:
        yield from wrapped(Text(), step, console.width)


def _warn(client: Client, model: ListedModel) -> None:
    texts = []
    if client.window_min_tokens and "tools" not in model.capabilities:
        texts.append(f"{model.name} is not known to call tools, which {client.title} needs.")
    if 0 < model.context_tokens < client.window_min_tokens:
        texts.append(
            f"{model.name} has a context window of {model.context_tokens:,} tokens. {client.title} needs more: "
            f"its own prompt has about {client.window_min_tokens:,}."
        )
    for line in (line for text in texts for line in wrapped(Text(), text, error_console.width, "yellow")):
        error_console.print(line, soft_wrap=True)


# --- writing ---


def _write(coordinator: CoordinatorClient, client: Client, place: Place, options: Options, as_json: bool) -> None:
    files = client.files(place)
    if not files:
        raise CliError(f"{client.title} has no file that herd could write", f"see: herd connect {client.name}")
    model = _model(coordinator, options)
    record = written_files.record_path(options.data_dir, client.name)
    before = written_files.read_record(record) or written_files.Written()
    trial = _connection(coordinator, model, options.key or PLACEHOLDER, options)
    # Every file is edited once before a key is created, so that a file that cannot be edited leaves no unused key.
    old = {one.path: written_files.read_text(one.path) for one in files}
    for one in files:
        _edited(one.path, one.edit, old[one.path], trial)
    created: Json = {}
    if not options.key and keys_are_needed(coordinator):
        created = _new_key(coordinator, client)
    connection = dataclasses.replace(trial, key=options.key or created.get("key", NO_KEY))
    texts = {one.path: _edited(one.path, one.edit, old[one.path], connection) for one in files}
    written = written_files.write(record, texts, created.get("id", ""), coordinator.url)
    if before.key_id:
        _revoke(coordinator, before.key_id)
    answer = {
        "client": client.name,
        "model": model.name,
        "files": [{"path": one.path, "backup": one.backup} for one in written.files],
        "key_id": written.key_id,
        "steps": list(client.steps(connection)),
    }
    show(answer, as_json, lambda _: _written_lines(client, answer))
    if not as_json:
        _warn(client, model)


def _edited(path: Path, edit: Edit, old: str, connection: Connection) -> str:
    try:
        return edit(old, connection)
    except Unreadable as error:
        raise CliError(
            f"{path} was not changed: {error}",
            "correct it, or add the settings yourself; without --write they are printed",
        ) from error


def _written_lines(client: Client, answer: Json) -> Iterator[Text]:
    for one in answer["files"]:
        backup = f"; the old file is {one['backup']}" if one["backup"] else " (new)"
        yield Text(printable(f"{one['path']} is written{backup}"))
    yield Text(printable(f"The model is {answer['model']}."))
    if answer["key_id"]:
        yield Text(f"It has its own API key, {answer['key_id']}.")
    yield from _steps(answer["steps"])
    yield Text(f"Undo this with: herd connect {client.name} --undo", "dim")


def _undo(coordinator: CoordinatorClient, client: Client, options: Options, as_json: bool) -> None:
    record = written_files.record_path(options.data_dir, client.name)
    lines, written = written_files.undo(record, options.is_forced)
    if written.key_id:
        is_revoked = _revoke(coordinator, written.key_id)
        lines.append(
            f"its API key {written.key_id} is revoked"
            if is_revoked
            else f"its API key is still valid; revoke it with: herd keys revoke {written.key_id}"
        )
    show({"client": client.name, "lines": lines}, as_json, lambda _: [Text(printable(line)) for line in lines])


def _revoke(coordinator: CoordinatorClient, key_id: str) -> bool:
    """Whether the key is invalid now: it may be unknown, or the coordinator may not answer."""
    try:
        coordinator.post(f"{KEYS}/revoke", {"name": key_id})
    except CliError:
        return False
    return True


# --- the list ---


def list_clients(coordinator: CoordinatorClient, data_dir: Path, as_json: bool) -> None:
    """Shows each client, whether it is installed here, and whether it is configured for this coordinator."""
    place = this_place("")
    rows = [_state(client, place, coordinator.url, data_dir) for client in CLIENTS.values()]
    show(rows, as_json, lambda _: _client_lines(rows))


def _state(client: Client, place: Place, url: str, data_dir: Path) -> Json:
    is_installed = any(shutil.which(program) for program in client.programs)
    was_used = any(folder.exists() for folder in client.folders(place))
    paths = [one.path for one in client.files(place)]
    written = written_files.read_record(written_files.record_path(data_dir, client.name))
    is_configured = any(url in _text_or_nothing(path) for path in paths)
    return {
        "client": client.name,
        "title": client.title,
        "is_installed": is_installed or was_used,
        "is_configured": is_configured,
        "is_written_by_herd": written is not None,
        "files": [str(path) for path in paths],
    }


def _text_or_nothing(path: Path) -> str:
    try:
        return written_files.read_text(path)
    except CliError:
        return ""


def _client_lines(rows: list[Json]) -> Iterator[Text]:
    yield from table(COLUMNS, [_row(row) for row in rows], console.width)
    yield Text()
    yield Text("Show the settings for one of them with: herd connect CLIENT; write them with --write.")


def _row(row: Json) -> list[Cell]:
    is_manual = not row["files"]
    configured = "this fleet" if row["is_configured"] else "by hand" if is_manual else "-"
    return [
        Cell(row["client"]),
        Cell("installed" if row["is_installed"] else "-", "green" if row["is_installed"] else "dim"),
        Cell(configured, "green" if row["is_configured"] else "dim"),
        Cell(row["title"]),
    ]
