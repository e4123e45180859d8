"""Clients of three dialects, streamed and whole: what each request came to, and whether its text is the right one. Breaks nothing."""

from __future__ import annotations

import http.client
import json
import threading
import time
from dataclasses import dataclass, field
from random import Random
from urllib.parse import urlsplit

MODEL = "smollm2:135m"
PATIENCE_S = 120.0
QUESTIONS = tuple(f"Tell me in a few words about the number {number}." for number in range(12))
LENGTHS = (12, 24, 48)
WAYS = ("ollama", "ollama whole", "openai", "openai whole", "anthropic", "anthropic whole")


@dataclass(slots=True)
class Result:
    """`end`: "whole", "refused" (an error before the first byte), "broken" (an error or an end within the answer), "lost" (nothing)."""

    way: str
    question: str
    length: int
    end: str
    status: int
    text: str
    retries: int
    was_continued: bool
    told: str
    seconds: float


def body_of(way: str, question: str, length: int) -> tuple[str, dict[str, object]]:
    """Path and body; temperature 0, so that every node says the same."""
    messages, stream = [{"role": "user", "content": question}], not way.endswith("whole")
    if way.startswith("ollama"):
        return "/api/chat", {
            "model": MODEL,
            "messages": messages,
            "stream": stream,
            "options": {"temperature": 0, "num_predict": length},
        }
    if way.startswith("openai"):
        return "/v1/chat/completions", {
            "model": MODEL,
            "messages": messages,
            "stream": stream,
            "temperature": 0,
            "max_tokens": length,
        }
    return "/v1/messages", {
        "model": MODEL,
        "messages": messages,
        "stream": stream,
        "temperature": 0,
        "max_tokens": length,
    }


def ask(url: str, way: str, question: str, length: int) -> Result:
    path, body = body_of(way, question, length)
    parts = urlsplit(url)
    begun, status, raw, headers = time.monotonic(), 0, b"", {}
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=PATIENCE_S)
    problem = ""
    try:
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        status, headers = response.status, {name.lower(): value for name, value in response.getheaders()}
        while piece := response.read1():
            raw += piece
    except (OSError, http.client.HTTPException) as error:
        problem = f"{type(error).__name__}: {error}"
    finally:
        connection.close()
    text, is_whole, note, told = (
        understood(way, raw) if status == 200 else ("", False, False, raw[:200].decode("utf-8", "replace"))
    )
    end = "whole" if is_whole and not problem else "lost" if not status else "refused" if status != 200 else "broken"
    return Result(
        way,
        question,
        length,
        end,
        status,
        text,
        int(headers.get("x-fleet-retries", 0)),
        note,
        told or problem,
        time.monotonic() - begun,
    )


def understood(way: str, raw: bytes) -> tuple[str, bool, bool, str]:
    """The text, whether its dialect's end was there, whether it was continued on another node, and what an error said."""
    note = b"fleet_note" in raw
    if way.endswith("whole"):
        try:
            answer = json.loads(raw)
        except ValueError:
            return "", False, note, "no JSON"
        if way.startswith("ollama"):
            return answer["message"]["content"], answer["done"], note, ""
        if way.startswith("openai"):
            return answer["choices"][0]["message"]["content"], True, note, ""
        return "".join(block.get("text", "") for block in answer["content"]), True, note, ""
    lines = [line.removeprefix(b"data: ") for line in raw.splitlines() if line.startswith((b"{", b"data: "))]
    text, is_whole, told = "", False, ""
    for line in lines:
        if line == b"[DONE]":
            is_whole = way == "openai"
            continue
        try:
            part = json.loads(line)
        except ValueError:
            return text, False, note, f"a broken line: {line[:80]!r}"
        if part.get("error"):
            told = json.dumps(part["error"])[:200]
        elif way == "ollama":
            text += part["message"]["content"]
            is_whole = part["done"]
        elif way == "openai":
            text += "".join(choice.get("delta", {}).get("content") or "" for choice in part.get("choices", ()))
        else:
            text += part.get("delta", {}).get("text", "") if part["type"] == "content_block_delta" else ""
            is_whole = part["type"] == "message_stop"
    return text, is_whole and not told, note, told


@dataclass
class Load:
    """So many clients that ask one thing after the other until they are told to stop."""

    url: str
    clients: int
    seed: int
    results: list[Result] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def start(self) -> None:
        for number in range(self.clients):
            thread = threading.Thread(target=self._ask_on, args=(Random(f"{self.seed} {number}"),), daemon=True)
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        """Waits for what is being answered."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask_on(self, rng: Random) -> None:
        while not self._stop.is_set():
            self.results.append(ask(self.url, rng.choice(WAYS), rng.choice(QUESTIONS), rng.choice(LENGTHS)))
