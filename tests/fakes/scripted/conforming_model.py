"""Plays a model that passes every step of `herd certify`, or fails the one that a test names."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from fakes.scripted_engine import Answer, completion, events

Json = dict[str, Any]
ADA = {"name": "Ada", "age": 36, "pets": ["cat", "dog"]}


class ConformingModel:
    """A script for `ScriptedEngine`. `flaw` is "" or what the model does wrong."""

    def __init__(self, flaw: str = "") -> None:
        self.flaw = flaw

    def __call__(self, _path: str, body: Json) -> Answer:
        text, calls = self.move(body)
        if not body.get("stream"):
            return completion(str(body["model"]), text)
        return events(*self.chunks(text, calls))

    def move(self, body: Json) -> tuple[str, list[tuple[str, Json]]]:
        messages = body["messages"]
        results = [message for message in messages if message["role"] == "tool"]
        asked = next(message["content"] for message in messages if message["role"] == "user")
        words = asked if isinstance(asked, str) else " ".join(part.get("text", "") for part in asked)
        if body.get("tools"):
            return self.tool_move(words, len(results))
        if body.get("stop"):
            return ("one two three four five" if self.flaw == "stop" else "one two three "), []
        if body.get("response_format"):
            return json.dumps({**ADA, "age": "36"} if self.flaw == "json" else ADA), []
        if not isinstance(asked, str) and any(part["type"] == "image_url" for part in asked):
            return ("blue" if self.flaw == "vision" else "Red."), []
        secret = re.search(r"The secret number is (\d+)", words)
        if secret is not None and not (self.flaw == "recall" and len(words) > 4000):
            return secret[1], []
        return "Hello", []

    def tool_move(self, words: str, results: int) -> tuple[str, list[tuple[str, Json]]]:
        if self.flaw == "talks":
            return "I would read the file.", []
        if "code.txt" in words:
            both = [("read_file", {"path": name}) for name in ("notes.txt", "code.txt")]
            return "", both[:1] if self.flaw == "sequential" else both
        if results == 0:
            return "", [("read_file", {"path": "notes.txt"})]
        if results == 1 or self.flaw == "endless":
            new = "red" if self.flaw == "edit" else "blue"
            return "", [("edit_file", {"path": "notes.txt", "old_text": "green", "new_text": new})]
        return "DONE", []

    def chunks(self, text: str, calls: list[tuple[str, Json]]) -> Iterator[Json]:
        head: Json = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
        delta: Json = {"role": "assistant", "content": text}
        if calls:
            delta["tool_calls"] = [
                {
                    "index": at,
                    "id": f"call_{at}_{name}",
                    "type": "function",
                    "function": {"name": name, "arguments": json.dumps(arguments)},
                }
                for at, (name, arguments) in enumerate(calls)
            ]
        yield {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
        reason = "tool_calls" if calls else "stop"
        yield {**head, "choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}
        yield {**head, "choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}}
