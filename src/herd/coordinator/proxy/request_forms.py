"""Decides for each attempt whether the client's bytes are sent or a translation of them, and builds what is sent.

A translation must have the same effect as the engine's own endpoint. The client's bytes are sent if the engine serves
the path itself, no engine option has to be set in a body without a field for it, and its endpoint loses nothing that a
translation keeps. Otherwise the request is translated. A field that the neutral form cannot express
  - is left out and named, if it only refines the answer, or if the engine's own endpoint ignores it too;
  - else keeps the request on the engine's own path, where the engine may have to reload the model for it;
  - else, if the engine has no such path, makes the attempt fail, and another kind of engine may serve the request.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from herd.coordinator.proxy.missing_paths import STATUSES, MissingPaths
from herd.coordinator.upstream.forwarded_headers import outgoing_headers
from herd.core.state.capabilities import left_out
from herd.core.state.commands import Dispatch
from herd.core.state.request import Failure, FailureKind
from herd.core.state.served_paths import ServedPath
from herd.dialects import Dialect
from herd.engines import Engine, EngineRequest
from herd.errors import HerdError
from herd.http1.contract import Header
from herd.protocols.apply_options import as_own_endpoint, with_engine_options
from herd.protocols.conversation import Conversation, ParsedRequest, copied
from herd.protocols.hosted_tools import HOSTED_ONLY
from herd.protocols.request_fields import rewrite

FIELDS_NAMED_MAX: Final = 16
"""Most fields that a header, an error or a trace names."""
FIELD_MAX_CHARS: Final = 64
_LIMIT: Final = "max_completion_tokens"

MAY_RELOAD: Final = "the request was sent without the context window of the loaded model, which may be reloaded"


@dataclass(frozen=True, slots=True)
class Outgoing:
    """What is sent to the engine. `conversation` is None if it is the client's request itself.

    `ignored` are fields of the client that have no effect; `warning` says that the model may be reloaded.
    `takes_options`: the attempt's engine options are in the request, such as a raised limit.
    """

    request: EngineRequest
    conversation: Conversation | None = None
    ignored: tuple[str, ...] = ()
    warning: str = ""
    takes_options: bool = True

    @property
    def without_effect(self) -> tuple[str, ...]:
        """What the trace records: the ignored fields, and the warning."""
        return (*self.ignored, self.warning) if self.warning else self.ignored

    def headers(self) -> list[Header]:
        """The headers of the answer that name the ignored fields and the warning."""
        if not self.ignored and not self.warning:
            return []
        return outgoing_headers(self.ignored, self.warning)


NOTHING_SENT: Final = Outgoing(EngineRequest("", ""))


@dataclass(slots=True)
class RequestForms:
    """The forms of one client request. The neutral form is read at most once, and only for a translation."""

    dialect: Dialect
    parsed: ParsedRequest
    engines: Mapping[str, Engine]
    missing_paths: MissingPaths
    _conversation: Conversation | None = field(default=None, init=False)

    def build(self, command: Dispatch, engine: Engine, now: float) -> Outgoing | Failure:
        """The request for this engine, or the failure if this kind of engine cannot serve it."""
        try:
            outgoing = self._build(command, engine, now)
        except HerdError as error:
            return _failure(engine, error)
        dropped = left_out(self.parsed.needs, command.model_info)
        if dropped and isinstance(outgoing, Outgoing):
            # A capability that an engine leaves out has the name of the field, in every dialect.
            return replace(outgoing, ignored=named([*outgoing.ignored, *sorted(dropped)]))
        return outgoing

    def _build(self, command: Dispatch, engine: Engine, now: float) -> Outgoing | Failure:
        path, endpoint = self.parsed.route.path, command.model_info.engine
        served = engine.served_path(path, endpoint.version)
        if served is None or self.missing_paths.has(endpoint, path, now):
            return self._translated(command, engine)
        has_options = command.options is not None and not command.options.changes_nothing
        fields = self.parsed.translatable_fields
        is_lost = any(name in served.loses for name in fields)
        if HOSTED_ONLY in fields and "tools" in command.model_info.lacks:
            is_lost = True  # an endpoint may refuse every tool for this model, also those that are left out
        if is_lost or (has_options and not self.dialect.has_engine_options):
            return self._translated_as_own(command, engine, served)
        return self._unchanged(command)

    def is_path_missing(self, command: Dispatch, engine: Engine, status: int, body: bytes, now: float) -> bool:
        """Whether an error answer to the client's bytes means that the engine lacks the path, which is remembered."""
        if status not in STATUSES or b"model" in body or engine.is_model_missing(status, body):
            return False
        if self._asks_the_same_path(command, engine):
            return False
        self.missing_paths.add(command.model_info.engine, self.parsed.route.path, now)
        return True

    def _asks_the_same_path(self, command: Dispatch, engine: Engine) -> bool:
        """Whether a translation for this engine would ask the path again, and could only get the same error."""
        try:
            request = engine.build_request(with_engine_options(self._read(command), command.options))
        except HerdError:
            return False
        return request.path == self.parsed.route.path

    def _unchanged(self, command: Dispatch, served: ServedPath | None = None, warning: str = "") -> Outgoing:
        """The client's request. `served` is the engine's path if a translation would have kept more of the request."""
        route, limit_tokens = self.parsed.route, self.parsed.output_tokens_max
        if served is not None and limit_tokens and _LIMIT in self.parsed.translatable_fields and _LIMIT in served.loses:
            # Without the other name of the limit, the answer would have none.
            body = rewrite(self.parsed, command.model_info.name, {"max_tokens": limit_tokens})
            return Outgoing(EngineRequest(route.method, route.path, body), warning=warning, takes_options=False)
        takes_options = self.dialect.has_engine_options
        body = self.dialect.rewrite(self.parsed, command.model_info.name, command.options if takes_options else None)
        return Outgoing(EngineRequest(route.method, route.path, body), warning=warning, takes_options=takes_options)

    def _translated_as_own(self, command: Dispatch, engine: Engine, served: ServedPath) -> Outgoing:
        """A translation for an engine that serves the path itself; the client's bytes if it would lose something."""
        warning = MAY_RELOAD if command.options is not None and command.options.window_tokens is not None else ""
        try:
            conversation = as_own_endpoint(self._read(command), served)
            request = engine.build_request(with_engine_options(conversation, command.options))
        except HerdError:
            return self._unchanged(command, served, warning)
        if not all(served.ignores_field(name) for name in conversation.unsupported):
            return self._unchanged(command, served, warning)
        return Outgoing(request, conversation, named([*conversation.ignored, *conversation.unsupported]))

    def _translated(self, command: Dispatch, engine: Engine) -> Outgoing | Failure:
        conversation = self._read(command)
        request = engine.build_request(with_engine_options(conversation, command.options))
        if conversation.unsupported:
            fields = named(conversation.unsupported)
            return Failure(kind=FailureKind.UNSUPPORTED, detail=self._unsupported(fields, engine))
        return Outgoing(request, conversation, named(conversation.ignored))

    def _unsupported(self, fields: tuple[str, ...], engine: Engine) -> str:
        able = sorted(
            other.title
            for other in self.engines.values()
            if (served := other.served_path(self.parsed.route.path)) is not None
            and all(served.honors(name) for name in fields)
        )
        where = f"; a node with {' or '.join(able)} could serve it" if able else ""
        return f"{', '.join(fields)}: not supported by {engine.title}{where}"

    def _read(self, command: Dispatch) -> Conversation:
        """A copy for this attempt: an engine adds to its lists."""
        if self._conversation is None:
            self._conversation = self.dialect.read_conversation(self.parsed)
        read = self._conversation
        attempt = copied(read)
        attempt.model = command.model_info.name
        attempt.ignored, attempt.unsupported = list(read.ignored), list(read.unsupported)
        return attempt


def _failure(engine: Engine, error: HerdError) -> Failure:
    """The error's own message may quote the request, so it goes to the client only."""
    detail = f"the request cannot be translated for {engine.title}"
    return Failure(kind=FailureKind.UNSUPPORTED, detail=detail, engine_text=error.refusal.message)


def named(fields: Iterable[str]) -> tuple[str, ...]:
    """The fields once each, in order, with bounded number and length."""
    return tuple(dict.fromkeys(name[:FIELD_MAX_CHARS] for name in fields))[:FIELDS_NAMED_MAX]
