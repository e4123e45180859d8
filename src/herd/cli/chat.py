"""`herd chat MODEL`: a quick conversation through the coordinator, with the node that answered each time. Keeps nothing."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from typing import Any

from herd.cli.client import Coordinator, Trouble
from herd.cli.screen import complaints, console, safe


@dataclass(slots=True)
class Conversation:
    """What was said so far, and where."""

    coordinator: Coordinator
    model: str
    messages: list[dict[str, str]] = field(default_factory=list)

    def say(self, text: str) -> None:
        """One turn: the answer is written as it comes, then one dim line with node and speed. Raises Trouble."""
        self.messages.append({"role": "user", "content": text})
        answer, last = "", dict[str, Any]()
        headers: dict[str, str] = {}
        body = {"model": self.model, "messages": self.messages, "stream": True}
        for told, line in self.coordinator.lines("/api/chat", body):
            headers = told
            last = json.loads(line)
            if last.get("error"):
                raise Trouble(str(last["error"]))
            piece = last.get("message", {}).get("content", "")
            answer += piece
            _write(piece)
        _write("\n")
        self.messages.append({"role": "assistant", "content": answer})
        complaints.print(f"[dim]{safe(_told(headers, last))}[/dim]")


def chat(coordinator: Coordinator, model: str, prompt: str | None) -> None:
    """One question and out when `prompt` is given or input is piped; else a loop until Ctrl-D."""
    talk = Conversation(coordinator, model)
    if prompt is not None:
        talk.say(prompt)
        return
    if not sys.stdin.isatty():
        talk.say(sys.stdin.read())
        return
    console.print(f"[dim]Talking to {safe(model)} through {safe(coordinator.url)}. Ctrl-D ends it.[/dim]")
    while True:
        try:
            text = console.input("[bold]> [/bold]").strip()
        except (EOFError, KeyboardInterrupt):
            console.print()
            return
        if text:
            _turn(talk, text)


def _turn(talk: Conversation, text: str) -> None:
    try:
        talk.say(text)
    except Trouble as trouble:
        talk.messages.pop()
        complaints.print(f"[red]{safe(trouble.problem)}[/red] {safe(trouble.remedy)}")


def _write(piece: str) -> None:
    sys.stdout.write("".join(c for c in piece if c.isprintable() or c in "\n\t"))
    sys.stdout.flush()


def _told(headers: dict[str, str], last: dict[str, Any]) -> str:
    tokens, duration_ns = last.get("eval_count"), last.get("eval_duration")
    speed = f", {tokens / (duration_ns / 1e9):.0f} tokens/s" if tokens and duration_ns else ""
    retries = headers.get("x-fleet-retries", "0")
    moved = f", after {retries} failed attempts" if retries not in ("", "0") else ""
    return f"{headers.get('x-fleet-node', '?')}{speed}{moved} - why: herd why {headers.get('x-fleet-request', 'last')}"
