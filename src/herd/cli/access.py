"""`herd nodes`, `herd keys` and `herd dashboard`: who takes part and who may ask. Asks the coordinator; decides nothing itself."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich.text import Text

from herd.cli.client import CliError, CoordinatorClient, Json
from herd.cli.columns import Cell, Column, table
from herd.cli.screen import clean, console, put, show
from herd.text import duration, number

NODE_COLUMNS = (
    Column("node", 9, least=8),
    Column("state", 8),
    Column("since", 4, is_right=True),
    Column("by", 3),
    Column("fingerprint", 5),
    Column("address", 2),
)
KEY_COLUMNS = (
    Column("name", 9, least=8),
    Column("id", 8),
    Column("may", 7, least=8),
    Column("models", 4, least=8),
    Column("limits", 3, least=8),
    Column("made", 2, is_right=True),
    Column("state", 6),
)
NOBODY = "Nobody belongs to the fleet yet. An agent on this machine joins by itself; for another machine run: herd nodes invite"
NO_KEYS = "There are no keys: private networks may ask without one. To ask for keys from now on: herd keys add NAME"


# --- nodes ---


def nodes(coordinator: CoordinatorClient, as_json: bool) -> None:
    show(coordinator.get("/fleet/nodes"), as_json, lambda state: node_lines(state, console.width, time.time()))


def node_lines(state: Json, width: int, now: float) -> list[Text]:
    rows = [_paired_row(one, now) for one in state["paired"]] + [_pending_row(one, now) for one in state["pending"]]
    lines = table(NODE_COLUMNS, rows, width) if rows else [Text(NOBODY)]
    if state["pending"]:
        first = clean(str(state["pending"][0]["name"]))
        lines += [
            Text(),
            Text("Compare the fingerprint with the one that herd-node shows there, then:"),
            Text(f"  herd nodes approve {first}", "bold"),
        ]
    if state["is_open"]:
        lines += [
            Text(),
            Text("FLEET_OPEN is set: every machine on this network may take part without any of this.", "yellow"),
        ]
    return lines


def _paired_row(one: Json, now: float) -> list[Cell]:
    state = Cell("paired", "green") if one["is_known"] else Cell("paired, silent", "dim")
    since = duration(max(0.0, now - one["paired_at"]) * 1000)
    return [
        Cell(clean(one["node_id"])),
        state,
        Cell(since),
        Cell(one["how"]),
        Cell(one["fingerprint"], "dim"),
        Cell(""),
    ]


def _pending_row(one: Json, now: float) -> list[Cell]:
    since = duration(max(0.0, now - one["since"]) * 1000)
    return [
        Cell(clean(one["name"])),
        Cell("waits", "yellow"),
        Cell(since),
        Cell(""),
        Cell(one["fingerprint"]),
        Cell(clean(one["ip"])),
    ]


def invite(coordinator: CoordinatorClient, as_json: bool) -> None:
    _, invited = coordinator.post("/fleet/nodes/invite", {})
    show(invited, as_json, invitation_lines)


def invitation_lines(invited: Json) -> list[Text]:
    return [
        Text("On the machine that shall take part, run within ten minutes:"),
        Text(),
        Text(f"  {invited['command']}", "bold"),
        Text(),
        Text("Once is enough; afterwards herd-node alone."),
    ]


def approve(coordinator: CoordinatorClient, name: str, as_json: bool) -> None:
    _, told = coordinator.post("/fleet/nodes/approve", {"name": name})
    show(
        told,
        as_json,
        lambda one: [Text(f"{clean(one['name'])} ({one['fingerprint']}) is let in with its next heartbeat.")],
    )


def remove(coordinator: CoordinatorClient, name: str, as_json: bool) -> None:
    _, told = coordinator.post("/fleet/nodes/remove", {"name": name})
    show(told, as_json, lambda one: [Text(f"{clean(one['name'])} does not belong to the fleet any more.")])


# --- keys ---


def keys(coordinator: CoordinatorClient, as_json: bool) -> None:
    show(coordinator.get("/fleet/keys")["keys"], as_json, lambda found: key_lines(found, console.width, time.time()))


def key_lines(found: Sequence[Json], width: int, now: float) -> list[Text]:
    return table(KEY_COLUMNS, [_key_row(key, now) for key in found], width) if found else [Text(NO_KEYS)]


def _key_row(key: Json, now: float) -> list[Cell]:
    dim = "" if key["is_valid"] else "dim"
    return [
        Cell(clean(key["name"]), dim),
        Cell(key["id"], dim),
        Cell(", ".join(key["scopes"]), dim),
        Cell(clean(", ".join(key["models"]) or "all"), dim),
        Cell(_limits(key), dim),
        Cell(duration(max(0.0, now - key["created_at"]) * 1000), "dim"),
        _key_state(key, now),
    ]


def _limits(key: Json) -> str:
    told = [
        f"{key['requests_per_minute']}/min" if key["requests_per_minute"] else "",
        f"{key['concurrent_max']} at once" if key["concurrent_max"] else "",
        f"{key['tokens_per_month']} tokens/month" if key["tokens_per_month"] else "",
    ]
    return ", ".join(part for part in told if part) or "none"


def _key_state(key: Json, now: float) -> Cell:
    if key["revoked_at"]:
        return Cell("revoked", "dim")
    if not key["is_valid"]:
        return Cell("expired", "dim")
    return Cell(f"{duration((key['expires_at'] - now) * 1000)} left" if key["expires_at"] else "valid", "green")


def add_key(coordinator: CoordinatorClient, wanted: Json, as_json: bool) -> None:
    """The key's text alone goes to standard output, so that `KEY=$(herd keys add app)` works."""
    _, made = coordinator.post("/fleet/keys", wanted)
    if as_json or not console.is_terminal:
        show(made, as_json, lambda key: [Text(key["key"])])
        return
    put(
        Text(made["key"], "bold"),
        Text(),
        Text("It is shown only now. Clients send it as: Authorization: Bearer KEY (or X-Api-Key: KEY)."),
        Text(
            "From now on nobody asks without a key, this machine included; herd's own commands take it from HERD_KEY."
        ),
    )


