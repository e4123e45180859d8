"""Keeps what a client has received of a stream, and plans how another node continues it if its node fails.

Forwarded bytes are only collected, so that a chunk costs an append. Of a long answer only the last UNREAD_MAX_BYTES
remain; what came before is read in parts and remains as its text.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from herd.coordinator.proxy.request_forms import Outgoing
from herd.core.state.commands import Dispatch
from herd.core.state.request import Counters, Failure, FailureKind, RequestId
from herd.core.state.served_paths import ServedPath, served_path
from herd.dialects import Dialect, Timestamp, Writer
from herd.engines import Engine, EngineRequest, EngineResponse, Reader
from herd.errors import HerdError
from herd.protocols.apply_options import as_own_endpoint, with_engine_options
from herd.protocols.conversation import Conversation, Delta, ParsedRequest, Sampling, Tool, Usage, streamed_answer
from herd.protocols.cut_streams.joined_reader import JoinedReader
from herd.protocols.cut_streams.repeated_answer import RepeatedAnswer, is_worth_repeating
from herd.protocols.ollama.repetition import FINISH_REASON, REPETITION_MAX_BYTES, is_repeated
from herd.protocols.resumption import (
    SENT_MAX_BYTES,
    PartialAnswer,
    SentStream,
    continuation_request,
    raw_continuation_request,
)

UNREAD_MAX_BYTES: Final = 256 << 10
"""Forwarded bytes are read when there are more than this. Most answers are shorter, and are never read."""
PART_BYTES: Final = 16 << 10
"""About this much is read at a time, so that it does not take long."""
LENGTH: Final = "length"
"""The finish reason of an answer that has reached its limit."""


@dataclass(frozen=True, slots=True)
class Rest:
    """The request for the rest of an answer, and how it is read and written. `sent_tokens` were sent before.

    If no engine can continue the answer, it is the client's whole request, and `repeated` finds the rest in the second
    answer, whose calls of `tools` are repaired before.
    """

    request: EngineRequest
    reader: Reader
    writer: Writer
    sent_tokens: int
    repeated: RepeatedAnswer | None = None
    tools: Sequence[Tool] = ()


@dataclass(frozen=True, slots=True)
class Ending:
    """What completes an answer that needs no node any more, as bytes for the client, and its counters."""

    data: bytes
    counters: Counters


Steps = Generator[EngineRequest, EngineResponse, Rest | Ending | Failure]
"""Requests that prepare a continuation; each gets its response. The result is the request for the rest."""


Build = Callable[[Dispatch, Engine], Outgoing | Failure]
"""The form in which an engine gets the whole request: the client's body or a translation."""


