"""Sends streamed and complete requests through three APIs, and records the result of each."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from urllib.parse import urlsplit

MODEL = "smollm2:135m"
ANSWER_MAX_S = 120.0
QUESTIONS = tuple(f"Tell me in a few words about the number {number}." for number in range(12))
LENGTHS = (12, 24, 48)
APIS = ("ollama", "ollama complete", "openai", "openai complete", "anthropic", "anthropic complete")


@dataclass(slots=True, kw_only=True)
class Result:
    """`end` is "complete", "refused" (an error before the first byte), "broken" (an error or an early end), or "lost"
    (no status).
    """

    api: str
    question: str
    length: int
    end: str
    status: int
    text: str
    retries: int
    was_continued: bool
    error: str
    seconds: float


def body_of(api: str, question: str, length: int) -> tuple[str, dict[str, object]]:
    """Path and body; with temperature 0 every node gives the same answer."""
    messages, stream = [{"role": "user", "content": question}], not api.endswith("complete")
    if api.startswith("ollama"):
        return "/api/chat", {
            "model": MODEL,
            "messages": messages,
            "stream": stream,
            "options": {"temperature": 0, "num_predict": length},
        }
    if api.startswith("openai"):
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


def ask(url: str, api: str, question: str, length: int) -> Result:
    path, body = body_of(api, question, length)
    parts = urlsplit(url)
    begun, status, raw, headers = time.monotonic(), 0, b"", {}
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=ANSWER_MAX_S)
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
    text, is_complete, note, error_text = (
        parse_answer(api, raw) if status == 200 else ("", False, False, raw[:200].decode("utf-8", "replace"))
    )
    end = (
        "complete"
        if is_complete and not problem
        else "lost"
        if not status
        else "refused"
        if status != 200
        else "broken"
    )
    return Result(
        api=api,
        question=question,
        length=length,
        end=end,
        status=status,
        text=text,
        retries=int(headers.get("x-fleet-retries", 0)),
        was_continued=note,
        error=error_text or problem,
        seconds=time.monotonic() - begun,
    )


def parse_answer(api: str, raw: bytes) -> tuple[str, bool, bool, str]:
    """The text, whether the answer is complete, whether another node continued it, and the text of an error."""
    note = b"fleet_note" in raw
    if api.endswith("complete"):
        try:
            answer = json.loads(raw)
        except ValueError:
            return "", False, note, "not JSON"
        if api.startswith("ollama"):
            return answer["message"]["content"], answer["done"], note, ""
        if api.startswith("openai"):
            return answer["choices"][0]["message"]["content"], True, note, ""
        return "".join(block.get("text", "") for block in answer["content"]), True, note, ""
    lines = [line.removeprefix(b"data: ") for line in raw.splitlines() if line.startswith((b"{", b"data: "))]
    text, is_complete, error = "", False, ""
    for line in lines:
        if line == b"[DONE]":
            is_complete = api == "openai"
            continue
        try:
            part = json.loads(line)
        except ValueError:
            return text, False, note, f"an invalid line: {line[:80]!r}"
        if part.get("error"):
            error = json.dumps(part["error"])[:200]
        elif api == "ollama":
            text += part["message"]["content"]
            is_complete = part["done"]
        elif api == "openai":
            text += "".join(choice.get("delta", {}).get("content") or "" for choice in part.get("choices", ()))
        else:
            text += part.get("delta", {}).get("text", "") if part["type"] == "content_block_delta" else ""
            is_complete = part["type"] == "message_stop"
    return text, is_complete and not error, note, error


@dataclass(kw_only=True)
class Load:
    """Clients that each send one request after the other until `stop`."""

    url: str
    clients: int
    seed: int
    questions: Sequence[str] = QUESTIONS
    lengths: Sequence[int] = LENGTHS
    results: list[Result] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def start(self) -> None:
        for number in range(self.clients):
            thread = threading.Thread(target=self._run, args=(Random(f"{self.seed} {number}"),), daemon=True)
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        """Stops and waits for the running requests."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, rng: Random) -> None:
        while not self._stop.is_set():
            self.results.append(ask(self.url, rng.choice(APIS), rng.choice(self.questions), rng.choice(self.lengths)))
