"""A client: sends one request, receives its answer at its own pace, and knows the right one."""

from __future__ import annotations

import json
from typing import Any

from sim.boundary.network import Peer, PeerOwner
from sim.boundary.reading import CUT_REASONS, HttpAnswer, Read, read_answer
from sim.boundary.schedule import ClientRequest
from sim.boundary.texts import Task

LIMIT_FIELDS = {"/v1/responses": "max_output_tokens", "/api/chat": "num_predict", "/api/generate": "num_predict"}
_TOOL = {"name": "f", "parameters": {"type": "object", "properties": {}}}
_SPECIALS: dict[str, dict[str, Any]] = {
    "n": {"n": 2},
    "logit_bias": {"logit_bias": {"7": 3}},
    "x_flavor": {"x_flavor": 7},
    "grammar": {"grammar": "root ::= x"},
    "functions": {"functions": [_TOOL]},
    "server_tool": {"tools": [{"type": "web_search_20250305", "name": "web_search"}]},
    "custom_tool": {"tools": [{"type": "custom", "name": "c"}]},
}
FLAVORED = {"x_flavor": "x", "logit_bias": "l", "grammar": "g"}


class SimClient(PeerOwner):
    """One request of a client. `left` says that the client itself ended its connection."""

    def __init__(self, wanted: ClientRequest) -> None:
        self.wanted = wanted
        self.task = Task(wanted.number, wanted.tokens)
        self.answer = HttpAnswer()
        self.peer: Peer | None = None
        self.request_id = ""
        self.left = self.is_over = self.was_refused_connection = False

    @property
    def request_bytes(self) -> bytes:
        body = json.dumps(self._body()).encode()
        head = f"POST {self.wanted.path} HTTP/1.1\r\nHost: herd\r\nX-Herd-Tags: t{self.wanted.number}\r\n"
        return head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body

    def _body(self) -> dict[str, Any]:
        wanted, prompt = self.wanted, self.task.prompt
        body: dict[str, Any] = {"model": wanted.model, "stream": wanted.is_stream}
        if wanted.path in ("/v1/completions", "/api/generate"):
            body["prompt"] = prompt
        else:
            body["input" if wanted.path == "/v1/responses" else "messages"] = [{"role": "user", "content": prompt}]
        if wanted.limit is not None:
            name = LIMIT_FIELDS.get(wanted.path, "max_tokens")
            body |= {"options": {name: wanted.limit}} if name == "num_predict" else {name: wanted.limit}
        elif wanted.path == "/v1/messages":
            body["max_tokens"] = 1000
        return self._with_special(body)

    def _with_special(self, body: dict[str, Any]) -> dict[str, Any]:
        special, prompt = self.wanted.special, self.task.prompt
        if special == "token_prompt":
            return body | {"prompt": [self.task.number, self.task.tokens]}
        if special in ("image_url", "input_audio"):
            source = (
                {"url": "https://images.example/a.png"} if special == "image_url" else {"data": "", "format": "wav"}
            )
            parts = [{"type": "text", "text": prompt}, {"type": special, special: source}]
            return body | {"messages": [{"role": "user", "content": parts}]}
        return body | _SPECIALS.get(special, {})

    # --- its connection ---

    def on_data(self, peer: Peer, data: bytes) -> None:
        self.answer.feed(data)
        if self.answer.is_complete and not self.is_over:
            self.is_over = True
            peer.close()

    def on_eof(self, peer: Peer) -> None:
        self.is_over = True
        peer.close()

    def on_lost(self, _peer: Peer) -> None:
        self.is_over = True

    # --- what it has received ---

    def read(self) -> Read:
        return read_answer(self.wanted.path, self.wanted.is_stream, self.answer)

    def problem(self, has_ended: bool) -> str:
        """What is wrong with the answer as it was received; empty if nothing is."""
        read, wanted = self.read(), self.wanted
        flavors = {"", FLAVORED.get(wanted.special, "")}
        right = {"".join(self.task.answer(wanted.limit, flavor)) for flavor in flavors}
        if self.answer.problem:
            return f"the answer is not HTTP: {self.answer.problem}"
        if read.error.startswith("not in its format"):
            return f"{read.error}; {self.answer.body[-300:]!r}"
        for text in read.texts.values():
            if not any(whole.startswith(text) for whole in right):
                return f"wrong text {text!r}"
        if read.is_complete:
            is_cut = wanted.limit is not None and wanted.limit < wanted.tokens
            if not read.texts or any(text not in right for text in read.texts.values()):
                return f"reported as complete with {dict(read.texts)!r}"
            is_reported_as_cut = read.finish_reason in CUT_REASONS
            if not read.error and is_cut != is_reported_as_cut and wanted.limit != wanted.tokens:
                return f"finish reason {read.finish_reason!r} of an answer with limit {wanted.limit}"
        if has_ended and not self.left and self.answer.is_complete and not (read.is_complete or read.error):
            return f"an answer ended in order without an end or an error: {self.answer.body[-200:]!r}"
        return ""
