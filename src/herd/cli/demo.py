"""`herd demo`: a coordinator and three small real nodes of unequal speed on this machine, a few chats, then it stays up.

Starts only its own processes and ends them all when it ends, whatever ends it. Knows no routing: it shows it.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from herd.cli import why
from herd.cli.client import Coordinator, Trouble
from herd.cli.screen import console, safe

Json = dict[str, Any]

MODEL = "smollm2:135m"
START_MAX_S = 90.0
"""Three engines load at the same time, on a slow machine from a cold disk."""
STOP_MAX_S = 10.0
POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class DemoNode:
    """One pretended machine."""

    name: str
    told: str
    threads: int
    slots: int
    context_tokens: int


NODES = (
    DemoNode("workstation", "2 threads, 2 slots, window 4096", 2, 2, 4096),
    DemoNode("laptop", "1 thread, 1 slot, window 4096", 1, 1, 4096),
    DemoNode("attic", "1 thread, 1 slot, window 2048", 1, 1, 2048),
)


@dataclass(frozen=True, slots=True)
class Question:
    """One chat of the show; `dialect` says in which words it is asked."""

    dialect: str
    text: str


QUESTIONS = (
    Question("Ollama", "Name three animals that live in herds."),
    Question("OpenAI", "What is the capital of France? Answer in one sentence."),
)
TOGETHER = ("Say hello.", "Count to five.", "Name a colour.", "Name a fruit.")
ANSWER_TOKENS_MAX = 40


def demo(port: int, stay: bool) -> None:
    """Runs the show. Raises Trouble when something does not start."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="herd-demo-", ignore_cleanup_errors=True)))
        stack.enter_context(_interruptible())
        chosen = port if _is_free(port) else _free_port()
        coordinator = Coordinator(f"http://127.0.0.1:{chosen}")
        _start_fleet(stack, folder, coordinator, chosen)
        _show_chats(coordinator)
        _show_together(coordinator)
        _farewell(coordinator)
        if stay:
            _wait_for_ctrl_c(stack)


@contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM ends the demo as Ctrl-C does, so that its processes are ended too."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


# --- starting ---


def _start_fleet(stack: ExitStack, folder: Path, coordinator: Coordinator, port: int) -> None:
    console.print("[bold]herd demo[/bold]: one coordinator and three small nodes on this machine")
    log = folder / "coordinator.log"
    main = _spawn(stack, folder, log, ["serve", "--host", "127.0.0.1", "--port", str(port), "--data-dir", str(folder / "data")],
                  {"FLEET_MDNS": "false"})  # fmt: skip
    _wait("coordinator", lambda: _answers(coordinator), [(main, log)])
    console.print(f"  coordinator   {coordinator.url}")
    nodes = [(node, *_start_node(stack, folder, coordinator, node)) for node in NODES]
    _wait("three nodes", lambda: _ready(coordinator), [(process, log) for _, process, log in nodes])
    for node, process, _ in nodes:
        console.print(f"  {node.name:<13} {node.told}, pid {process.pid}")


def _start_node(
    stack: ExitStack, folder: Path, coordinator: Coordinator, node: DemoNode
) -> tuple[subprocess.Popen[bytes], Path]:
    log = folder / f"{node.name}.log"
    arguments = [
        "node", "--engine", "embedded", "--node-id", node.name, "--router-url", coordinator.url, "--threads", str(node.threads),
        "--slots", str(node.slots), "--context", str(node.context_tokens), "--data-dir", str(folder / node.name),
    ]  # fmt: skip
    return _spawn(stack, folder, log, arguments, {"FLEET_NODE_HEARTBEAT_INTERVAL": "1"}), log


def _spawn(
    stack: ExitStack, folder: Path, log: Path, arguments: list[str], environment: dict[str, str]
) -> subprocess.Popen[bytes]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("FLEET_")}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "herd", *arguments], stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=folder,
            env={**clean, **environment, "FLEET_ENV_FILE": os.devnull}, start_new_session=os.name == "posix",
        )  # fmt: skip
    stack.callback(_stop, process)
    return process


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_MAX_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _wait(what: str, is_ready: Callable[[], bool], processes: list[tuple[subprocess.Popen[bytes], Path]]) -> None:
    """Until it is ready, with a sign of life on a terminal. Raises Trouble with the log's last lines when a process died."""
    deadline = time.monotonic() + START_MAX_S
    with console.status(f"starting {what}") if console.is_terminal else ExitStack():
        while not is_ready():
            for process, log in processes:
                if process.poll() is not None:
                    raise Trouble(f"{what} did not start: {_tail(log)}", "look at this machine with: herd doctor")
            if time.monotonic() > deadline:
                raise Trouble(f"{what} did not start within {START_MAX_S:.0f} s: {_tail(processes[0][1])}")
            time.sleep(POLL_S)


