"""Carries out one request: sends each attempt to its node and the answer to the client.

    IDLE ──dispatch──> SENT ──first bytes──> OPEN ──end──> ENDED
                         │└──status >= 400──> REFUSED ──classified──> IDLE (failed) or ENDED (passed on)
                         └──connection lost──> IDLE; the core then decides: dispatch, hold, refuse or abort

If client and engine use the same protocol, bytes are passed through: a watcher checks them, and they are written
unchanged. Otherwise they are translated. Before the first byte of the body arrives, nothing is forwarded, not even the
head. An answer that is not streamed is buffered until it is complete, up to a limit: until then another node can still
answer instead. The core chooses the node and decides about retries. `relaying/preparing.py` prepares each attempt,
`relaying/client_answer.py` writes to the client.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from herd.coordinator.proxy import refused_attempts
from herd.coordinator.proxy.continuation import Ending, Rest, Steps
from herd.coordinator.proxy.pass_through import PassThrough
from herd.coordinator.proxy.relay_dependencies import RelayDependencies
from herd.coordinator.proxy.relaying.asking import AskedResponse
from herd.coordinator.proxy.relaying.client_answer import ClientAnswer
from herd.coordinator.proxy.relaying.client_headers import client_headers
from herd.coordinator.proxy.relaying.one_by_one import OneByOne
from herd.coordinator.proxy.relaying.preparing import Preparation, PreparedAttempt
from herd.coordinator.proxy.relaying.prompt_count import PromptCount
from herd.coordinator.proxy.request_forms import NOTHING_SENT
from herd.coordinator.proxy.thinking_usage import thinking_headers
from herd.coordinator.proxy.translation import Translation
from herd.coordinator.proxy.wait_comments import WaitNotice
from herd.coordinator.request_guard import RequestGuard, guarded
from herd.coordinator.upstream import forwarded_headers
from herd.coordinator.upstream.connection import UpstreamRequest
from herd.coordinator.upstream.contract import UpstreamSink
from herd.core.lifecycle.poison_requests import is_crash
from herd.core.state.commands import Abort, Dispatch, GiveUp, Hold, Refuse
from herd.core.state.events import AnswerRepaired, AttemptFailed, AttemptFinished, ClientLeft, FirstByte
from herd.core.state.request import Counters, Failure, FailureKind, RequestId
from herd.dialects import Dialect
from herd.engines import Engine, EngineRequest, EngineResponse
from herd.errors import Refusal
from herd.http1.contract import Exchange, Header
from herd.protocols.conversation import ParsedRequest
from herd.protocols.engine_errors import tells_crash

_IDLE: Final = 0
_SENT: Final = 1
_REFUSED: Final = 2
_OPEN: Final = 3
_ENDED: Final = 4

_INCOMPLETE: Final = "the answer ended before it was complete"


class Relay:
    """Runs one request: takes commands from the driver, and events from the upstream request and the exchange."""

    __slots__ = (
        *("_answer", "_client", "_dependencies", "_dialect", "_dispatch", "_headers", "_held", "_held_bytes"),
        *("_outgoing", "_parsed", "_preparation", "_request_id", "_status", "_step", "_upstream"),
    )

    def __init__(
        self,
        exchange: Exchange,
        parsed: ParsedRequest,
        dialect: Dialect,
        request_id: RequestId,
        dependencies: RelayDependencies,
        wait: WaitNotice | None = None,
    ) -> None:
        self._parsed = parsed
        self._dialect = dialect
        self._request_id = request_id
        self._dependencies = dependencies
        self._step = _IDLE
        self._upstream: UpstreamRequest | None = None
        self._outgoing = NOTHING_SENT
        self._preparation = Preparation(client_headers(exchange).lines, parsed, dialect, request_id, dependencies)
        self._client = ClientAnswer(exchange, parsed, dialect, request_id, dependencies, wait)
        exchange.on_disconnect = lambda: self._guarded("on_disconnect", self._client_disconnected)

    # --- commands of the driver ---

    def dispatch(self, command: Dispatch) -> None:
        if self._step == _ENDED:
            return
        self._client.end_wait()
        self._cancel_upstream()
        self._dispatch = command
        self._status = 0
        self._headers: list[Header] = []
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._answer: PassThrough | Translation | None = None
        engine = self._dependencies.engines.get(command.model_info.engine.kind)
        if engine is None:
            self._fail(FailureKind.GARBAGE, f"unknown engine kind {command.model_info.engine.kind!r}")
            return
        if not self._client.forwarded_bytes:
            self._send_whole_request(command, engine)
            return
        self._send_continuation(command, engine)

    def hold(self, command: Hold) -> None:
        self._cancel_upstream()
        self._client.hold(command)

    def refuse(self, command: Refuse) -> None:
        self._send_refusal(command.refusal)

    def give_up(self, command: GiveUp) -> None:
        """Leaves an engine that stands still, if another can continue the answer: otherwise it may continue itself."""
        upstream = self._upstream
        if upstream is None or command.attempt != self._dispatch.attempt or upstream.quiet_s < command.quiet_s:
            return
        if not self._client.forwarded_bytes or self._client.continuation_kinds() & command.kinds:
            self._report(command.failure)

    def _on_quiet(self, quiet_s: float) -> None:
        is_odd = quiet_s >= self._dependencies.driver.reading_s(self._request_id)
        if is_odd and self._client.continuation_kinds():
            self._fail(FailureKind.FROZEN, f"no data for {quiet_s:.0f} s, far longer than the pace of this answer")

    def abort(self, command: Abort) -> None:
        if command.refusal is not None:
            self._send_refusal(command.refusal)
        else:
            self._close()

    def break_off(self) -> None:
        self._cancel_upstream()
        if self._step == _ENDED:
            self._client.exchange.cut()

    @property
    def is_calling(self) -> bool:
        return self._upstream is not None and self._upstream.is_open

    @property
    def forwarded_bytes(self) -> int:
        return self._client.forwarded_bytes

    # --- sending ---

    def _send_whole_request(self, command: Dispatch, engine: Engine) -> None:
        prepared = self._preparation.whole(command, engine)
        if isinstance(prepared, Failure):
            self._report(prepared)
            return
        self._outgoing = prepared.outgoing
        self._send_prepared(prepared)

    def _send_continuation(self, command: Dispatch, engine: Engine) -> None:
        """Makes this node continue the answer from what the client has received."""
        continuation = self._client.continuation
        assert continuation is not None
        timestamp = self._dependencies.timestamp()
        self._advance(continuation.steps(command, engine, timestamp, self._preparation.form), None)

    def _advance(self, steps: Steps, response: EngineResponse | None) -> None:
        """Sends the next request that prepares the continuation, or the request for the rest."""
        self._upstream = None
        try:
            request = next(steps) if response is None else steps.send(response)
        except StopIteration as end:
            rest: Rest | Ending | Failure = end.value
            if isinstance(rest, Failure):
                self._report(rest)
            elif isinstance(rest, Ending):
                self._finish(rest.counters, self._client.separated(rest.data))
            else:
                self._send_prepared(self._preparation.rest(self._dispatch, rest))
            return
        asked = AskedResponse(lambda response: self._advance(steps, response), self.on_error)
        self._send(request, forwarded_headers.OWN_LINES, asked)

    def _send_prepared(self, prepared: PreparedAttempt) -> None:
        self._answer = prepared.answer
        sink: UpstreamSink = self
        if prepared.outgoing.is_for_older:
            sink = OneByOne(self, prepared.outgoing.more, self._engine.joined_answer, self._send)
        self._send(prepared.request, prepared.lines, sink)

    def _send(self, request: EngineRequest, lines: bytes, sink: UpstreamSink) -> None:
        self._step = _SENT
        self._preparation.tool_repairs.begin_attempt(request, lines)
        url, silence_s = self._dispatch.model_info.engine.url, self._dispatch.silence_s
        method, path = request.method.encode("ascii"), request.path.encode("ascii")
        guard = RequestGuard(self._request_id, sink, self._contain)
        self._upstream = self._dependencies.pool.send(url, method, path, lines, request.body, guard, silence_s)
        if sink is self and self._dispatch.pace_s:
            self._upstream.pace_s = self._dispatch.pace_s
            self._upstream.on_quiet = lambda quiet_s: self._guarded("on_quiet", lambda: self._on_quiet(quiet_s))

    @property
    def _engine(self) -> Engine:
        return self._dependencies.engines[self._dispatch.model_info.engine.kind]

    def _cancel_upstream(self) -> None:
        """Cancels an attempt that is still open."""
        upstream = self._upstream
        if upstream is not None:
            self._upstream = None
            self._step = _IDLE
            upstream.cancel()

    # --- events of the upstream request ---

    def on_head(self, status: int, headers: list[Header]) -> None:
        self._status = status
        self._headers = headers
        if status >= 400:
            self._step = _REFUSED
        elif status >= 300:
            self._fail(FailureKind.GARBAGE, f"the engine answered with a redirect ({status})")
        elif forwarded_headers.is_encoded(headers):
            self._fail(FailureKind.GARBAGE, "the engine compressed its answer although Accept-Encoding forbids it")

    def on_body(self, data: bytes) -> None:
        if self._step != _OPEN:
            self._hold_back(data)
            return
        answer = self._answer
        assert answer is not None
        data = answer.feed(data)
        if data:
            self._client.forward(data)
        if answer.has_failed or answer.limit is not None:
            self._end_early(answer)

    def _end_early(self, answer: PassThrough | Translation) -> None:
        """Ends an answer with an error, or one whose visible part has all tokens that the client allows."""
        if answer.has_failed:
            self._end_on_error(answer)
        elif answer.is_cut and self._upstream is not None:
            self._upstream.cancel()
            count = PromptCount(self._request_id, self._dependencies.pool, self._contain, self.on_end)
            self._upstream = count.send(answer.limit, self._engine, self._dispatch.model_info.engine.url)
            if self._upstream is None:
                self.on_end()

    def _end_on_error(self, answer: PassThrough | Translation) -> None:
        """The answer does not follow the engine's protocol, or the engine has reported an error with status 200.

        If nothing was forwarded, the error is handled like an error answer. Otherwise a fault of the engine has the
        same effect as a lost connection, and a fault of the request ends the answer: every node would report it.
        """
        error = answer.error
        if error is None:
            self._fail(FailureKind.CANNOT_CONTINUE if answer.has_diverged else FailureKind.GARBAGE, answer.problem)
            return
        status = self._engine.error_status_assumed if error.status is None else error.status
        if self._step == _SENT:
            self._status, self._headers, self._held = status, list(refused_attempts.JSON_HEADERS), [error.body]
            self._cancel_upstream()
            self._end_refused()
        elif status < 500:
            self._feed_finished(Counters(), status)
            self._send_refusal(Refusal(status, "invalid_request", error.message))
        else:
            kind = FailureKind.MODEL_CRASHED if tells_crash(error.body) else FailureKind.SERVER_ERROR
            self._fail(kind, "the answer ended with an error", engine_text=error.message)

    def on_end(self) -> None:
        self._upstream = None
        if self._step == _REFUSED:
            self._end_refused()
            return
        answer = self._answer
        assert answer is not None
        held = b"".join(self._held)
        rest = answer.end(held)
        counters = answer.counters()
        if answer.has_failed:
            self._end_on_error(answer)
        elif counters is None and self._engine.stops_repetition and (end := self._client.repeated_end()) is not None:
            self._finish(end[1], end[0])
        elif counters is None:
            self._fail(FailureKind.TRUNCATED, _INCOMPLETE)
        elif self._step == _OPEN:
            self._finish(counters, rest)
        elif self._client.forwarded_bytes or self._client.has_sent_head:
            self._open(held + rest, None)
            self._finish(counters)
        else:
            self._finish_at_once(counters, held + rest)

    def on_error(self, kind: FailureKind, detail: str) -> None:
        self._upstream = None
        if (complete := self._complete_stream()) is not None:
            self._finish(complete[0], self._client.completed(complete[1]))
        else:
            self._fail(kind, detail)

    def _complete_stream(self) -> tuple[Counters, bytes] | None:
        """The counters and last bytes of a stream whose answer has ended, though not yet the engine's HTTP message."""
        answer = self._answer if self._step == _OPEN and self._parsed.stream else None
        rest = answer.end_after_loss() if answer is not None else b""
        counters = answer.counters() if answer is not None else None
        return None if counters is None else (counters, rest)

    # --- before the first byte is forwarded ---

    def _hold_back(self, data: bytes) -> None:
        settings = self._dependencies.settings
        if self._step == _REFUSED:
            if self._held_bytes <= settings.refusal_max_bytes:
                self._hold(data)
            return
        answer = self._answer
        assert answer is not None
        data = answer.feed(data)
        if not data:
            if answer.repeated is not None and answer.repeated.has_begun and not answer.has_failed:
                self._open(b"", None)
            self._end_early(answer)
            return
        if not self._parsed.stream:
            self._hold(data)
            if answer.is_translated or self._held_bytes <= settings.held_max_bytes:
                self._end_early(answer)
                return
            data = answer.whole(b"".join(self._held)) if answer.is_renamed else b"".join(self._held)
            self._held.clear()
        keeps_length = not (answer.is_translated or answer.is_renamed)
        self._open(data, forwarded_headers.body_length(self._headers) if keeps_length else None)
        self._end_early(answer)

    def _hold(self, data: bytes) -> None:
        self._held.append(data)
        self._held_bytes += len(data)

    def _open(self, data: bytes, length: int | None) -> None:
        """Forwards the first bytes together with the head. After this no other node may start the answer again."""
        if not self._commit():
            return
        client = self._client
        if client.forwarded_bytes:
            data = client.separated(data)
        else:
            client.open(self._status, self._answer_headers(), length, self._on_client_writable)
        client.begin_node(self._dispatch, self._outgoing.ignored)
        if data:
            client.forward(data)

    def _commit(self) -> bool:
        """Reports the first byte to the core before it is sent; False if that ended the request."""
        self._step = _OPEN
        driver = self._dependencies.driver
        driver.feed(FirstByte(driver.now(), self._request_id, self._dispatch.attempt, self._outgoing.without_effect))
        return self._step == _OPEN

    def _answer_headers(self) -> list[Header]:
        if isinstance(self._answer, Translation):
            content_type = self._answer.content_type
        else:
            content_type = forwarded_headers.get_header(self._headers, b"content-type") or b"application/octet-stream"
        headers = forwarded_headers.answer_headers(
            content_type, self._request_id, self._dispatch, self._parsed.model, self._parsed.prompt_tokens
        )
        return headers + self._outgoing.headers() + self._client.wait_headers

    # --- the end of the answer ---

    def _finish(self, counters: Counters, rest: bytes = b"") -> None:
        """Reports the end to the core first: the client's next request may start within `end` and need the slot."""
        self._client.forwarded_bytes += len(rest)
        self._close()
        self._feed_finished(counters, self._status)
        self._client.finish(rest)

    def _finish_at_once(self, counters: Counters, body: bytes) -> None:
        """Sends a complete answer of which nothing was forwarded before; its end also reports its first byte."""
        body = self._answer.whole(body) if self._answer is not None else body
        takes_options = self._outgoing.takes_options
        thinking = thinking_headers(self._dispatch, self._parsed, body, counters, takes_options=takes_options)
        headers = self._answer_headers() + thinking
        self._send_whole(counters, headers, body)

    def _send_whole(self, counters: Counters, headers: list[Header], body: bytes) -> None:
        self._client.forwarded_bytes = len(body)
        self._close()
        self._feed_finished(counters, self._status)
        self._client.respond(self._status, headers, body)

    def _feed_finished(self, counters: Counters, status: int) -> None:
        if repairs := self._preparation.tool_repairs.described(self._answer):
            now = self._dependencies.driver.now()
            self._dependencies.driver.feed(AnswerRepaired(now, self._request_id, self._dispatch.attempt, repairs))
        driver, n, lost = self._dependencies.driver, self._dispatch.attempt, self._outgoing.without_effect
        driver.feed(
            AttemptFinished(driver.now(), self._request_id, n, counters, status, self._client.forwarded_bytes, lost)
        )

    # --- the engine refuses ---

    def _end_refused(self) -> None:
        own = None if isinstance(self._answer, Translation) else self._parsed
        body = refused_attempts.refusal_body(self._held, own)
        command, now, size_bytes = self._dispatch, self._dependencies.driver.now(), self._client.forwarded_bytes
        forms, repairs = self._preparation.forms, self._preparation.tool_repairs
        if not size_bytes and forms.is_path_missing(command, self._engine, self._outgoing, self._status, body, now):
            self.dispatch(command)
            return
        if simpler := repairs.simpler_request(self._status, body, self._answer, size_bytes):
            self._status, self._held, self._held_bytes = 0, [], 0
            self._send(*simpler, self)
            return
        error = (self._status, self._headers, body)
        result = refused_attempts.classify_error(self._engine, command, *error, is_continuation=size_bytes > 0)
        if not isinstance(result, Failure) and not size_bytes and (refused := self._moving_on(body)) is not None:
            self._report(refused)
        elif result is None:
            self._forward_error(body)
        elif isinstance(result, Refusal):
            self._refuse_request(result)
        else:
            self._report(result)

    def _moving_on(self, body: bytes) -> Failure | None:
        """The failure of this attempt, if another kind of engine may have the feature that this one refuses."""
        refused = refused_attempts.refusal_of_feature(self._parsed, self._status, body)
        return refused if refused is not None and self._dependencies.driver.can_move_on(self._request_id) else None

    def _forward_error(self, body: bytes) -> None:
        """Sends the engine's error answer unchanged, or rewritten if it does not have the format of the dialect."""
        max_bytes = self._dependencies.settings.refusal_max_bytes
        own_body = b"" if isinstance(self._answer, Translation) or len(body) > max_bytes else body
        refusal = refused_attempts.refusal_of_error(self._status, body)
        if self._client.has_sent_head:
            self._feed_finished(Counters(), refusal.status)
            self._send_refusal(refusal)
            return
        headers = self._answer_headers()
        if not self._dialect.is_error(own_body):
            answer = self._dialect.error(refusal, self._request_id)
            headers[0] = (b"Content-Type", answer.content_type.encode("latin-1"))
            self._status, body = answer.status, answer.body
        self._send_whole(Counters(), headers, body)

    def _refuse_request(self, refusal: Refusal) -> None:
        """Sends the client an error because its request is invalid for this engine; other nodes are not tried."""
        if self._commit():
            self._feed_finished(Counters(), refusal.status)
            self._send_refusal(refusal)

    # --- failing ---

    def _fail(self, kind: FailureKind, detail: str, engine_text: str = "") -> None:
        """`engine_text` is only for the client, never for logs or traces, because it may quote a prompt."""
        self._report(Failure(kind=kind, detail=detail, engine_text=engine_text))

    def _report(self, failure: Failure) -> None:
        """Cancels an open upstream request and reports the failed attempt to the core, which sends the next command."""
        self._cancel_upstream()
        if self._step == _ENDED:
            return
        if self._parsed.stream:
            self._client.complete_event()
        if (ending := self._client.ending()) is not None:
            self._finish(ending.counters, self._client.separated(ending.data))
            return
        self._step = _OPEN if self._client.forwarded_bytes else _IDLE
        failure = replace(
            failure,
            bytes_forwarded=self._client.forwarded_bytes,
            status=self._status or None,
            fingerprint=hash(self._parsed.body) if is_crash(failure) else 0,
            has_own_options=is_crash(failure) and refused_attempts.has_own_options(self._parsed, self._dispatch),
            continuation_kinds=self._client.continuation_kinds(may_repeat=True),
        )
        driver = self._dependencies.driver
        driver.feed(AttemptFailed(driver.now(), self._request_id, self._dispatch.attempt, failure))

    # --- the client ---

    def _guarded(self, name: str, callback: Callable[[], None]) -> None:
        guarded(self._request_id, name, callback, self._contain)

    def _contain(self, request_id: RequestId, where: str) -> None:
        """Ends the attempt. If the request has ended for the core, its client is cut off here."""
        self._dependencies.driver.contain(request_id, where)
        if self._step == _ENDED:
            self._client.exchange.cut()

    def _client_disconnected(self) -> None:
        """Stops the engine first, then reports. Some clients leave when they have the last event: that is an end."""
        if self._step == _ENDED:
            return
        complete = self._complete_stream() if self._upstream is not None else None
        self._close()
        if complete is not None:
            self._feed_finished(complete[0], self._status)
            return
        driver = self._dependencies.driver
        driver.feed(
            ClientLeft(driver.now(), self._request_id, self._client.forwarded_bytes, self._client.forwarded_tokens())
        )

    def _on_client_writable(self, is_reading: bool) -> None:
        if self._upstream is not None:
            self._guarded("on_writable", self._upstream.resume if is_reading else self._upstream.pause)

    def _send_refusal(self, refusal: Refusal) -> None:
        """Sends the refusal as an answer. If an answer has begun, ends it so that the client sees it is incomplete."""
        if self._step == _ENDED:
            return
        self._close()
        self._client.refuse(refusal)

    def _close(self) -> None:
        """Ends the relay."""
        self._cancel_upstream()
        self._step = _ENDED
        self._client.release()
