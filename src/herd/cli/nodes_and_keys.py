"""Manages nodes and API keys (`herd nodes`, `herd keys`), prints the sign-in link and the audit log."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence

from rich.text import Text

from herd.cli.client import CliError, CoordinatorClient, Json
from herd.cli.nodes.administration import administered_lines
from herd.cli.table import Cell, Column, table
from herd.cli.terminal import console, print_lines, printable, show, wrapped
from herd.text import duration, number
from herd.trust.keys import Scope

NODE_COLUMNS = (
    Column("node", 9, min_width=8),
    Column("state", 8),
    Column("labels", 6, min_width=8),
    Column("since", 4, is_right=True),
    Column("by", 3),
    Column("fingerprint", 5),
    Column("address", 2),
)
KEY_COLUMNS = (
    Column("name", 9, min_width=8),
    Column("id", 8),
    Column("scopes", 7, min_width=8),
    Column("models", 4, min_width=8),
    Column("limits", 3, min_width=8),
    Column("age", 2, is_right=True),
    Column("state", 6),
)
NO_NODES = (
    "No node is paired yet. An agent on this machine pairs automatically; to add another machine run: herd nodes invite"
)
NO_KEYS = (
    "There are no API keys: clients in private networks need none. To require keys, create one with: herd keys add NAME"
)

SCOPES = tuple(scope.value for scope in Scope)
KEY_NOTE = (
    "The key is shown only once. Clients send it as: Authorization: Bearer KEY (or X-Api-Key: KEY). "
    "Chat, embeddings and model lists now need a key, also from this machine. herd commands read it from HERD_KEY."
)


# --- nodes ---


def nodes(coordinator: CoordinatorClient, as_json: bool) -> None:
    show(coordinator.get("/fleet/nodes"), as_json, lambda state: node_lines(state, console.width, time.time()))


def node_lines(state: Json, width: int, now: float) -> list[Text]:
    lines_of = {one["node_id"]: one for one in state["nodes"]}
    paired = {one["node_id"] for one in state["paired"]}
    rows = [
        *(_paired_row(one, lines_of.get(one["node_id"]), now) for one in state["paired"]),
        *(_unpaired_row(one, paired) for one in state["nodes"] if one["node_id"] not in paired),
        *(_pending_row(one, now) for one in state["pending"]),
    ]
    lines = table(NODE_COLUMNS, rows, width) if rows else wrapped(Text(), NO_NODES, width)
    lines += administered_lines(state["nodes"], width, now)
    if state["pending"]:
        one = state["pending"][0]
        first = printable(str(one["name"] if one["fingerprint"] else one["ip"]))
        how = "Compare the fingerprint with the one that herd-node prints on that machine, then run:"
        lines += [
            Text(),
            Text(how if one["fingerprint"] else "An agent of ollama-herd, which cannot sign. If this is your machine:"),
            Text(f"  herd nodes approve {shlex.quote(first)}", "bold"),
        ]
    if state["is_open"]:
        lines += [Text(), Text("FLEET_OPEN is set: every machine on this network can join without pairing.", "yellow")]
    return lines


def _paired_row(one: Json, line: Json | None, now: float) -> list[Cell]:
    state = Cell("paired", "green") if one["is_known"] else Cell("paired, not seen", "dim")
    since = duration(max(0.0, now - one["paired_at"]) * 1000)
    return [
        Cell(printable(one["node_id"])),
        _duty(line) or state,
        _labels(line),
        Cell(since),
        Cell(one["how"]),
        Cell(one["fingerprint"], "dim"),
        Cell(""),
    ]


def _unpaired_row(line: Json, paired: set[str]) -> list[Cell]:
    """A node without a pairing of its own: a further engine reports with its machine."""
    machine = str(line.get("machine") or "")
    state = Cell("paired", "green") if machine in paired else Cell("not paired", "dim")
    with_machine = Cell(f"with {printable(machine)}" if machine in paired else "")
    name = Cell(printable(line["node_id"]))
    return [name, _duty(line) or state, _labels(line), Cell(""), with_machine, Cell(""), Cell("")]


def _duty(line: Json | None) -> Cell | None:
    return Cell(line["duty"], "yellow") if line is not None and line["duty"] != "active" else None


def _labels(line: Json | None) -> Cell:
    return Cell(printable(", ".join(line["labels"])) if line is not None else "")


def _pending_row(one: Json, now: float) -> list[Cell]:
    since = duration(max(0.0, now - one["since"]) * 1000)
    return [
        Cell(printable(one["name"])),
        Cell("pending", "yellow"),
        Cell(""),
        Cell(since),
        Cell(""),
        Cell(one["fingerprint"]),
        Cell(printable(one["ip"])),
    ]


def invite(coordinator: CoordinatorClient, as_json: bool) -> None:
    _, invited = coordinator.post("/fleet/nodes/invite", {})
    show(invited, as_json, invitation_lines)


def invitation_lines(invited: Json) -> list[Text]:
    return [
        Text("On the new machine, run within 10 minutes:"),
        Text(),
        Text(f"  {invited['command']}", "bold"),
        Text(),
        Text("Only needed the first time; after that, run herd-node."),
    ]


def approve(coordinator: CoordinatorClient, name: str, as_json: bool) -> None:
    _, reply = coordinator.post("/fleet/nodes/approve", {"name": name})
    show(reply, as_json, approved_lines)


def approved_lines(one: Json) -> list[Text]:
    name, reported = printable(one["name"]), printable(one.get("reported", one["name"]))
    lines = [Text(f"{name} ({one['fingerprint']}) joins with its next heartbeat.")]
    if reported != name:
        lines.append(Text(f"It calls itself {reported}, which is the name of another node.", "dim"))
    return lines


def remove(coordinator: CoordinatorClient, name: str, as_json: bool) -> None:
    _, reply = coordinator.post("/fleet/nodes/remove", {"name": name})
    show(reply, as_json, lambda one: [Text(f"{printable(one['name'])} is removed from the fleet.")])


# --- keys ---


def keys(coordinator: CoordinatorClient, as_json: bool) -> None:
    show(coordinator.get("/fleet/keys")["keys"], as_json, lambda found: key_lines(found, console.width, time.time()))


def key_lines(found: Sequence[Json], width: int, now: float) -> list[Text]:
    return (
        table(KEY_COLUMNS, [_key_row(key, now) for key in found], width) if found else wrapped(Text(), NO_KEYS, width)
    )


def _key_row(key: Json, now: float) -> list[Cell]:
    dim = "" if key["is_valid"] else "dim"
    return [
        Cell(printable(key["name"]), dim),
        Cell(key["id"], dim),
        Cell(", ".join(key["scopes"]), dim),
        Cell(printable(", ".join(key["models"]) or "all"), dim),
        Cell(_limits(key), dim),
        Cell(age(now - key["created_at"]), "dim"),
        _key_state(key, now),
    ]


def age(seconds: float) -> str:
    """ "12 s", or "< 1 s"."""
    return duration(seconds * 1000) if seconds >= 1.0 else "< 1 s"


def _limits(key: Json) -> str:
    limits = [
        f"{key['requests_per_minute']}/min" if key["requests_per_minute"] else "",
        f"{key['concurrent_max']} concurrent" if key["concurrent_max"] else "",
        f"{key['tokens_per_month']} tokens/month" if key["tokens_per_month"] else "",
        "names users" if key.get("names_users") else "",
        f"nodes with {' and '.join(key['labels'])}" if key.get("labels") else "",
    ]
    return ", ".join(part for part in limits if part) or "none"


def _key_state(key: Json, now: float) -> Cell:
    if key["revoked_at"]:
        return Cell("revoked", "dim")
    if not key["is_valid"]:
        return Cell("expired", "dim")
    return Cell(f"{duration((key['expires_at'] - now) * 1000)} left" if key["expires_at"] else "valid", "green")


def add_key(coordinator: CoordinatorClient, wanted: Json, as_json: bool) -> None:
    """Creates a key. In a pipe only the key is printed, so that `KEY=$(herd keys add app)` works."""
    unknown = [name for name in wanted["scopes"] if name not in SCOPES]
    if unknown:
        raise CliError(
            f"unknown scope {unknown[0]!r}; valid scopes: {', '.join(SCOPES)}",
            f"for example: herd keys add {wanted['name']} --scope chat",
        )
    _, created = coordinator.post("/fleet/keys", wanted)
    if as_json or not console.is_terminal:
        show(created, as_json, lambda key: [Text(key["key"])])
        return
    print_lines(Text(created["key"], "bold"), Text(), *wrapped(Text(), KEY_NOTE, console.width))


def revoke_key(coordinator: CoordinatorClient, name: str, as_json: bool) -> None:
    _, reply = coordinator.post("/fleet/keys/revoke", {"name": name})
    show(reply, as_json, lambda one: [Text(f"{number(len(one['keys']), 'key')} revoked: {', '.join(one['keys'])}")])


# --- sign-in link ---


def dashboard(coordinator: CoordinatorClient, as_json: bool) -> None:
    """Prints a sign-in link for the dashboard; it works once."""
    try:
        _, login = coordinator.post("/fleet/logins", {})
    except CliError as error:
        raise CliError(
            error.problem, "run this command on the coordinator's machine, or set HERD_KEY to an admin key"
        ) from error
    login = {**login, "url": f"{coordinator.url}{login['path']}"}
    show(
        login,
        as_json,
        lambda link: [
            Text("Open this link within 5 minutes; it works once:"),
            Text(),
            Text(f"  {link['url']}", "bold"),
        ],
    )


# --- audit log ---

AUDIT_COLUMNS = (
    Column("time", 7),
    Column("action", 9, min_width=12),
    Column("object", 6, min_width=10),
    Column("user", 5, min_width=10),
    Column("address", 3),
)


def audit(coordinator: CoordinatorClient, limit: int, as_json: bool) -> None:
    found = coordinator.get(f"/fleet/audit?limit={limit}")["entries"]
    show(found, as_json, lambda entries: audit_lines(entries, console.width, time.time()))


def audit_lines(entries: Sequence[Json], width: int, now: float) -> list[Text]:
    if not entries:
        return [Text("No changes are recorded yet.")]
    return table(AUDIT_COLUMNS, [_audit_row(one, now) for one in entries], width)


def _audit_row(one: Json, now: float) -> list[Cell]:
    when = f"{duration(max(0.0, now - one['at']) * 1000)} ago"
    return [
        Cell(when, "dim"),
        Cell(one["what"]),
        Cell(printable(one["about"])),
        Cell(printable(one["who"])),
        Cell(one["ip"], "dim"),
    ]