def revoke_key(coordinator: CoordinatorClient, name: str, as_json: bool) -> None:
    _, told = coordinator.post("/fleet/keys/revoke", {"name": name})
    show(told, as_json, lambda one: [Text(f"{number(len(one['keys']), 'key')} revoked: {', '.join(one['keys'])}")])


# --- the dashboard ---


def dashboard(coordinator: CoordinatorClient, as_json: bool) -> None:
    """A link that logs a browser in, once."""
    try:
        _, made = coordinator.post("/fleet/logins", {})
    except CliError as trouble:
        raise CliError(
            trouble.problem, "run it on the coordinator's own machine, or with an admin key in HERD_KEY"
        ) from trouble
    made = {**made, "url": f"{coordinator.url}{made['path']}"}
    show(
        made,
        as_json,
        lambda link: [Text("Open this within five minutes; it works once:"), Text(), Text(f"  {link['url']}", "bold")],
    )


# --- the audit ---

AUDIT_COLUMNS = (
    Column("when", 7),
    Column("what", 9, least=12),
    Column("about", 6, least=10),
    Column("who", 5, least=10),
    Column("from", 3),
)


def audit(coordinator: CoordinatorClient, limit: int, as_json: bool) -> None:
    found = coordinator.get(f"/fleet/audit?limit={limit}")["entries"]
    show(found, as_json, lambda entries: audit_lines(entries, console.width, time.time()))


def audit_lines(entries: Sequence[Json], width: int, now: float) -> list[Text]:
    if not entries:
        return [Text("Nobody has changed anything yet.")]
    return table(AUDIT_COLUMNS, [_audit_row(one, now) for one in entries], width)


def _audit_row(one: Json, now: float) -> list[Cell]:
    when = f"{duration(max(0.0, now - one['at']) * 1000)} ago"
    return [
        Cell(when, "dim"),
        Cell(one["what"]),
        Cell(clean(one["about"])),
        Cell(clean(one["who"])),
        Cell(one["ip"], "dim"),
    ]
