"""Runs `herd demo`: a few chats on three small nodes of different speed, with each routing decision."""

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
from herd.cli.demo import embedded_requirements
from herd.cli.demo.fleet import NODES, DemoFleet, demo_fleet
from herd.cli.table import truncate
from herd.cli.terminal import console, print_lines, printable
from herd.cli.why import choice_lines

MODEL = "smollm2:135m"
ANSWER_TOKENS_MAX = 40
OLLAMA_OPTIONS = MappingProxyType({"num_predict": ANSWER_TOKENS_MAX, "temperature": 0})
ROW_MAX_S = 10.0
POLL_S = 0.1
PORT_DEFAULT = 11435
NAME_COLUMNS = max(len(node.name) for node in NODES) + 2

AnswerParts = Iterator[tuple[Headers, str]]


@dataclass(frozen=True, slots=True)
class Question:
    """One chat of the demonstration; `client` names the API that it uses."""

    client: str
    path: str
    text: str
    ask: Callable[[CoordinatorClient, str], AnswerParts]


CONCURRENT = ("Say hello.", "Count from one to five.", "Name a fruit.", "What is 2 + 2?")


def demo(port: int, stay: bool) -> None:
    """Runs the demonstration. Raises CliError if something is missing or does not start."""
    if command := embedded_requirements.missing():
        raise CliError(
            "the demo needs the embedded engine and its small model", f"install what is missing with: {command}"
        )
    with demo_fleet(port) as fleet:
        try:
            _show(fleet)
            if not stay:
                return
            print_lines(Text(), Text("The demo keeps running. Stop with Ctrl-C.", "bold"))
            while True:
                time.sleep(3600)
        except KeyboardInterrupt:
            print_lines(Text(), Text("Stopping the demo."))
    print_lines(Text("All demo processes have stopped."))


def _show(fleet: DemoFleet) -> None:
    print_lines(
        Text.assemble(("herd demo", "bold"), f": one coordinator and {len(NODES)} small nodes with a real model")
    )
    fleet.start_coordinator()
    print_lines(_named("coordinator", fleet.coordinator.url))
    fleet.start_nodes()
    for node, part in zip(NODES, fleet.parts[1:], strict=True):
        print_lines(_named(node.name, f"{node.description}, process {part.process.pid}"))
    print_lines(
        Text(),
        Text(
            "Each request goes to the node expected to finish it first. Estimated times are shown for each node.", "dim"
        ),
    )
    for question in QUESTIONS:
        _show_chat(fleet.coordinator, question)
    _show_concurrent(fleet.coordinator)
    _print_next_steps(fleet)


def _named(name: str, text: str, style: str = "green") -> Text:
    return Text.assemble("  ", (name.ljust(NAME_COLUMNS), style), printable(text))


# --- one chat after another ---


def _show_chat(coordinator: CoordinatorClient, question: Question) -> None:
    print_lines(
        Text(), Text.assemble((f"{question.client} client", "bold"), f" ({question.path}) asks: {question.text}")
    )
    headers: Headers = {}
    for answer_headers, text in question.ask(coordinator, question.text):
        headers = answer_headers
        write(text)
    write("\n")
    print_lines(Text.assemble((headers.get("x-fleet-node", "?"), "green"), " answered. Routing decision:"))
    rows = _rows_of(coordinator, headers.get("x-fleet-request", ""))
    print_lines(*choice_lines(rows[-1], console.width, {}))


def _ollama(coordinator: CoordinatorClient, text: str) -> AnswerParts:
    body = {"model": MODEL, "messages": [{"role": "user", "content": text}], "options": dict(OLLAMA_OPTIONS)}
    for headers, line in coordinator.lines("/api/chat", body):
        yield headers, json.loads(line).get("message", {}).get("content", "")


def _openai(coordinator: CoordinatorClient, text: str) -> AnswerParts:
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


def _anthropic(coordinator: CoordinatorClient, text: str) -> AnswerParts:
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
    """The rows of a request, which are stored within half a second after its end."""
    deadline = time.monotonic() + ROW_MAX_S
    while True:
        try:
            rows: list[Json] = coordinator.get(f"/dashboard/api/requests/{request_id}")["rows"]
            return rows
        except CliError:
            if time.monotonic() > deadline:
                raise
            time.sleep(POLL_S)


# --- concurrent requests ---


def _show_concurrent(coordinator: CoordinatorClient) -> None:
    """Sends as many requests at the same time as there are slots, so that every node is used."""
    print_lines(
        Text(),
        Text.assemble(
            (f"{len(CONCURRENT)} Ollama clients at the same time", "bold"), ": one for each slot of each node"
        ),
    )
    threads = [threading.Thread(target=_ask_and_print, args=(coordinator, text), daemon=True) for text in CONCURRENT]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _ask_and_print(coordinator: CoordinatorClient, text: str) -> None:
    """Prints one line when the answer is complete."""
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": text}],
        "stream": False,
        "options": dict(OLLAMA_OPTIONS),
    }
    began_at = time.monotonic()
    try:
        headers, answer = coordinator.post("/api/chat", body)
    except CliError as error:
        print_lines(_named("failed", f"{text} {error.problem}", "red"))
        return
    line = f"{time.monotonic() - began_at:.1f} s  {text} -> {' '.join(str(answer['message']['content']).split())}"
    print_lines(
        _named(headers.get("x-fleet-node", "?"), truncate(line, max(20, min(console.width, 140) - NAME_COLUMNS - 2)))
    )


# --- next steps ---


def _print_next_steps(fleet: DemoFleet) -> None:
    url = fleet.coordinator.url
    flag = "" if url.endswith(f":{PORT_DEFAULT}") else f" --url {url}"
    lines = [
        Text(),
        Text.assemble(("Dashboard:", "bold"), f" {url}/dashboard"),
        Text("Endpoint for your clients:", "bold"),
        _named("Ollama", f"OLLAMA_HOST={url}", ""),
        _named("OpenAI", f"base_url={url}/v1", ""),
        _named("Anthropic", f"ANTHROPIC_BASE_URL={url}", ""),
        Text("In another terminal:", "bold"),
        *(Text(f"  herd {command}{flag}") for command in ("status", "top", "why last", f"chat {MODEL}")),
    ]
    if os.name == "posix":
        node = fleet.parts[1]
        kill = f"kill -{signal.SIGKILL.value} {node.process.pid}"
        lines.append(Text(f"  {kill}   (stops {node.name}; the other nodes continue to answer)"))
    print_lines(*lines)
