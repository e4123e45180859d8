"""Chats with a model through the coordinator and names the node of each answer (`herd chat`)."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field

from rich.text import Text

from herd.cli.client import CliError, CoordinatorClient, Headers, Json
from herd.cli.models import by_model
from herd.cli.terminal import console, error_console, print_error, print_lines, printable
from herd.core.state.fleet import canonical

with suppress(ImportError):
    # Gives input() line editing and history; the Windows console has its own.
    import readline  # noqa: F401

EXIT_COMMANDS = frozenset({"/bye", "/exit", "/quit"})
MODELS_LISTED_MAX = 8


@dataclass(frozen=True, slots=True)
class ChatAnswer:
    """One complete answer: its text, the headers, and the last line with the engine's token counts."""

    text: str
    headers: Headers
    last: Json

    def to_json(self, model: str) -> Json:
        return {
            "model": model,
            "answer": self.text,
            "node": self.headers.get("x-fleet-node"),
            "request_id": self.headers.get("x-fleet-request"),
            "retries": int(self.headers.get("x-fleet-retries") or 0),
            "prompt_tokens": self.last.get("prompt_eval_count"),
            "completion_tokens": self.last.get("eval_count"),
        }


@dataclass(slots=True)
class ChatConversation:
    """The messages so far. An answer that failed or was stopped is not kept."""

    coordinator: CoordinatorClient
    model: str
    messages: list[dict[str, str]] = field(default_factory=list)

    def say(self, text: str, is_silent: bool = False) -> ChatAnswer:
        """One turn; prints the answer as it arrives. Raises CliError, also for an incomplete answer."""
        messages = [*self.messages, {"role": "user", "content": text}]
        parts: list[str] = []
        headers: Headers = {}
        last: Json = {}
        body = {"model": self.model, "messages": messages, "stream": True}
        try:
            for answer_headers, last in _answer_lines(self.coordinator, body):
                headers = answer_headers
                parts.append(str(last.get("message", {}).get("content", "")))
                write("" if is_silent else parts[-1])
        finally:
            # Whatever ends the answer, the next output starts on a new line.
            write("\n" if parts and not is_silent else "")
        if not last.get("done"):
            raise CliError(
                "the answer is incomplete", f"for details run: herd why {headers.get('x-fleet-request', 'last')}"
            )
        answer = "".join(parts)
        self.messages = [*messages, {"role": "assistant", "content": answer}]
        return ChatAnswer(answer, headers, last)


def chat(coordinator: CoordinatorClient, model: str, prompt: str | None, as_json: bool) -> None:
    """Answers one prompt from the argument or a pipe; without either, starts a conversation until Ctrl-D."""
    talk = ChatConversation(coordinator, model)
    if prompt is None and not sys.stdin.isatty():
        prompt = sys.stdin.read()
    if prompt is None:
        _converse(talk)
        return
    if not prompt.strip():
        raise CliError("the prompt is empty", f'for example: herd chat {model} "Hello"')
    if as_json:
        write(json.dumps(talk.say(prompt, is_silent=True).to_json(model), indent=2) + "\n")
    else:
        _print_turn(talk, prompt)


def _converse(talk: ChatConversation) -> None:
    _check_model(talk)
    print_lines(
        Text(f"Chatting with {printable(talk.model)} through {talk.coordinator.url}.", "dim"),
        Text("Ctrl-C stops an answer, Ctrl-D ends the conversation.", "dim"),
    )
    while True:
        try:
            text = input("> ").strip()
        except (EOFError, KeyboardInterrupt):
            console.print()
            return
        if text in EXIT_COMMANDS:
            return
        if text:
            _turn(talk, text)


def _check_model(talk: ChatConversation) -> None:
    """Checks before the first prompt that the fleet has the model. Raises CliError."""
    names = [model["name"] for model in by_model(talk.coordinator.get("/fleet/status?detail=full"))]
    if canonical(talk.model) in map(canonical, names):
        return
    if not names:
        raise CliError("the fleet has no model yet", "for details run: herd doctor")
    shown = ", ".join(names[:MODELS_LISTED_MAX]) + (", ..." if len(names) > MODELS_LISTED_MAX else "")
    raise CliError(f"no node has {talk.model}; available models: {shown}", f"for example: herd chat {names[0]}")


def _turn(talk: ChatConversation, text: str) -> None:
    try:
        _print_turn(talk, text)
    except KeyboardInterrupt:
        error_console.print(Text("Stopped. This answer is not kept in the conversation.", "dim"))
    except CliError as error:
        print_error(error)


def _print_turn(talk: ChatConversation, text: str) -> None:
    """Prints the answer, then one line about it."""
    answer = talk.say(text)
    error_console.print(Text(printable(facts(answer)), "dim"), soft_wrap=True)


def _answer_lines(coordinator: CoordinatorClient, body: Json) -> Iterator[tuple[Headers, Json]]:
    with closing(coordinator.lines("/api/chat", body)) as lines:
        for headers, line in lines:
            part = json.loads(line)
            if part.get("error"):
                raise CliError(
                    str(part["error"]), f"for details run: herd why {headers.get('x-fleet-request', 'last')}"
                )
            yield headers, part


def write(part: str) -> None:
    """Prints a part of an answer as it arrives, without control characters."""
    sys.stdout.write("".join(c for c in part if c.isprintable() or c in "\n\t"))
    sys.stdout.flush()


def facts(answer: ChatAnswer) -> str:
    """`attic, 51 tokens/s. Routing decision: herd why r1`."""
    count, duration_ns = answer.last.get("eval_count"), answer.last.get("eval_duration")
    speed = f", {count / (duration_ns / 1e9):.0f} tokens/s" if count and duration_ns else ""
    retries = answer.headers.get("x-fleet-retries") or "0"
    retried = f", after {retries} failed attempt{'s' if retries != '1' else ''}" if retries != "0" else ""
    node, request_id = answer.headers.get("x-fleet-node", "?"), answer.headers.get("x-fleet-request", "last")
    return f"{node}{speed}{retried}. Routing decision: herd why {request_id}"
