"""`herd chat MODEL`: a quick conversation through the coordinator, with the node that answered each time. Keeps nothing."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field

from rich.text import Text

from herd.cli.client import CliError, CoordinatorClient, Headers, Json
from herd.cli.fleet import by_model
from herd.cli.screen import clean, complaints, console, fail, put
from herd.core.state.fleet import canonical

with suppress(ImportError):
    # Gives input() its line editing and history; Windows' console brings its own.
    import readline  # noqa: F401

FAREWELLS = frozenset({"/bye", "/exit", "/quit"})
MODELS_NAMED_MAX = 8


@dataclass(frozen=True, slots=True)
class ChatAnswer:
    """One whole answer: its text, who gave it, and the engine's own count of it."""

    text: str
    headers: Headers
    last: Json

    def as_json(self, model: str) -> Json:
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
    """What was said so far. An answer that broke off, or that nobody wanted to hear to its end, was not said."""

    coordinator: CoordinatorClient
    model: str
    messages: list[dict[str, str]] = field(default_factory=list)

    def say(self, text: str, is_silent: bool = False) -> ChatAnswer:
        """One turn; the answer is written as it comes. Raises Trouble, also when it breaks off."""
        asked = [*self.messages, {"role": "user", "content": text}]
        pieces: list[str] = []
        headers: Headers = {}
        last: Json = {}
        body = {"model": self.model, "messages": asked, "stream": True}
        try:
            for told, last in _told_lines(self.coordinator, body):
                headers = told
                pieces.append(str(last.get("message", {}).get("content", "")))
                write("" if is_silent else pieces[-1])
        finally:
            # Whatever ends it, what comes next begins on a line of its own.
            write("\n" if pieces and not is_silent else "")
        if not last.get("done"):
            raise CliError("the answer broke off", f"see where: herd why {headers.get('x-fleet-request', 'last')}")
        answer = "".join(pieces)
        self.messages = [*asked, {"role": "assistant", "content": answer}]
        return ChatAnswer(answer, headers, last)


def chat(coordinator: CoordinatorClient, model: str, prompt: str | None, as_json: bool) -> None:
    """One question and out when there is a prompt or input is piped; else a conversation until Ctrl-D."""
    talk = ChatConversation(coordinator, model)
    if prompt is None and not sys.stdin.isatty():
        prompt = sys.stdin.read()
    if prompt is None:
        _converse(talk)
        return
    if not prompt.strip():
        raise CliError("there is nothing to ask", f'ask something: herd chat {model} "Hello"')
    if as_json:
        write(json.dumps(talk.say(prompt, is_silent=True).as_json(model), indent=2) + "\n")
    else:
        _heard(talk, prompt)


def _converse(talk: ChatConversation) -> None:
    _check(talk)
    put(
        Text(f"Talking to {clean(talk.model)} through {talk.coordinator.url}.", "dim"),
        Text("Ctrl-C stops an answer, Ctrl-D ends the conversation.", "dim"),
    )
    while True:
        try:
            text = input("> ").strip()
        except (EOFError, KeyboardInterrupt):
            console.print()
            return
        if text in FAREWELLS:
            return
        if text:
            _turn(talk, text)


def _check(talk: ChatConversation) -> None:
    """Before the first question, so that nobody writes one in vain. Raises Trouble."""
    names = [model["name"] for model in by_model(talk.coordinator.get("/fleet/status"))]
    if canonical(talk.model) in map(canonical, names):
        return
    if not names:
        raise CliError("the fleet has no model yet", "see what is missing: herd doctor")
    shown = ", ".join(names[:MODELS_NAMED_MAX]) + (", ..." if len(names) > MODELS_NAMED_MAX else "")
    raise CliError(f"no node has {talk.model}; the fleet has {shown}", f"for example: herd chat {names[0]}")


def _turn(talk: ChatConversation, text: str) -> None:
    try:
        _heard(talk, text)
    except KeyboardInterrupt:
        complaints.print(Text("stopped; not part of the conversation", "dim"))
    except CliError as trouble:
        fail(trouble)


def _heard(talk: ChatConversation, text: str) -> None:
    """The turn, and one line about it."""
    answer = talk.say(text)
    complaints.print(Text(clean(facts(answer)), "dim"), soft_wrap=True)


def _told_lines(coordinator: CoordinatorClient, body: Json) -> Iterator[tuple[Headers, Json]]:
    with closing(coordinator.lines("/api/chat", body)) as lines:
        for headers, line in lines:
            told = json.loads(line)
            if told.get("error"):
                raise CliError(str(told["error"]), f"see why: herd why {headers.get('x-fleet-request', 'last')}")
            yield headers, told


def write(piece: str) -> None:
    """A piece of an answer, as it comes, without what could move the cursor."""
    sys.stdout.write("".join(c for c in piece if c.isprintable() or c in "\n\t"))
    sys.stdout.flush()


def facts(answer: ChatAnswer) -> str:
    """`attic, 51 tokens/s. Why there: herd why r1`."""
    count, duration_ns = answer.last.get("eval_count"), answer.last.get("eval_duration")
    speed = f", {count / (duration_ns / 1e9):.0f} tokens/s" if count and duration_ns else ""
    retries = answer.headers.get("x-fleet-retries") or "0"
    moved = f", after {retries} failed attempt{'s' if retries != '1' else ''}" if retries != "0" else ""
    return f"{answer.headers.get('x-fleet-node', '?')}{speed}{moved}. Why there: herd why {answer.headers.get('x-fleet-request', 'last')}"
