"""The contract of a dialect: how one family of clients speaks. Pure: bytes in, values out, and back. One dialect a file.

A dialect file defines `DIALECT`, an instance of a subclass of `Dialect`. It
  - reads a request at the door (`parse`) and, only if the engine speaks otherwise, whole (`read_conversation`);
  - rewrites a body where it must change and nowhere else (`rewrite`);
  - watches a passed-through answer without decoding it (`watch`), and writes a translated one (`writer`);
  - renders every refusal in its own shape, before the first byte (`error`) and after it (`error_frame`);
  - answers its list routes from memory (`listing`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from herd.core.state.engine_options import EngineOptions
from herd.core.state.fleet import Fleet, ModelInfo
from herd.core.state.request import Counters
from herd.errors import Refusal
from herd.protocols.conversation import Conversation, Delta, ParsedRequest, Route
from herd.protocols.resumption import PartialAnswer


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole HTTP answer made from memory."""

    status: int
    body: bytes
    content_type: str = "application/json; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Timestamp:
    """The wall clock, handed in by whoever renders: RFC 3339 with nanoseconds and unix seconds."""

    rfc3339: str
    unix_s: int


class Watch(Protocol):
    """Watches one passed-through answer. Cost per chunk is a memory search, not a decode."""

    def feed(self, chunk: bytes) -> None:
        """Sees body bytes as they pass (any split)."""

    def end(self) -> Counters | None:
        """The counters if the answer was whole (its terminator was seen, or it was one JSON document), else None."""


class Writer(Protocol):
    """Writes one translated answer in the client's dialect."""

    content_type: str

    def write(self, delta: Delta) -> bytes:
        """Body bytes for this piece; empty when nothing is to be sent yet (a non-stream answer is written at its last)."""


@dataclass(frozen=True, slots=True)
class Resumption:
    """An answer that broke off and can be gone on with: what was partial_answer, and who writes what follows."""

    partial_answer: PartialAnswer
    writer: Writer


class Dialect(ABC):
    """See the file's head. Every method is pure; `parse`, `read_conversation` and `listing` raise only `HerdError`."""

    name: str
    has_engine_options: bool = False
    """Whether its bodies have a place for a window, so that bytes can pass even where one is to be partial_answer."""
    routes: tuple[Route, ...]
    listings: tuple[tuple[str, str], ...]
    """(method, path) of routes answered from memory; a path may end in "/{name}"."""

    @abstractmethod
    def parse(self, route: Route, body: bytes) -> ParsedRequest:
        """The features of a request, without decoding its payload. Raises BadRequest in plain words."""

    @abstractmethod
    def rewrite(self, ask: ParsedRequest, model: str, pin: EngineOptions | None = None) -> bytes:
        """The body a node may see: without the coordinator's extras, with `model` as that engine spells it, and with the window of
        `pin` (only where the dialect `pins`).

        Returns `ask.body` itself when nothing has to change. Unknown fields survive byte for byte.
        """

    @abstractmethod
    def read_conversation(self, ask: ParsedRequest) -> Conversation:
        """The whole request in neutral form. Raises BadRequest."""

    @abstractmethod
    def watch(self, ask: ParsedRequest) -> Watch:
        """A watcher for the answer to this request, passed through untouched."""

    @abstractmethod
    def writer(self, ask: ParsedRequest, model: str, request_id: str, moment: Timestamp) -> Writer:
        """A writer for the answer to this request; `model` is spelled as the client asked for it."""

    @abstractmethod
    def error(self, refusal: Refusal, request_id: str = "") -> Answer:
        """A refusal as a whole answer, in the dialect's own shape."""

    @abstractmethod
    def error_frame(self, ask: ParsedRequest, refusal: Refusal) -> bytes:
        """What ends a stream that cannot go on: an error in the dialect's own form, never a normal terminator.

        Empty for a non-stream answer: there only an unclean close can tell.
        """

    @abstractmethod
    def listing(self, method: str, path: str, fleet: Fleet, moment: Timestamp) -> Answer:
        """A list route, from memory. Raises UnknownModel for a name nobody has."""

    def resume(  # a dialect without continuation needs none of them
        self,
        ask: ParsedRequest,  # noqa: ARG002
        model: str,  # noqa: ARG002
        request_id: str,  # noqa: ARG002
        moment: Timestamp,  # noqa: ARG002
        forwarded: bytes,  # noqa: ARG002
        note: str,  # noqa: ARG002
    ) -> Resumption | None:
        """How to go on after `forwarded`, whole lines of a stream that broke off; None where the dialect cannot.

        The writer takes up the stream's own identity (id, time, role already told), so that the client sees one answer;
        `note` stands in its last frame, so that a client can know.
        """
        return None

    def describe(self, ask: ParsedRequest, cards: Sequence[ModelInfo]) -> Answer | None:  # noqa: ARG002 - for those who override it
        """An INFO route (such as /api/show) from memory, or None where a node must be asked."""
        return None