class Continuation:
    """What was forwarded to one client, and the nodes that sent it."""

    __slots__ = (
        *("_dialect", "_fields", "_kind", "_model", "_parsed", "_repeated", "_request_id", "_sent", "_unread"),
        *("_unread_bytes", "nodes"),
    )

    def __init__(self, dialect: Dialect, parsed: ParsedRequest, request_id: RequestId) -> None:
        self._dialect = dialect
        self._parsed = parsed
        self._request_id = request_id
        self._sent: SentStream | None = dialect.sent_stream(parsed)
        self._unread: deque[bytes] = deque()
        self._unread_bytes = 0
        self._repeated: RepeatedAnswer | None = None
        """The second answer of the last node that had to give one."""
        self._kind = ""
        self._model = parsed.model
        self._fields: frozenset[str] = frozenset()
        """The fields of servers in the client's body that had an effect on the beginning of the answer."""
        self.nodes: list[str] = []

    # --- what was sent ---

    def begin(self, command: Dispatch, lost_fields: Collection[str] = ()) -> None:
        """Called before the first bytes of each node. `lost_fields` were not sent to it."""
        if not self.nodes:
            endpoint = command.model_info.engine
            self._kind, self._model = endpoint.kind, self._parsed.answer_name(command.fallback)
            served = served_path(endpoint.abilities.paths, self._parsed.route.path, endpoint.version)
            self._fields = self._honored(served).difference(lost_fields)
        self.nodes.append(command.node_id)

    def record(self, data: bytes) -> None:
        """Called with every chunk that is forwarded."""
        if self._sent is None:
            return
        self._unread.append(data)
        self._unread_bytes += len(data)
        if self._unread_bytes > UNREAD_MAX_BYTES:
            self._read_part()

    def _read(self) -> SentStream | None:
        """Reads what was forwarded so far; None if it cannot be read, or is longer than SENT_MAX_BYTES."""
        while self._unread:
            self._read_part()
        return self._sent

    def _read_part(self) -> None:
        """Reads the oldest part of what was not read yet."""
        part, size_bytes = [], 0
        while self._unread and size_bytes < PART_BYTES:
            part.append(self._unread.popleft())
            size_bytes += len(part[-1])
        self._unread_bytes -= size_bytes
        if self._sent is None:
            return
        try:
            self._sent.feed(b"".join(part))
        except ValueError:
            self._sent = None
        if self._sent is not None and self._sent.partial_answer.size_bytes > SENT_MAX_BYTES:
            self._sent = None

    def counters(self) -> Counters | None:
        """How many tokens of a cancelled answer were forwarded; engines send one token per piece. None if unknown."""
        sent = self._read()
        return None if sent is None else Counters(completion_tokens=sent.partial_answer.chunks)

    def ending(self, timestamp: Timestamp) -> Ending | None:
        """What completes the answer without a node, if only its end is missing."""
        sent = self._read()
        if sent is None:
            return None
        partial = sent.partial_answer
        terminator = self._dialect.ending(self._parsed, sent)
        if terminator is not None:
            counters = Counters(completion_tokens=partial.chunks, finish_reason=partial.finish_reason)
            return Ending(terminator, counters)
        return self._limit_ending(sent, partial.chunks, timestamp)

    def _limit_ending(self, sent: SentStream, tokens: int, timestamp: Timestamp) -> Ending | None:
        """The end of an answer that has all tokens that the client allows: no node may add another one."""
        limit = self._parsed.output_tokens_max
        if not limit or tokens < limit or not sent.partial_answer.is_text or "n" in self._parsed.special_fields:
            return None
        writer = self._writer(sent, self._model, timestamp)
        last = Delta(finish_reason=LENGTH, usage=self._usage(tokens), is_last=True)
        return Ending(writer.write(last), Counters(completion_tokens=tokens, finish_reason=LENGTH))

    def repeated_end(self, timestamp: Timestamp) -> tuple[bytes, Counters] | None:
        """What completes an answer that its engine stopped because it repeated itself; None for any other answer."""
        sent = self._read()
        if sent is None or sent.partial_answer.has_calls:
            return None
        if not is_repeated(sent.partial_answer.end(REPETITION_MAX_BYTES)):
            return None
        tokens, note = sent.partial_answer.chunks, "the engine stopped the answer because it repeated itself"
        writer = self._dialect.resumed_writer(self._parsed, self._parsed.model, self._request_id, timestamp, sent, note)
        end = Delta(finish_reason=FINISH_REASON, usage=self._usage(tokens), is_last=True)
        return writer.write(end), Counters(completion_tokens=tokens, finish_reason=FINISH_REASON)

    def _usage(self, tokens: int) -> Usage:
        """The usage of an answer that no engine ended: the tokens of its prompt are estimated."""
        return Usage(prompt_tokens=self._parsed.prompt_tokens, completion_tokens=tokens)

    # --- how it can be continued ---

    def kinds(self, engines: Mapping[str, Engine], may_repeat: bool = True) -> frozenset[str]:
        """The kinds of engines that can continue this answer; empty if the parts might not fit together.

        With `may_repeat`, also those that may only give the same answer again.
        """
        sent = self._read()
        if sent is None:
            return frozenset()
        exact = self._exact_kinds(engines, sent.partial_answer)
        if not may_repeat or not self._is_repeatable(sent):
            return exact
        return exact | {kind for kind, engine in engines.items() if self._can_repeat(engine)}

    def _exact_kinds(self, engines: Mapping[str, Engine], partial: PartialAnswer) -> frozenset[str]:
        can_own = partial.begins_again or self._own_body(self._parsed.model, partial, partial.chunks) is not None
        return frozenset(
            kind
            for kind, engine in engines.items()
            if (can_own and self._serves(engine, "", partial.begins_again)) or self._can_translate(engine, partial)
        )

    def _is_repeatable(self, sent: SentStream) -> bool:
        """Whether a second answer is worth a try: the first one may come again, and none has differed from it yet."""
        partial = sent.partial_answer
        if self._repeated is not None and self._repeated.has_diverged:
            return False
        if partial.begins_again or partial.is_finished or not sent.can_repeat or "n" in self._parsed.special_fields:
            return False
        try:
            sampling = self._dialect.read_conversation(self._parsed).sampling
        except HerdError:
            sampling = Sampling()
        return is_worth_repeating(partial, sampling)

    def _can_repeat(self, engine: Engine) -> bool:
        served = engine.served_path(self._parsed.route.path)
        if served is not None and self._dialect.reader(self._parsed) is not None:
            return self._honored(served) == self._fields
        try:
            return not self._fields and self._conversation(self._parsed.model, engine, "") is not None
        except HerdError:
            return False

    def _honored(self, served: ServedPath | None) -> frozenset[str]:
        """The fields of servers in the client's body that have an effect on this path."""
        names = self._dialect.fields_of_servers(self._parsed) if served is not None else frozenset[str]()
        return frozenset(name for name in names if served is not None and served.honors(name))

    def _can_translate(self, engine: Engine, partial: PartialAnswer) -> bool:
        if not (partial.begins_again or engine.can_continue or engine.can_render):
            return False
        if self._fields and not partial.begins_again:
            return False
        try:
            conversation = self._conversation(self._parsed.model, engine, "")
        except HerdError:
            return False
        return conversation is not None and continuation_request(conversation, partial) is not None

    def steps(self, command: Dispatch, engine: Engine, timestamp: Timestamp, build: Build) -> Steps:
        """The requests that make this engine continue the answer, or else give it again."""
        sent = self._read()
        if sent is None:
            return _cannot("what the client has received cannot be read")
        try:
            rest = yield from self._continuing_steps(sent, command, engine, timestamp)
            if isinstance(rest, Failure) and rest.kind is FailureKind.CANNOT_CONTINUE and self._is_repeatable(sent):
                rest = self._repetition(sent, command, engine, timestamp, build)
        except HerdError:
            return _cannot("the rest of the answer cannot be requested from this engine")
        return rest

    def _repetition(
        self, sent: SentStream, command: Dispatch, engine: Engine, timestamp: Timestamp, build: Build
    ) -> Rest | Failure:
        """The client's whole request, as any node gets it. Raises HerdError for what the engine does not support."""
        form, endpoint = build(command, engine), command.model_info.engine
        if isinstance(form, Failure):
            return _cannot(form.description)
        request, reader = form.request, self._dialect.reader(self._parsed)
        if form.conversation is None and reader is not None:
            is_same = self._honored(engine.served_path(self._parsed.route.path, endpoint.version)) == self._fields
        else:
            conversation = self._conversation(command.model_info.name, engine, endpoint.version)
            is_same = conversation is not None and not self._fields and not form.is_for_older
            if conversation is not None and form.conversation is None:
                request = engine.build_request(with_engine_options(conversation, command.options))
            reader = engine.reader(conversation) if conversation is not None else None
        if not is_same or reader is None:
            return _cannot("fields of the request would not have the effect that they had on the beginning")
        self._repeated = RepeatedAnswer(sent.partial_answer)
        tools = self._dialect.read_conversation(self._parsed).tools if sent.partial_answer.has_calls else ()
        writer = self._writer(sent, self._parsed.answer_name(command.fallback), timestamp)
        return Rest(request, reader, writer, 0, self._repeated, tools)

    def _continuing_steps(self, sent: SentStream, command: Dispatch, engine: Engine, timestamp: Timestamp) -> Steps:
        """The requests that make this engine continue the answer. Raises HerdError for what it does not support."""
        partial, tokens = sent.partial_answer, sent.partial_answer.chunks
        has_text = bool(partial.text) and partial.is_text
        count = engine.count_request(command.model_info.name, partial.text) if has_text else None
        if count is not None:
            counted = engine.read_count((yield count))
            tokens = tokens if counted is None else counted
            if (ending := self._limit_ending(sent, tokens, timestamp)) is not None:
                return ending
        endpoint, own_body = command.model_info.engine, self._own_body(command.model_info.name, partial, tokens)
        can_own = own_body is not None and not _has_options(command)
        if own_body is not None and can_own and self._serves(engine, endpoint.version, partial.begins_again):
            request = EngineRequest(self._parsed.route.method, self._parsed.route.path, own_body)
            streamed = streamed_answer(self._parsed.route.kind, command.model_info.name)
            return self._rest(request, engine.reader(streamed), command, timestamp, sent, tokens)
        conversation = self._conversation(command.model_info.name, engine, endpoint.version)
        if conversation is None or (self._fields and not partial.begins_again):
            return _cannot("a translation for this engine would lose fields of the request")
        if engine.can_continue or partial.begins_again:
            resumed = continuation_request(conversation, partial, tokens)
        else:
            rendered = yield from self._rendered(command, engine, conversation, partial)
            if isinstance(rendered, Failure):
                return rendered
            resumed = rendered
            if resumed is not None and not partial.text.isascii():
                tokens = yield from _counted(engine, resumed, partial, command)
                if (ending := self._limit_ending(sent, tokens, timestamp)) is not None:
                    return ending
                limit = continuation_request(conversation, partial, tokens)
                resumed = dataclasses.replace(resumed, sampling=limit.sampling) if limit is not None else None
        if resumed is None:
            return _cannot("this engine cannot continue an answer of another node")
        request = engine.build_request(with_engine_options(resumed, command.options))
        return self._rest(request, engine.reader(resumed), command, timestamp, sent, tokens)

    def _rendered(
        self, command: Dispatch, engine: Engine, conversation: Conversation, partial: PartialAnswer
    ) -> Generator[EngineRequest, EngineResponse, Conversation | Failure | None]:
        """The raw prompt for an engine that would begin a new turn: its rendered template and the partial answer."""
        capabilities = command.model_info.capabilities
        if raw_continuation_request(conversation, partial, "", capabilities) is None:
            return None
        render = None if conversation.raw else engine.render_request(conversation)
        if render is None:
            return raw_continuation_request(conversation, partial, "", capabilities) if conversation.raw else None
        response = yield render
        text = engine.read_rendered(response)
        if text is not None:
            return raw_continuation_request(conversation, partial, text, capabilities)
        if response.status >= 400 and engine.is_busy(response.status, response.body):
            return Failure(kind=FailureKind.BUSY, detail=f"the node answered {response.status}")
        return _cannot("the engine did not return its rendered template")

    def _rest(
        self,
        request: EngineRequest,
        reader: Reader,
        command: Dispatch,
        timestamp: Timestamp,
        sent: SentStream,
        tokens: int,
    ) -> Rest:
        writer = self._writer(sent, self._parsed.answer_name(command.fallback), timestamp)
        partial = sent.partial_answer
        limit = self._parsed.output_tokens_max
        is_full = limit is not None and 0 < limit <= tokens and not partial.begins_again
        joined = JoinedReader(reader, bool(partial.text), has_thinking=bool(partial.thinking), is_full=is_full)
        return Rest(request, joined, writer, 0 if partial.begins_again else tokens)

    def _writer(self, sent: SentStream, model: str, timestamp: Timestamp) -> Writer:
        note = f"started on {', '.join(self.nodes)}"
        return self._dialect.resumed_writer(self._parsed, model, self._request_id, timestamp, sent, note)

    def _serves(self, engine: Engine, version: str, has_any_fields: bool = False) -> bool:
        """Whether the engine continues the client's own body at the client's path, and each field has the effect there
        that it had on the beginning, unless the answer begins again (`has_any_fields`)."""
        path = self._parsed.route.path
        served = engine.served_path(path, version)
        if served is None or not engine.continues_path(path):
            return False
        return has_any_fields or self._honored(served) == self._fields

    def _own_body(self, model: str, partial: PartialAnswer, tokens: int) -> bytes | None:
        try:
            return self._dialect.continued_body(self._parsed, model, partial, tokens)
        except HerdError:
            return None

    def _conversation(self, model: str, engine: Engine, version: str) -> Conversation | None:
        """The request in neutral form; None if a field with a meaning is lost that the first node honored."""
        conversation = self._dialect.read_conversation(self._parsed)
        conversation.model = model
        served = engine.served_path(self._parsed.route.path, version)
        if served is None or engine.kind != self._kind:
            return None if conversation.unsupported else conversation
        if not all(served.ignores_field(name) for name in conversation.unsupported):
            return None
        return as_own_endpoint(conversation, served)


