"""Decides for each attempt whether the client's bytes are sent or a translation of them, and builds what is sent.

A translation must have the same effect as the engine's own endpoint. The client's bytes are sent if the engine serves
the path itself, no engine option has to be set in a body without a field for it, and its endpoint loses nothing that a
translation keeps. Otherwise the request is translated. A field that the neutral form cannot express
  - is left out and named, if it only refines the answer, or if the engine's own endpoint ignores it too;
  - else keeps the request on the engine's own path, where the engine may have to reload the model for it;
  - else, if the engine has no such path, makes the attempt fail, and another kind of engine may serve the request.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from herd.coordinator.proxy.missing_paths import STATUSES, MissingPaths
from herd.coordinator.upstream.forwarded_headers import outgoing_headers
from herd.core.state.capabilities import THINKING, TOOL_CALLS, left_out
from herd.core.state.commands import Dispatch
from herd.core.state.request import Failure, FailureKind, RequestKind
from herd.core.state.served_paths import ServedPath
from herd.dialects import Dialect
from herd.engines import Engine, EngineRequest
from herd.errors import HerdError
from herd.http1.contract import Header
from herd.protocols.apply_options import as_own_endpoint, replaced_options, with_engine_options
from herd.protocols.conversation import Conversation, ParsedRequest, copied
from herd.protocols.engine_errors import blames_request
from herd.protocols.hosted_tools import HOSTED_ONLY
from herd.protocols.request_fields import rewrite
from herd.protocols.texts.tool_history import tool_calls

FIELDS_NAMED_MAX: Final = 16
"""Most fields that a header, an error or a trace names."""
FIELD_MAX_CHARS: Final = 64
_LIMIT: Final = "max_completion_tokens"
_WITH_LIMIT: Final = frozenset((RequestKind.CHAT, RequestKind.GENERATE))

MAY_RELOAD: Final = "the request was sent without the context window of the loaded model, which may be reloaded"


class Outgoing(NamedTuple):
    """What is sent to the engine. `conversation` is None if it is the client's request itself.

    `ignored` are fields of the client that have no effect; `warning` says that the model may be reloaded.
    `takes_options`: the attempt's engine options are in the request, such as a raised limit.
    """

    request: EngineRequest
    conversation: Conversation | None = None
    ignored: tuple[str, ...] = ()
    warning: str = ""
    takes_options: bool = True
    more: tuple[EngineRequest, ...] = ()
    """The requests that follow `request`, if an older version of the engine needs several."""
    is_for_older: bool = False
    """Whether the requests are those of an older version."""

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
        if isinstance(outgoing, Outgoing) and (dropped := self._left_out(command, engine, outgoing)):
            return outgoing._replace(ignored=named([*outgoing.ignored, *dropped]))
        return outgoing

    def _left_out(self, command: Dispatch, engine: Engine, outgoing: Outgoing) -> list[str]:
        """What the engine will leave out in silence. A capability has the name of the field, in every dialect."""
        model_info, parsed = command.model_info, self.parsed
        dropped = sorted(left_out(parsed.needs, model_info))
        if TOOL_CALLS in model_info.lacks and (calls := tool_calls(parsed.body)):
            dropped.append(calls)
        if command.options is not None and outgoing.takes_options:
            dropped += replaced_options(parsed.body, parsed.window_tokens, command.options)
        if parsed.special_fields and outgoing.conversation is None:
            served = engine.served_path(parsed.route.path, model_info.engine.version)
            dropped += [name for name in parsed.special_fields if served is not None and name in served.leaves_out]
        return dropped

    def _build(self, command: Dispatch, engine: Engine, now: float) -> Outgoing | Failure:
        path, endpoint = self.parsed.route.path, command.model_info.engine
        served = engine.served_path(path, endpoint.version)
        if served is None or self.missing_paths.has(endpoint, path, now):
            return self._translated(command, engine, now)
        has_options = command.options is not None and not command.options.changes_nothing
        fields = self.parsed.translatable_fields
        is_lost = any(name in served.loses for name in fields)
        lacks = command.model_info.lacks
        if THINKING in lacks and self.parsed.wants_thinking and THINKING in served.loses:
            is_lost = True  # the endpoint refuses a hint that its model cannot follow
        if HOSTED_ONLY in fields and "tools" in lacks:
            is_lost = True  # an endpoint may refuse every tool for this model, also those that are left out
        if is_lost or (has_options and not self.dialect.has_engine_options):
            return self._translated_as_own(command, engine, served)
        return self._unchanged(command, engine)

    def is_path_missing(
        self, command: Dispatch, engine: Engine, outgoing: Outgoing, status: int, body: bytes, now: float
    ) -> bool:
        """Whether an error answer means that the engine lacks the path, and can be asked at another: remembered.

        The path is there if the error is about the request: Ollama answers 501 to embeddings of a chat model.
        """
        if status not in STATUSES or outgoing.is_for_older or b"model" in body or engine.is_model_missing(status, body):
            return False
        if blames_request(body) or not self._asks_another_path(command, engine, outgoing):
            return False
        self.missing_paths.add(command.model_info.engine, outgoing.request.path, now)
        return True

    def _asks_another_path(self, command: Dispatch, engine: Engine, outgoing: Outgoing) -> bool:
        """Whether the request can be asked at another path; at the same one it could only get the same error."""
        try:
            conversation = with_engine_options(self._read(command), command.options)
            path = engine.build_request(conversation).path
            return path != outgoing.request.path or bool(engine.older_requests(conversation))
        except HerdError:
            return True

    def _missing_limit(self, command: Dispatch, engine: Engine) -> int | None:
        """The output token limit that is sent because the client gives none and the engine's own is too small."""
        parsed, loaded = self.parsed, command.model_info.loaded
        if parsed.output_tokens_max is not None or parsed.route.kind not in _WITH_LIMIT:
            return None
        return engine.output_limit(loaded.window_tokens if loaded is not None else None, parsed.prompt_tokens)

    def _unchanged(
        self, command: Dispatch, engine: Engine, served: ServedPath | None = None, warning: str = ""
    ) -> Outgoing:
        """The client's request. `served` is the engine's path if a translation would have kept more of the request."""
        route, limit_tokens = self.parsed.route, self.parsed.output_tokens_max
        if served is not None and limit_tokens and _LIMIT in self.parsed.translatable_fields and _LIMIT in served.loses:
            # Without the other name of the limit, the answer would have none.
            body = rewrite(self.parsed, command.model_info.name, {"max_tokens": limit_tokens})
            return Outgoing(EngineRequest(route.method, route.path, body), warning=warning, takes_options=False)
        if limit_tokens is None and engine.has_short_limit and (limit := self._missing_limit(command, engine)):
            body = rewrite(self.parsed, command.model_info.name, {"max_tokens": limit})
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
            return self._unchanged(command, engine, served, warning)
        if not all(served.ignores_field(name) for name in conversation.unsupported):
            return self._unchanged(command, engine, served, warning)
        return Outgoing(request, conversation, named([*conversation.ignored, *conversation.unsupported]))

    def _translated(self, command: Dispatch, engine: Engine, now: float) -> Outgoing | Failure:
        conversation, endpoint = self._read(command), command.model_info.engine
        optioned = with_engine_options(conversation, command.options)
        is_unlimited = engine.has_short_limit and optioned.sampling.output_tokens_max is None
        if is_unlimited and (limit := self._missing_limit(command, engine)):
            optioned.sampling = dataclasses.replace(optioned.sampling, output_tokens_max=limit)
        request = engine.build_request(optioned)
        older: tuple[EngineRequest, ...] = ()
        if engine.served_path(request.path, endpoint.version) is None or self.missing_paths.has(
            endpoint, request.path, now
        ):
            older = engine.older_requests(optioned)
        if conversation.unsupported:
            fields = named(conversation.unsupported)
            return Failure(kind=FailureKind.UNSUPPORTED, detail=self._unsupported(fields, engine))
        ignored = named(conversation.ignored)
        return Outgoing(older[0] if older else request, conversation, ignored, more=older[1:], is_for_older=bool(older))

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
