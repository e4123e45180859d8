"""`herd demo`: a few chats over three small real nodes of unequal speed, with the reason for every choice; then it stays up.

Shows what the coordinator does; decides nothing. The processes are demo_fleet.py's.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import MappingProxyType

from rich.text import Text

from herd.cli.chat import write
from herd.cli.client import CliError, CoordinatorClient, Headers, Json
from herd.cli.columns import cut
from herd.cli.demo import embedded_requirements
from herd.cli.demo.fleet import NODES, DemoFleet, demo_fleet
from herd.cli.screen import clean, console, put
from herd.cli.why import choice_lines

MODEL = "smollm2:135m"
ANSWER_TOKENS_MAX = 40
OLLAMA_OPTIONS = MappingProxyType({"num_predict": ANSWER_TOKENS_MAX, "temperature": 0})
ROW_MAX_S = 10.0
POLL_S = 0.1
PORT_DEFAULT = 11435
NAME_COLUMNS = max(len(node.name) for node in NODES) + 2

Pieces = Iterator[tuple[Headers, str]]


@dataclass(frozen=True, slots=True)
class Question:
    """One chat of the show; `client` says in whose words it is asked."""

    client: str
    path: str
    text: str
    ask: Callable[[CoordinatorClient, str], Pieces]


TOGETHER = ("Say hello.", "Count from one to five.", "Name a fruit.", "What is 2 + 2?")


def demo(port: int, stay: bool) -> None:
    """Runs the show. Raises Trouble when something is missing or does not start."""
    if command := embedded_requirements.missing():
        raise CliError("the demo needs the embedded engine and its small model", f"install what is missing: {command}")
    with demo_fleet(port) as fleet:
        try:
            _show(fleet)
            if not stay:
                return
            put(Text(), Text("Running until Ctrl-C.", "bold"))
            while True:
                time.sleep(3600)
        except KeyboardInterrupt:
            put(Text(), Text("Stopping the demo."))
            is_ended_by_hand = True
        else:
            is_ended_by_hand = False
    if is_ended_by_hand:
        put(Text("All its processes have ended."))


def _show(fleet: DemoFleet) -> None:
    put(
        Text.assemble(
            ("herd demo", "bold"), f": one coordinator, and {len(NODES)} small nodes that play unequal machines"
        )
    )
    fleet.start_coordinator()
    put(_named("coordinator", fleet.coordinator.url))
    fleet.start_nodes()
    for node, part in zip(NODES, fleet.parts[1:], strict=True):
        put(_named(node.name, f"{node.told}, process {part.process.pid}"))
    put(
        Text(),
        Text("A request goes where it is expected to be answered first. Of every choice you see the seconds.", "dim"),
    )
    for question in QUESTIONS:
        _show_chat(fleet.coordinator, question)
    _show_together(fleet.coordinator)
    _farewell(fleet)


def _named(name: str, told: str, style: str = "green") -> Text:
    return Text.assemble("  ", (name.ljust(NAME_COLUMNS), style), clean(told))


# --- one chat after another ---


def _show_chat(coordinator: CoordinatorClient, question: Question) -> None:
    put(Text(), Text.assemble((f"{question.client} client", "bold"), f" ({question.path}) asks: {question.text}"))
    headers: Headers = {}
    for told, text in question.ask(coordinator, question.text):
        headers = told
        write(text)
    write("\n")
    put(Text.assemble((headers.get("x-fleet-node", "?"), "green"), " answered, because:"))
    rows = _rows_of(coordinator, headers.get("x-fleet-request", ""))
    put(*choice_lines(rows[-1], console.width, {}))


def _ollama(coordinator: CoordinatorClient, text: str) -> Pieces:
    body = {"model": MODEL, "messages": [{"role": "user", "content": text}], "options": dict(OLLAMA_OPTIONS)}
    for headers, line in coordinator.lines("/api/chat", body):
        yield headers, json.loads(line).get("message", {}).get("content", "")


def _openai(coordinator: CoordinatorClient, text: str) -> Pieces:
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": text}],
        "max_tokens": ANSWER_TOKENS_MAX,
        "temperature": 0,
        "stream": True,
    }
    for headers, event in _events(coordinator, "/v1/chat/completions", body):
        choices = event.get("choices") or [{}]
        yield headers, choices[0].get("delta", {}).get("content") or ""


def _anthropic(coordinator: CoordinatorClient, text: str) -> Pieces:
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": text}],
        "max_tokens": ANSWER_TOKENS_MAX,
        "temperature": 0,
        "stream": True,
    }
    for headers, event in _events(coordinator, "/v1/messages", body):
        yield headers, (event.get("delta") or {}).get("text") or ""


def _events(coordinator: CoordinatorClient, path: str, body: Json) -> Iterator[tuple[Headers, Json]]:
    for headers, line in coordinator.lines(path, body):
        data = line.removeprefix(b"data: ")
        if data != line and data != b"[DONE]":
            yield headers, json.loads(data)


QUESTIONS = (
    Question("Ollama", "/api/chat", "What is a herd of animals?", _ollama),
    Question("OpenAI", "/v1/chat/completions", "What is the capital of France? Answer in one sentence.", _openai),
    Question("Anthropic", "/v1/messages", "What do cows eat?", _anthropic),
)


def _rows_of(coordinator: CoordinatorClient, request_id: str) -> list[Json]:
    """The writer stores rows within half a second; the show waits for its own."""
    deadline = time.monotonic() + ROW_MAX_S
    while True:
        try:
            rows: list[Json] = coordinator.get(f"/dashboard/api/requests/{request_id}")["rows"]
            return rows
        except CliError:
            if time.monotonic() > deadline:
                raise
            time.sleep(POLL_S)


# --- several at once ---


def _show_together(coordinator: CoordinatorClient) -> None:
    """As many at once as there are slots, so that all nodes have work."""
    put(
        Text(),
        Text.assemble(
            (f"{len(TOGETHER)} Ollama clients at the same time", "bold"), ": each slot of each node has one to answer"
        ),
    )
    threads = [threading.Thread(target=_ask_and_tell, args=(coordinator, text), daemon=True) for text in TOGETHER]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _ask_and_tell(coordinator: CoordinatorClient, text: str) -> None:
    """One line, as soon as its answer is whole."""
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": text}],
        "stream": False,
        "options": dict(OLLAMA_OPTIONS),
    }
    began_at = time.monotonic()
    try:
        headers, answer = coordinator.post("/api/chat", body)
    except CliError as trouble:
        put(_named("failed", f"{text} {trouble.problem}", "red"))
        return
    told = f"{time.monotonic() - began_at:.1f} s  {text} -> {' '.join(str(answer['message']['content']).split())}"
    put(_named(headers.get("x-fleet-node", "?"), cut(told, max(20, min(console.width, 140) - NAME_COLUMNS - 2))))


# --- what to do with it ---


def _farewell(fleet: DemoFleet) -> None:
    url = fleet.coordinator.url
    flag = "" if url.endswith(f":{PORT_DEFAULT}") else f" --url {url}"
    put(
        Text(),
        Text.assemble(("The dashboard:", "bold"), f" {url}/dashboard"),
        Text("This is your endpoint, for every client:", "bold"),
        _named("Ollama", f"OLLAMA_HOST={url}", ""),
        _named("OpenAI", f"base_url={url}/v1", ""),
        _named("Anthropic", f"ANTHROPIC_BASE_URL={url}", ""),
        Text("From another terminal:", "bold"),
        *(Text(f"  herd {verb}{flag}") for verb in ("status", "top", "why last", f"chat {MODEL}")),
    )
    if os.name == "posix":
        victim = fleet.parts[1]
        put(
            Text(
                f"  kill -{signal.SIGKILL.value} {victim.process.pid}   (ends {victim.name}; ask again, and the others answer)"
            )
        )