def _counted(
    engine: Engine, resumed: Conversation, partial: PartialAnswer, command: Dispatch
) -> Generator[EngineRequest, EngineResponse, int]:
    """The number of tokens of the partial answer: the size of the prompt with it minus that without it."""
    sizes = []
    for prompt in (resumed.prompt.removesuffix(partial.text), resumed.prompt):
        sampling = dataclasses.replace(resumed.sampling, output_tokens_max=1)
        probe = dataclasses.replace(resumed, prompt=prompt, stream=False, sampling=sampling)
        options = command.options and dataclasses.replace(command.options, output_tokens_max=None)
        response = yield engine.build_request(with_engine_options(probe, options))
        sizes.append(_prompt_tokens(engine.reader(probe), response))
    before, after = sizes
    return after - before if before is not None and after is not None and after > before else partial.chunks


def _prompt_tokens(reader: Reader, response: EngineResponse) -> int | None:
    try:
        deltas: list[Delta] = [*reader.feed(response.body), *reader.end()] if response.status == 200 else []
    except ValueError:
        return None
    return next((delta.usage.prompt_tokens for delta in deltas if delta.usage is not None), None)


def _has_options(command: Dispatch) -> bool:
    """Whether the node needs options that the client's own body does not have."""
    return command.options is not None and not command.options.changes_nothing


def _cannot(detail: str) -> Failure:
    return Failure(kind=FailureKind.CANNOT_CONTINUE, detail=detail)


def line_break(before: bytes, frame: bytes) -> bytes:
    """The line breaks that must separate `frame` from `before`, which may end in the middle of a line or event."""
    wanted = b"\n\n" if frame.startswith((b"data:", b"event:")) else b"\n"
    if before.endswith(wanted):
        return b""
    return b"\n" if before.endswith(b"\n") else wanted
