"""Runs the clients: each sends one request after the other and writes down what it saw, byte by byte in time."""

from __future__ import annotations

import http.client
import itertools
import json
import threading
import time
from dataclasses import dataclass, field
from random import Random

from bench.faults.answers import Answer, Kind
from bench.faults.apis import APIS, Api, Read, body_of, is_embedding, read

SILENCE_MAX_S = 240.0
"""A client that gets no byte for this long has been forgotten."""
RETRY_CONNECT_S = 0.25
WORDS_PER_S = 4.0
EMBEDDING_MAX_S = 3.0
CALL_SHARE, THOUGHT_SHARE, LEAVES_SHARE, LIMIT_SHARE = 0.08, 0.08, 0.03, 0.25


@dataclass(slots=True, kw_only=True)
class History:
    """One request as its client saw it. Times are seconds on the monotonic clock.

    `end` is "complete", "refused" (an error before the answer), "broken" (an error or a close in the answer), "lost"
    (no status) or "left" (the client itself closed the connection).
    """

    api: Api
    answer: Answer
    limit: int | None
    sent_at: float
    end: str = ""
    ended_at: float = 0.0
    status: int = 0
    request_id: str = ""
    node: str = ""
    retries: int = 0
    read: Read = field(default_factory=Read)
    byte_at: list[float] = field(default_factory=list)
    error: str = ""

    @property
    def tag(self) -> str:
        return tag_of(self.answer.seed)

    @property
    def silences_s(self) -> list[float]:
        """The waits for bytes: the first from the request on, the last until the end."""
        times = [self.sent_at, *self.byte_at, self.ended_at]
        return [later - earlier for earlier, later in itertools.pairwise(times)]


def tag_of(seed: int) -> str:
    return f"h{seed}"


@dataclass(kw_only=True)
class Clients:
    """`count` clients until `stop`; `histories` are complete after it."""

    port: int
    count: int
    seed: int
    answer_s: tuple[float, float]
    """The shortest and the longest answer, on a fast engine."""
    histories: list[History] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)
    _next_seed: int = 1
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def start(self) -> None:
        for number in range(self.count):
            thread = threading.Thread(target=self._run, args=(Random(self.seed * 1000 + number),), daemon=True)
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        """Waits until every client has its answer."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    @property
    def waiting(self) -> int:
        return sum(thread.is_alive() for thread in self._threads)

    def _run(self, rng: Random) -> None:
        while not self._stop.is_set():
            history = self._choose(rng)
            leaves_s = rng.uniform(0.5, 6.0) if rng.random() < LEAVES_SHARE else SILENCE_MAX_S
            if self._ask(history, leaves_s):
                with self._lock:
                    self.histories.append(history)

    def _choose(self, rng: Random) -> History:
        with self._lock:
            seed, self._next_seed = self._next_seed, self._next_seed + 1
        api = rng.choice(APIS)
        low_s, high_s = self.answer_s
        seconds = low_s * (high_s / low_s) ** rng.random()
        if is_embedding(api):
            seconds = min(seconds, EMBEDDING_MAX_S)
        chosen, kind = rng.random(), Kind.TEXT
        if api.has_tools and chosen < CALL_SHARE:
            kind = Kind.CALL
        elif api.has_thinking and CALL_SHARE <= chosen < CALL_SHARE + THOUGHT_SHARE:
            kind = Kind.THOUGHT
        words = max(6, round(seconds * WORDS_PER_S))
        has_limit = kind is Kind.TEXT and not is_embedding(api) and rng.random() < LIMIT_SHARE
        limit = rng.randint(3, words) if has_limit else None
        answer = Answer(seed, words, round(1000 * seconds / words), kind)
        return History(api=api, answer=answer, limit=limit, sent_at=0.0)

    def _ask(self, history: History, leaves_s: float) -> bool:
        """Fills the history in; returns whether the request was sent."""
        body = json.dumps(body_of(history.api, history.answer, history.limit))
        connection = self._connected()
        if connection is None:
            return False
        raw, is_leaving = bytearray(), leaves_s < SILENCE_MAX_S
        history.sent_at = time.monotonic()
        try:
            headers = {"Content-Type": "application/json", "X-Herd-Tags": history.tag}
            connection.request("POST", history.api.path, body, headers)
            connection.sock.settimeout(leaves_s)
            response = connection.getresponse()
            history.status = response.status
            history.request_id = response.getheader("X-Fleet-Request") or ""
            history.node = response.getheader("X-Fleet-Node") or ""
            history.retries = int(response.getheader("X-Fleet-Retries") or 0)
            while piece := response.read1():
                raw += piece
                history.byte_at.append(time.monotonic())
                if is_leaving and time.monotonic() - history.sent_at > leaves_s:
                    history.end = "left"
                    break
        except TimeoutError as error:
            history.end, history.error = ("left", "") if is_leaving else ("", f"no byte for {leaves_s:.0f} s: {error}")
        except (OSError, http.client.HTTPException) as error:
            history.error = f"{type(error).__name__}: {error}"
        finally:
            connection.close()
        history.ended_at = time.monotonic()
        _judge(history, bytes(raw))
        return True

    def _connected(self) -> http.client.HTTPConnection | None:
        """Waits for a coordinator that accepts connections; None if the run ends first."""
        while not self._stop.is_set():
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=SILENCE_MAX_S)
            try:
                connection.connect()
            except OSError:
                connection.close()
                self._stop.wait(RETRY_CONNECT_S)
            else:
                return connection
        return None


def _judge(history: History, raw: bytes) -> None:
    if history.status == 200:
        history.read = read(history.api, raw)
    elif raw:
        history.error = history.error or raw[:200].decode("utf-8", "replace")
    if history.end == "left":
        return
    if not history.status:
        history.end = "lost"
    elif history.status != 200:
        history.end = "refused"
    elif history.error or history.read.error or not history.read.end:
        history.end = "broken"
        history.error = history.error or history.read.error or "no end"
    else:
        history.end = "complete"