def _tail(log: Path) -> str:
    lines = log.read_text("utf-8", "replace").strip().splitlines()
    return " / ".join(lines[-4:]) or "it said nothing"


def _answers(coordinator: Coordinator) -> bool:
    try:
        coordinator.get("/fleet/limits")
    except Trouble:
        return False
    return True


def _ready(coordinator: Coordinator) -> bool:
    nodes = coordinator.get("/fleet/status")["nodes"]
    return len([node for node in nodes if node["models"]]) == len(NODES)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# --- the show ---


def _show_chats(coordinator: Coordinator) -> None:
    for question in QUESTIONS:
        console.print(f"\n[bold]{question.dialect}[/bold] client asks: {question.text}")
        pieces = _ollama_pieces if question.dialect == "Ollama" else _openai_pieces
        headers: dict[str, str] = {}
        for told, text in pieces(coordinator, question.text):
            headers = told
            sys.stdout.write(text)
            sys.stdout.flush()
        sys.stdout.write("\n")
        _show_reason(coordinator, headers)


def _ollama_pieces(coordinator: Coordinator, text: str) -> Iterator[tuple[dict[str, str], str]]:
    body = {"model": MODEL, "messages": [{"role": "user", "content": text}], "options": {"num_predict": ANSWER_TOKENS_MAX}}
    for headers, line in coordinator.lines("/api/chat", body):
        yield headers, json.loads(line).get("message", {}).get("content", "")


def _openai_pieces(coordinator: Coordinator, text: str) -> Iterator[tuple[dict[str, str], str]]:
    body = {"model": MODEL, "messages": [{"role": "user", "content": text}], "max_tokens": ANSWER_TOKENS_MAX, "stream": True}
    for headers, line in coordinator.lines("/v1/chat/completions", body):
        data = line.removeprefix(b"data: ")
        if data != b"[DONE]":
            choices = json.loads(data).get("choices") or [{}]
            yield headers, choices[0].get("delta", {}).get("content") or ""


def _show_reason(coordinator: Coordinator, headers: dict[str, str]) -> None:
    request_id = headers.get("x-fleet-request", "")
    console.print(f"  [green]{safe(headers.get('x-fleet-node', '?'))}[/green] answered:")
    why.draw(_rows_of(coordinator, request_id), brief=True)


def _rows_of(coordinator: Coordinator, request_id: str) -> list[Json]:
    """The writer stores rows within half a second; the show waits for its own."""
    deadline = time.monotonic() + 5.0
    while True:
        try:
            rows: list[Json] = coordinator.get(f"/dashboard/api/requests/{request_id}")["rows"]
            return rows
        except Trouble:
            if time.monotonic() > deadline:
                raise
            time.sleep(POLL_S)


def _show_together(coordinator: Coordinator) -> None:
    """Four at once: each slot is used, the rest waits in line."""
    console.print(f"\n[bold]{len(TOGETHER)} chats at the same time[/bold]")
    told: list[str] = []

    def ask(text: str) -> None:
        body = {"model": MODEL, "messages": [{"role": "user", "content": text}], "stream": False,
                "options": {"num_predict": ANSWER_TOKENS_MAX}}  # fmt: skip
        try:
            headers, answer = coordinator.post("/api/chat", body)
        except Trouble as trouble:
            told.append(f"  {text} {trouble.problem}")
            return
        first_line = " ".join(str(answer["message"]["content"]).split())[:56]
        told.append(f"  {headers.get('x-fleet-node', '?'):<13} {text} -> {first_line}")

    threads = [threading.Thread(target=ask, args=(text,)) for text in TOGETHER]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for line in told:
        console.print(safe(line))


def _farewell(coordinator: Coordinator) -> None:
    console.print("\nYour endpoint, for every client:")
    console.print(f"  Ollama     OLLAMA_HOST={coordinator.url}")
    console.print(f"  OpenAI     base_url={coordinator.url}/v1")
    console.print(f"  Anthropic  ANTHROPIC_BASE_URL={coordinator.url}")
    console.print("Look at it from another terminal:")
    flag = "" if coordinator.url.endswith(":11435") else f" --url {coordinator.url}"
    for verb in ("status", "top", "why last", f"chat {MODEL}"):
        console.print(f"  herd {verb}{flag}")


def _wait_for_ctrl_c(stack: ExitStack) -> None:
    console.print("\nRunning until Ctrl-C.")
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        console.print("\nStopping the demo.")
        stack.close()
        console.print("All its processes have ended.")
