"""An inference server of a node: reads requests, answers with the one right text, and fails where the schedule says."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sim.boundary.network import Peer, PeerOwner
from sim.boundary.schedule import STATUSES, Behavior, BehaviorChange
from sim.boundary.texts import Task, count_tokens, read_task, rest_of_answer
from sim.boundary.virtual_time import Clock
from sim.boundary.wire import FORMATS, LINES, Format, Usage

PREFILL_S = 0.3
TOKEN_S = 1.0
SLOWNESS = 2.0
PAUSE_S = 12.0
CONTINUING_KINDS = frozenset({"llamacpp"})
"""Kinds that continue a trailing turn of the assistant; the others begin a new one."""
FLAVOR_FIELDS = ("x_flavor", "logit_bias", "grammar")
FLAVORED_PATHS = ("/v1/chat/completions", "/v1/completions")
"""Paths at which servers read fields that OpenAI does not have."""
IMPOSSIBLE: tuple[Any, ...] = (10**400, -5, 10**400, 10**30, 1e308, "many", 0.5, None, True, [1])
TEMPLATE_END = "[assistant]"


@dataclass(kw_only=True)
class Job:
    """A request that the engine has read."""

    path: str
    format: Format
    is_stream: bool
    task: Task
    partial: str
    limit: int | None
    flavor: str
    choices: int
    prompt_tokens: int
    body: dict[str, Any] = field(repr=False)


@dataclass
class Frame:
    """A part of an answer, which is sent `after_s` after the one before."""

    after_s: float
    data: bytes


class BadJob(Exception):
    """The engine does not understand the request; the message is its error text."""


class SimEngine(PeerOwner):
    """The engine of one node. Its connections are peers."""

    def __init__(self, clock: Clock, kind: str, is_frozen: Callable[[], bool]) -> None:
        self.kind = kind
        self.behavior = BehaviorChange(at=0.0, node="", behavior=Behavior.NORMAL)
        self.runs: dict[Peer, Run] = {}
        """The answers that are being sent."""
        self.peers: dict[Peer, bytes] = {}
        """All connections, and the bytes of an incomplete request on each."""
        self._clock = clock
        self._is_frozen = is_frozen
        self._used: set[Peer] = set()
        self._stopped: list[Callable[[], None]] = []
        """What happens when the engine is no longer frozen."""

    # --- connections ---

    def on_data(self, peer: Peer, data: bytes) -> None:
        if peer not in self.peers:
            return
        if self._is_frozen():
            self._stopped.append(lambda: self.on_data(peer, data))
            return
        received = self.peers[peer] + data
        head, separator, rest = received.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0) if separator else 0
        if not separator or len(rest) < length:
            self.peers[peer] = received
            return
        self.peers[peer] = rest[length:]
        self._serve(peer, head.split(b" ")[1].decode(), rest[:length])

    def on_eof(self, peer: Peer) -> None:
        self.on_lost(peer)

    def on_lost(self, peer: Peer) -> None:
        self.peers.pop(peer, None)
        self.runs.pop(peer, None)
        self._used.discard(peer)

    def thaw(self) -> None:
        stopped, self._stopped = self._stopped, []
        for action in stopped:
            action()

    def stop(self, end: Callable[[Peer], None]) -> None:
        """Ends all connections."""
        for peer in list(self.peers):
            end(peer)
        self.peers.clear()
        self.runs.clear()
        self._used.clear()
        self._stopped.clear()

    def accept(self, peer: Peer) -> None:
        self.peers[peer] = b""

    # --- requests ---

    def _serve(self, peer: Peer, path: str, body: bytes) -> None:
        behavior = self.behavior.behavior
        if behavior is Behavior.STALE and peer in self._used:
            self._end(peer, Peer.reset)
            return
        self._used.add(peer)
        if behavior is Behavior.HANGS:
            return
        if behavior is Behavior.STATUS:
            peer.send(_document(STATUSES[self.behavior.choice % len(STATUSES)], self._refusal()))
            return
        try:
            frames = self._frames(path, json.loads(body))
        except BadJob as problem:
            peer.send(_document(400, json.dumps({"error": {"message": str(problem)}}).encode()))
            return
        run = self.runs[peer] = Run(peer, frames, self.behavior)
        self._clock.later(frames[0].after_s * run.slowness, lambda: self.advance(run))

    def _refusal(self) -> bytes:
        texts = (b'{"error":{"message":"boom"}}', b'{"error":"model not found"}', b"<html>boom</html>", b"")
        return texts[self.behavior.choice // len(STATUSES) % len(texts)]

    def _frames(self, path: str, body: dict[str, Any]) -> list[Frame]:
        if path == "/tokenize":
            count = count_tokens(str(body.get("content", body.get("prompt", ""))))
            answer = {"tokens": list(range(count)), "count": count}
            return [Frame(0.01, _document(200, json.dumps(answer).encode()))]
        if path not in FORMATS or (self.kind != "ollama" and path.startswith("/api/")):
            raise BadJob(f"no such path {path}")
        job = read_job(self.kind, path, body)
        if body.get("_debug_render_only"):
            rendered = {"_debug_info": {"rendered_template": f"[user]{job.task.prompt}{TEMPLATE_END}"}}
            return [Frame(0.05, _document(200, json.dumps(rendered).encode()))]
        return self._answer(job)

    def _answer(self, job: Job) -> list[Frame]:
        tokens, is_cut = rest_of_answer(job.task, job.partial, job.limit, job.flavor)
        reason = "length" if is_cut else "stop"
        completion: Any = len(tokens)
        if self.behavior.behavior is Behavior.IMPOSSIBLE_NUMBERS:
            completion = IMPOSSIBLE[self.behavior.choice % len(IMPOSSIBLE)]
        usage = Usage(prompt=job.prompt_tokens, completion=completion)
        form, text = job.format, "".join(tokens)
        if not job.is_stream:
            body = json.dumps(form.document(text, reason, usage)).encode()
            more = 10 if self.behavior.behavior is Behavior.WRONG_LENGTH else 0
            return [Frame(PREFILL_S + TOKEN_S * len(tokens), _document(200, body, self._flaw(), more))]
        parts = [Frame(PREFILL_S, form.written(form.begin()))]
        for token in tokens:
            pieces = b"".join(form.event(form.piece(token, index)) for index in range(job.choices))
            parts.append(Frame(TOKEN_S, pieces))
        parts += self._end_of_stream(job, text, reason, usage)
        head = _head(200, form.content_type, (b"Transfer-Encoding: chunked", *self._flaw()))
        return _chunked(head, [frame for frame in parts if frame.data], self.behavior.behavior)

    def _end_of_stream(self, job: Job, text: str, reason: str, usage: Usage) -> list[Frame]:
        terminator = b"" if self.behavior.behavior is Behavior.UNTERMINATED else job.format.terminator
        return [Frame(0.0, job.format.written(job.format.end(text, reason, usage))), Frame(0.0, terminator)]

    def _flaw(self) -> tuple[bytes, ...]:
        return (b"Content-Encoding: gzip",) if self.behavior.behavior is Behavior.COMPRESSES else ()

    # --- answers ---

    def advance(self, run: Run) -> None:
        """Sends the next frame of an answer."""
        peer = run.peer
        if self.runs.get(peer) is not run:
            return
        if self._is_frozen():
            self._stopped.append(lambda: self.advance(run))
            return
        frame = run.frames[run.sent_frames]
        data, is_here = run.until_place(frame.data)
        peer.send(data)
        run.sent_frames += 1
        if is_here and self._misbehave(run):
            return
        if run.sent_frames == len(run.frames):
            self._finish(run)
            return
        self._clock.later(run.frames[run.sent_frames].after_s * run.slowness, lambda: self.advance(run))

    def _finish(self, run: Run) -> None:
        self.runs.pop(run.peer, None)
        behavior = run.change.behavior
        if behavior in (Behavior.UNFRAMED, Behavior.WRONG_LENGTH):
            self._end(run.peer, Peer.close)
        elif behavior is Behavior.EXTRA:
            run.peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nxx")

    def _misbehave(self, run: Run) -> bool:
        """Does at this place what the behavior says; False if the answer continues."""
        change, peer = run.change, run.peer
        if change.behavior is Behavior.RESETS:
            self._end(peer, Peer.reset)
        elif change.behavior is Behavior.CLOSES:
            self._end(peer, Peer.close)
        elif change.behavior is Behavior.STALLS:
            return True
        elif change.behavior is Behavior.PAUSES:
            self._clock.later(PAUSE_S, lambda: self._go_on(run))
        elif change.behavior is Behavior.GARBAGE:
            peer.send(run.kept + b"\x00\xff\r\n\r\nHTTP/9 what\r\n{]" * 3)
            self._end(peer, Peer.close)
        elif change.behavior in (Behavior.FAILS, Behavior.TRUNCATES):
            self._end_early(run)
        else:
            return False
        return True

    def _go_on(self, run: Run) -> None:
        if self.runs.get(run.peer) is run:
            run.peer.send(run.kept)
            if run.sent_frames == len(run.frames):
                self._finish(run)
            else:
                self._clock.later(run.frames[run.sent_frames].after_s, lambda: self.advance(run))

    def _end_early(self, run: Run) -> None:
        """Ends an answer in order, after the frame that has just been sent whole."""
        run.peer.send(run.kept)
        if run.change.behavior is Behavior.FAILS and run.failures:
            spelling = run.failures[run.change.choice % len(run.failures)]
            run.peer.send(b"%x\r\n%b\r\n" % (len(spelling), spelling))
        run.peer.send(b"0\r\n\r\n")
        self.runs.pop(run.peer, None)

    def _end(self, peer: Peer, end: Callable[[Peer], None]) -> None:
        end(peer)
        self.on_lost(peer)


class Run:
    """One answer that is being sent."""

    def __init__(self, peer: Peer, frames: list[Frame], change: BehaviorChange) -> None:
        self.peer, self.frames, self.change = peer, frames, change
        self.sent_frames = 0
        self.slowness = SLOWNESS if change.behavior is Behavior.SLOW else 1.0
        self.kept = b""
        """The rest of the frame in whose middle something happened."""
        self.failures: tuple[bytes, ...] = ()
        is_stream = len(frames) > 1
        if is_stream:
            is_lines = LINES.encode() in frames[0].data
            self.failures = _failures(is_lines, frames[0].data + frames[1].data)
        self._is_done = False
        size_bytes = sum(len(frame.data) for frame in frames)
        self._left_bytes = int(change.place * size_bytes) if self._has_place(is_stream) else -1

    def _has_place(self, is_stream: bool) -> bool:
        behavior = self.change.behavior
        if behavior in (Behavior.FAILS, Behavior.TRUNCATES):
            return is_stream
        return behavior in (Behavior.RESETS, Behavior.CLOSES, Behavior.STALLS, Behavior.PAUSES, Behavior.GARBAGE)

    def until_place(self, data: bytes) -> tuple[bytes, bool]:
        """The bytes before the place where something happens, and whether it happens now."""
        if self._left_bytes < 0 or self._is_done:
            return data, False
        if len(data) < self._left_bytes:
            self._left_bytes -= len(data)
            return data, False
        self._is_done = True
        self.kept = data[self._left_bytes :]
        return data[: self._left_bytes], True


def _failures(is_lines: bool, beginning: bytes) -> tuple[bytes, ...]:
    """The spellings of a failure in this stream."""
    if is_lines:
        return FORMATS["/api/chat"].failures if b'"message"' in beginning else FORMATS["/api/generate"].failures
    if b"response.created" in beginning:
        return FORMATS["/v1/responses"].failures
    if b"message_start" in beginning:
        return FORMATS["/v1/messages"].failures
    return FORMATS["/v1/chat/completions" if b'"delta"' in beginning else "/v1/completions"].failures


def read_job(kind: str, path: str, body: dict[str, Any]) -> Job:
    """Raises BadJob for what this kind of engine does not understand."""
    text, partial = _prompt(kind, path, body)
    try:
        task, after = read_task(text)
    except ValueError:
        raise BadJob("no task in the prompt") from None
    prompt_tokens = 5 + count_tokens(text) + count_tokens(partial)
    partial = partial or after.rpartition(TEMPLATE_END)[2]
    reads_fields = kind != "ollama" and path in FLAVORED_PATHS
    given = {name for name in FLAVOR_FIELDS if body.get(name)} if reads_fields else set()
    options = body.get("options") or {}
    limits = [body.get("max_tokens"), body.get("max_completion_tokens"), body.get("max_output_tokens")]
    limit = next((int(each) for each in (*limits, options.get("num_predict")) if each is not None and each > 0), None)
    return Job(
        path=path,
        format=FORMATS[path],
        is_stream=bool(body.get("stream", path.startswith("/api/"))),
        task=task,
        partial="" if "grammar" in given else partial,
        limit=limit,
        flavor="".join(sorted(name[0] for name in given)),
        choices=int(body.get("n") or 1) if kind != "ollama" else 1,
        prompt_tokens=prompt_tokens,
        body=body,
    )


def _prompt(kind: str, path: str, body: dict[str, Any]) -> tuple[str, str]:
    """The text of the prompt, and the beginning of the answer if the engine continues one."""
    if path in ("/v1/completions", "/api/generate"):
        prompt = body.get("prompt", "")
        if isinstance(prompt, list):
            prompt = Task(*prompt[:2]).prompt if isinstance(prompt[0], int) else str(prompt[0])
        is_raw = bool(body.get("raw")) or kind != "ollama"
        return prompt if is_raw else prompt[: prompt.find(";") + 1], ""
    given = body.get("input", body.get("messages", []))
    if isinstance(given, str):
        return given, ""
    turns = [(turn.get("role", "user"), _content(turn.get("content", ""))) for turn in given]
    text = "".join(content for role, content in turns if role != "assistant")
    is_begun = bool(turns) and turns[-1][0] == "assistant" and kind in CONTINUING_KINDS
    return text, turns[-1][1] if is_begun else ""


def _content(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "".join(str(part.get("text", "")) for part in content or [])


def _head(status: int, content_type: str, lines: tuple[bytes, ...]) -> bytes:
    own = (b"HTTP/1.1 %d X" % status, b"Content-Type: " + content_type.encode(), *lines)
    return b"\r\n".join(own) + b"\r\n\r\n"


def _document(status: int, body: bytes, lines: tuple[bytes, ...] = (), more_bytes: int = 0) -> bytes:
    length = b"Content-Length: %d" % (len(body) + more_bytes)
    return _head(status, "application/json", (length, *lines)) + body


def _chunked(head: bytes, parts: list[Frame], behavior: Behavior) -> list[Frame]:
    frames = [Frame(part.after_s, b"%x\r\n%b\r\n" % (len(part.data), part.data)) for part in parts]
    frames[0].data = head + frames[0].data
    if behavior not in (Behavior.UNFRAMED, Behavior.WRONG_LENGTH):
        frames.append(Frame(0.0, b"0\r\n\r\n"))
    return frames
