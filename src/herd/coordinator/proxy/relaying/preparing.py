"""Prepares an attempt: what is sent to the node, and how its answer is read."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from herd.coordinator.proxy.continuation import Rest
from herd.coordinator.proxy.pass_through import PassThrough
from herd.coordinator.proxy.relay_dependencies import RelayDependencies
from herd.coordinator.proxy.request_forms import NOTHING_SENT, Outgoing, RequestForms
from herd.coordinator.proxy.tool_repairs import ToolRepairs
from herd.coordinator.proxy.translation import Translation, limited
from herd.coordinator.proxy.visible_limit import limited_reader, limited_rest, shows_usage
from herd.coordinator.proxy.wait_comments import is_event_stream
from herd.coordinator.upstream import forwarded_headers
from herd.core.state.commands import Dispatch
from herd.core.state.fleet import canonical
from herd.core.state.request import Failure, RequestId
from herd.dialects import Dialect, Writer
from herd.engines import Engine, EngineRequest, Reader
from herd.protocols.conversation import ParsedRequest
from herd.protocols.cut_streams.joined_reader import RepeatedReader


class PreparedAttempt(NamedTuple):
    """A request to a node, with its header lines, and the reader of its answer."""

    request: EngineRequest
    lines: bytes
    answer: PassThrough | Translation
    outgoing: Outgoing = NOTHING_SENT


class Preparation:
    """Prepares all attempts of one request."""

    __slots__ = ("_dependencies", "_dialect", "_lines", "_parsed", "_request_id", "forms", "tool_repairs")

    def __init__(
        self,
        lines: bytes,
        parsed: ParsedRequest,
        dialect: Dialect,
        request_id: RequestId,
        dependencies: RelayDependencies,
    ) -> None:
        """`lines` are the header lines of the client's request for a node."""
        self._lines = lines
        self._parsed = parsed
        self._dialect = dialect
        self._request_id = request_id
        self._dependencies = dependencies
        self.forms = RequestForms(dialect, parsed, dependencies.engines, dependencies.missing_paths)
        self.tool_repairs = ToolRepairs("tools" in parsed.needs, dependencies.settings.tool_repair == "auto")

    def whole(self, command: Dispatch, engine: Engine) -> PreparedAttempt | Failure:
        """The client's bytes or their translation."""
        outgoing = self.forms.build(command, engine, self._dependencies.driver.now())
        if isinstance(outgoing, Failure):
            return outgoing
        if outgoing.conversation is None:
            takes_events = is_event_stream(self._dialect, self._parsed)
            calls = self.tool_repairs.of_passed(outgoing.request.body)
            name = self._parsed.model if self._parsed.is_alias else None
            passed = PassThrough(self._dialect.watcher(self._parsed), self._parsed.stream, takes_events, calls, name)
            request = outgoing.request
            answer = self._limited(passed, command, engine, request) if self._dialect.has_engine_options else passed
            return PreparedAttempt(outgoing.request, self._lines, answer, outgoing)
        repair = self.tool_repairs.of_translated(outgoing.conversation)
        translation = Translation(engine.reader(outgoing.conversation), self._writer(command), repair=repair)
        answer = self._limited(translation, command, engine, outgoing.request)
        return PreparedAttempt(outgoing.request, forwarded_headers.OWN_LINES, answer, outgoing)

    def form(self, command: Dispatch, engine: Engine) -> Outgoing | Failure:
        return self.forms.build(command, engine, self._dependencies.driver.now())

    def rest(self, command: Dispatch, rest: Rest) -> PreparedAttempt:
        """The request for the rest of an answer that another node has begun."""
        limit = limited_rest(command, self._parsed, rest.reader, rest.sent_tokens)
        if limit is not None and shows_usage(self._parsed):
            limit.request = rest.request
        reader: Reader = rest.reader if limit is None else limit
        if rest.repeated is not None:
            reader = RepeatedReader(reader, rest.repeated, self.tool_repairs.of_tools(rest.tools))
        answer = Translation(reader, rest.writer, rest.sent_tokens)
        answer.limit, answer.repeated = limit, rest.repeated
        return PreparedAttempt(rest.request, forwarded_headers.OWN_LINES, answer)

    def _limited(
        self, answer: PassThrough | Translation, command: Dispatch, engine: Engine, request: EngineRequest
    ) -> PassThrough | Translation:
        """Makes the answer end at the client's limit if the engine got a raised one for its thinking."""
        limit = limited_reader(command, self._parsed, engine)
        if limit is None:
            return answer
        limit.request = request if shows_usage(self._parsed) else None
        return limited(answer, limit, lambda: self._writer(command))

    def _writer(self, command: Dispatch) -> Writer:
        parsed, name = self._parsed, self._parsed.answer_name(command.fallback)
        if self._dialect.tells_prompt_first and parsed.stream:
            # As in the answer that counts tokens: corrected by what engines counted for earlier prompts of this model.
            factor = self._dependencies.prompt_factor(canonical(command.model_info.name))
            parsed = replace(parsed, prompt_tokens=round(parsed.prompt_tokens * factor))
        return self._dialect.writer(parsed, name, self._request_id, self._dependencies.timestamp())
