"""Pauses, drains and resumes and labels nodes (`herd nodes pause|drain|resume|label`), and shows how far a drain is."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterator, Sequence

from rich.text import Text

from herd.cli.client import CoordinatorClient, Json
from herd.cli.terminal import console, print_lines, printable, show, wrapped
from herd.text import duration, gb, number

PATH = "/fleet/nodes"
POLL_EVERY_S = 1.0


def pause(coordinator: CoordinatorClient, name: str, reason: str, as_json: bool) -> None:
    _, line = coordinator.post(f"{PATH}/pause", {"name": name, "reason": reason})
    show(line, as_json, lambda one: pause_lines(one, console.width))


def drain(coordinator: CoordinatorClient, name: str, reason: str, waits: bool, as_json: bool) -> None:
    """With `waits`, returns when nothing runs on the node any more."""
    _, line = coordinator.post(f"{PATH}/drain", {"name": name, "reason": reason})
    if waits and not line["is_empty"]:
        line = _wait_until_empty(coordinator, line, time.sleep, is_quiet=as_json)
    show(line, as_json, lambda one: drain_lines(one, console.width))


def resume(coordinator: CoordinatorClient, name: str, as_json: bool) -> None:
    _, line = coordinator.post(f"{PATH}/resume", {"name": name})
    show(line, as_json, lambda one: [Text(f"{printable(one['node_id'])} gets requests again.")])


def label(
    coordinator: CoordinatorClient, name: str, added: Sequence[str], removed: Sequence[str], as_json: bool
) -> None:
    _, line = coordinator.post(f"{PATH}/label", {"name": name, "labels": list(added), "remove": list(removed)})
    show(line, as_json, lambda one: label_lines(one, console.width))


def budget(coordinator: CoordinatorClient, name: str, memory: str, disk: str, as_json: bool) -> None:
    _, line = coordinator.post(f"{PATH}/budget", {"name": name, "memory": memory, "disk": disk})
    show(line, as_json, lambda one: [budget_line(one)])


def budget_line(line: Json) -> Text:
    limits = {"memory": line["memory_budget_bytes"], "disk": line["disk_budget_bytes"]}
    listed = " and ".join(f"{gb(limit)} of {name}" for name, limit in limits.items() if limit is not None)
    return Text(f"Models on {printable(line['node_id'])} may use {listed or 'all memory and disk'}.")


def label_lines(line: Json, width: int) -> Iterator[Text]:
    name, labels = printable(line["node_id"]), ", ".join(map(printable, line["labels"]))
    if not labels:
        yield Text(f"{name} has no labels.")
        return
    yield Text(f"{name} has the labels: {labels}")
    first = shlex.quote(printable(line["labels"][0]))
    yield from wrapped(Text(), f"Only for requests with the header X-Herd-Label: {first}, or with a key of:", width)
    yield Text(f"  herd keys add NAME --label {first}", "bold")


def _wait_until_empty(
    coordinator: CoordinatorClient, line: Json, sleep: Callable[[float], None], is_quiet: bool
) -> Json:
    """Prints the progress whenever it changes. Ends early if the node is resumed by another command."""
    printed = ""
    while not line["is_empty"] and line["duty"] == "draining":
        progress = f"{printable(line['node_id'])}: {work_text(line)}"
        if progress != printed and not is_quiet:
            print_lines(Text(progress))
            printed = progress
        sleep(POLL_EVERY_S)
        line = next((one for one in coordinator.get(PATH)["nodes"] if one["node_id"] == line["node_id"]), line)
    return line


def work_text(line: Json) -> str:
    """ "2 running, 1 download, about 40 s"."""
    parts = [
        f"{line['running']} running" if line["running"] else "",
        f"{line['waiting']} waiting" if line["waiting"] else "",
        number(line["transfers"], "download") if line["transfers"] else "",
        f"about {duration(line['left_s'] * 1000)}" if line["left_s"] and line["running"] else "",
    ]
    return ", ".join(part for part in parts if part) or "nothing is running"


def pause_lines(line: Json, width: int) -> Iterator[Text]:
    name = printable(line["node_id"])
    yield from wrapped(Text(), f"{name} is paused: it gets no new requests ({work_text(line)}).", width)
    yield from _next_command(line)


def drain_lines(line: Json, width: int) -> Iterator[Text]:
    name = printable(line["node_id"])
    if line["duty"] != "draining":
        yield Text(f"{name} was resumed.")
        return
    if line["is_empty"]:
        yield Text(f"{name} is drained: nothing is running, and it can be switched off.")
    else:
        yield from wrapped(Text(), f"{name} is draining: it gets no new requests ({work_text(line)}).", width)
        yield Text("To wait until it is empty:")
        yield Text(f"  herd nodes drain {shlex.quote(name)} --wait", "bold")
    yield from _next_command(line)


def _next_command(line: Json) -> Iterator[Text]:
    yield Text("To let it get requests again:")
    yield Text(f"  herd nodes resume {shlex.quote(printable(line['node_id']))}", "bold")


def administered_lines(lines: list[Json], width: int, now: float) -> Iterator[Text]:
    """For each node that gets no requests because of an administrator: since when, by whom, why, and the command."""
    for line in lines:
        if line["duty"] == "active":
            continue
        since = duration(max(0.0, now - (line["since"] or now)) * 1000)
        reason = f": {printable(line['reason'])}" if line["reason"] else ""
        name = printable(line["node_id"])
        text = f"{name} is {line['duty']} for {since} by {printable(line['by'])}{reason} ({work_text(line)})"
        yield Text()
        yield from wrapped(Text(), text, width, "yellow")
        yield from _next_command(line)
