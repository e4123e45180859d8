"""Carries one request: sends each attempt to its node, and the answer to the client. Chooses no node and retries nothing.

    IDLE ──dispatch──> ASKED ──first bytes──> OPEN ──end──> OVER
                         │└──status >= 400──> REFUSED ──judged──> IDLE (failed) or OVER (passed on)
                         └──broken──> IDLE, and the core says what follows: dispatch, hold, refuse or abort

Where client and engine speak the same, bytes pass: per read a watcher sees them and they are written. Else they are
translated. Nothing is forwarded, not even a head, before there is a byte of the body; an answer that is not streamed is
held until it is whole, as far as that is bounded, so that until then another node can still give it.
"""

from __future__ import annotations

from typing import Final

from herd.coordinator.http.contract import Exchange, Header
from herd.coordinator.proxy.continuation import ForwardedBytes
from herd.coordinator.proxy.relay_dependencies import RelayDependencies
from herd.coordinator.proxy.template_rendering import TemplateRendering
from herd.coordinator.proxy.thinking_usage import spent
from herd.coordinator.proxy.translation import EngineFailed, Translation, error_text
from herd.coordinator.proxy.wait_comments import WaitNotice
from herd.coordinator.upstream import forwarded_headers
from herd.coordinator.upstream.pool import UpstreamCall, UpstreamSink
from herd.core.state.commands import Abort, Dispatch, Hold, Refuse
from herd.core.state.events import AttemptFailed, AttemptFinished, ClientLeft, FirstByte
from herd.core.state.refusals import prompt_too_long
from herd.core.state.request import Counters, Failure, FailureKind, RequestId
from herd.dialects import Dialect, Resumption, Watch
from herd.engines import Call, Engine
from herd.errors import HerdError, Refusal
from herd.protocols.apply_options import retry_prompt_tokens, with_engine_options
from herd.protocols.conversation import Conversation, ParsedRequest
from herd.protocols.resumption import continuation_request, raw_continuation_request
from herd.protocols.streams import ERRORS, WholeLines, split_at_error

_IDLE: Final = 0
_ASKED: Final = 1
_REFUSED: Final = 2
_OPEN: Final = 3
_OVER: Final = 4

_EVENTS: Final = (b"data:", b"event:")
_ASKING: Final = Refusal(503, "", "")


class Relay:
    """The run of one request: told what to do by the driver, what happened by the upstream call and the exchange."""

    __slots__ = (
        "_ask",
        "_call",
        "_conversation",
        "_dialect",
        "_dispatch",
        "_exchange",
        "_forwarded_bytes",
        "_headers",
        "_held",
        "_held_bytes",
        "_last",
        "_lines",
        "_request_id",
        "_resumed",
        "_services",
        "_status",
        "_step",
        "_told",
        "_translation",
        "_wait",
        "_watch",
        "_whole_lines",
    )

    def __init__(
        self,
        exchange: Exchange,
        ask: ParsedRequest,
        dialect: Dialect,
        request_id: RequestId,
        services: RelayDependencies,
        wait: WaitNotice | None = None,
    ) -> None:
        self._exchange = exchange
        self._ask = ask
        self._dialect = dialect
        self._request_id = request_id
        self._services = services
        self._step = _IDLE
        self._call: UpstreamCall | None = None
        self._conversation: Conversation | None = None
        self._lines: bytes | None = None
        self._forwarded_bytes = 0
        self._last = b""
        self._wait = wait
        self._told = ForwardedBytes() if ask.stream and services.settings.continuation == "auto" else None
        self._resumed: Resumption | None = None
        exchange.on_gone = self._client_gone

    # --- what the driver tells ---

    def dispatch(self, command: Dispatch) -> None:
        if self._step == _OVER:
            return
        if self._wait is not None:
            self._services.notes.over(self._wait)
        self._give_up()
        self._dispatch = command
        self._status = 0
        self._headers: list[Header] = []
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._watch: Watch | None = None
        self._translation: Translation | None = None
        self._whole_lines = WholeLines()
        engine = self._services.engines.get(command.card.engine.kind)
        if engine is None:
            self._fail(FailureKind.GARBAGE, f"no engine of kind {command.card.engine.kind!r} is known here")
            return
        try:
            if self._forwarded_bytes:
                self._send_continued(command, engine)
            elif engine.serves(self._ask.route.path) and (
                self._dialect.has_engine_options or command.pin is None or command.pin.is_silent
            ):
                self._send_as_it_is(command)
            else:
                self._send_translated(command, engine)
        except HerdError as error:
            if self._forwarded_bytes:
                self._fail(FailureKind.UNFIT, "the rest cannot be asked for here")
            else:
                self._answer_ourselves(error.refusal)

    def hold(self, command: Hold) -> None:
        self._give_up()
        takes_comments = not self._forwarded_bytes and self._dialect.error_frame(self._ask, _ASKING).startswith(_EVENTS)
        self._wait = self._services.notes.hold(self._wait, command, self._exchange, takes_comments)

    def refuse(self, command: Refuse) -> None:
        self._end_with(command.refusal)

    def abort(self, command: Abort) -> None:
        if command.refusal is not None:
            self._end_with(command.refusal)
        else:
            self._over()

    # --- sending ---

    def _send_as_it_is(self, command: Dispatch) -> None:
        body = self._dialect.rewrite(self._ask, command.card.name, command.pin)
        if self._lines is None:
            self._lines = forwarded_headers.request_lines(self._exchange.headers)
        self._watch = self._dialect.watch(self._ask)
        route = self._ask.route
        self._send(Call(route.method, route.path, body), self._lines, self)

    def _send_translated(self, command: Dispatch, engine: Engine) -> None:
        if self._conversation is None:
            self._conversation = self._dialect.read_conversation(self._ask)
        self._conversation.model = command.card.name
        call = engine.call(with_engine_options(self._conversation, command.pin))
        name = command.fallback or self._ask.model
        writer = self._dialect.writer(self._ask, name, self._request_id, self._services.moment())
        self._translation = Translation(engine.reader(self._conversation), writer)
        self._send(call, forwarded_headers.OWN_LINES, self)

    def _send_continued(self, command: Dispatch, engine: Engine) -> None:
        """Asks this node to write on from what the client was told; behind the rendered prompt, if it would begin a new turn."""
        assert self._resumed is not None
        conversation, said = self._dialect.read_conversation(self._ask), self._resumed.partial_answer
        conversation.model = command.card.name
        capabilities = command.card.capabilities
        if engine.can_continue or said.is_empty:
            self._send_rest(engine, self._resumed, continuation_request(conversation, said))
        elif (
            raw_continuation_request(conversation, said, "", capabilities) is not None
            and (call := engine.render_call(conversation)) is not None
        ):
            resumed = self._resumed

            def rendered(text: str) -> None:
                self._send_rest(engine, resumed, raw_continuation_request(conversation, said, text, capabilities))

            self._send(call, forwarded_headers.OWN_LINES, TemplateRendering(engine, rendered, self.on_error))
        else:
            self._fail(FailureKind.UNFIT, "this engine does not go on with another's answer")

    def _send_rest(self, engine: Engine, resumed: Resumption, conversation: Conversation | None) -> None:
        self._call = None
        if conversation is None:
            self._fail(FailureKind.UNFIT, "this engine does not go on with another's answer")
            return
        self._translation = Translation(engine.reader(conversation), resumed.writer, resumed.partial_answer.chunks)
        self._send(
            engine.call(with_engine_options(conversation, self._dispatch.pin)), forwarded_headers.OWN_LINES, self
        )

    def _send(self, call: Call, lines: bytes, sink: UpstreamSink) -> None:
        self._step = _ASKED
        url, method, path = self._dispatch.card.engine.url, call.method.encode("ascii"), call.path.encode("ascii")
        self._call = self._services.pool.send(url, method, path, lines, call.body, sink)

    def _give_up(self) -> None:
        """Ends an attempt that is still open."""
        call = self._call
        if call is not None:
            self._call = None
            self._step = _IDLE
            call.cancel()

    # --- what the upstream call tells ---

    def on_head(self, status: int, headers: list[Header]) -> None:
        self._status = status
        self._headers = headers
        if status >= 400:
            self._step = _REFUSED
        elif status >= 300:
            self._fail(FailureKind.GARBAGE, f"the node redirects ({status})")
        elif forwarded_headers.is_encoded(headers):
            self._fail(FailureKind.GARBAGE, "the node compressed its answer although it was asked not to")

    def on_body(self, data: bytes) -> None:
        if self._step != _OPEN:
            self._hold_back(data)
            return
        data = self._watched(data) if self._watch is not None else self._translated(data)
        data, error = self._split_at_error(data)
        if data:
            self._forward(data)
        self._fail_of(error)

    def _split_at_error(self, data: bytes) -> tuple[bytes, bytes]:
        return split_at_error(data) if self._watch is not None and self._ask.stream else (data, b"")

    def _fail_of(self, error: bytes) -> None:
        """The engine is there and says that its runner is not: no less a loss than a broken connection."""
        if error and self._step == _OPEN:
            self._fail(
                FailureKind.SERVER_ERROR,
                "its stream ended with an error",
                said=error_text(error.removeprefix(b"data: ")),
            )

    def _forward(self, data: bytes) -> None:
        self._forwarded_bytes += len(data)
        self._last = data
        if self._told is not None:
            self._told.note(data)
        self._exchange.write(data)

    def on_end(self) -> None:
        self._call = None
        if self._step == _REFUSED:
            self._judge()
        elif self._translation is not None:
            self._end_translated(self._translation)
        else:
            self._end_passed()

    def on_error(self, kind: FailureKind, detail: str) -> None:
        self._call = None
        if self._step == _OPEN and self._ask.stream and (counters := self._counters_if_whole()) is not None:
            # The stream's own terminator has passed: that the connection broke before HTTP's came is no loss.
            self._finish(counters)
        else:
            self._fail(kind, detail)

    # --- before the first byte is forwarded ---

    def _hold_back(self, data: bytes) -> None:
        settings = self._services.settings
        if self._step == _REFUSED:
            if self._held_bytes <= settings.refusal_max_bytes:
                self._keep(data)
            return
        data = self._watched(data) if self._watch is not None else self._translated(data)
        if not data:
            return
        if not self._ask.stream:
            self._keep(data)
            if self._translation is not None or self._held_bytes <= settings.held_max_bytes:
                return
            data = b"".join(self._held)
            self._held.clear()
        elif data.startswith(ERRORS):
            self._fail(
                FailureKind.SERVER_ERROR, "its answer was an error", said=error_text(data.removeprefix(b"data: "))
            )
            return
        data, error = self._split_at_error(data)
        self._open(data, None if self._translation is not None else forwarded_headers.body_length(self._headers))
        self._fail_of(error)

    def _keep(self, data: bytes) -> None:
        self._held.append(data)
        self._held_bytes += len(data)

    def _open(self, data: bytes, length: int | None) -> None:
        """The first bytes leave, together with the head. From here on no other node may answer."""
        if not self._is_committed():
            return
        if self._forwarded_bytes:
            data = self._apart_from_the_rest(data) + data
        else:
            self._exchange.on_writable = self._client_reads
            if self._noted is not None:
                self._noted.introduce(self._answer_headers())
            else:
                self._exchange.begin(self._status, self._answer_headers(), length)
        if self._told is not None:
            self._told.nodes.append(self._dispatch.node_id)
        self._forward(data)

    def _is_committed(self) -> bool:
        """Tells the core of the first byte before it leaves; False if the request ended over that."""
        self._step = _OPEN
        driver = self._services.driver
        driver.feed(FirstByte(driver.now(), self._request_id, self._dispatch.attempt))
        return self._step == _OPEN

    def _answer_headers(self) -> list[Header]:
        if self._translation is not None:
            content_type = self._translation.content_type
        else:
            content_type = forwarded_headers.found(self._headers, b"content-type") or b"application/octet-stream"
        headers = forwarded_headers.answer_headers(
            content_type, self._request_id, self._dispatch, self._ask.prompt_tokens
        )
        return headers if self._wait is None else headers + self._wait.headers()

    # --- the answer ends ---

    def _end_passed(self) -> None:
        watch = self._watch
        assert watch is not None
        if self._step == _OPEN:
            counters = watch.end()
        else:
            body = b"".join(self._held) + self._whole_lines.rest
            counters = watch.end()
            if counters is not None:
                self._finish_at_once(
                    counters, self._answer_headers() + spent(self._dispatch, self._ask, body, counters), body
                )
                return
        if counters is not None:
            self._finish(counters)
        else:
            self._fail(FailureKind.TRUNCATED, "the answer ended before it was whole")

    def _end_translated(self, translation: Translation) -> None:
        try:
            data = translation.end()
        except (ValueError, EngineFailed) as error:
            self._fail_translation(error)
            return
        if not translation.is_whole:
            self._fail(FailureKind.TRUNCATED, "the answer ended before it was whole")
            return
        if self._step != _OPEN and (self._forwarded_bytes or self._noted is not None):
            self._open(data, None)
            self._finish(translation.counters())
        elif self._step == _OPEN:
            self._forward(data)
            self._finish(translation.counters())
        else:
            body, counters = b"".join(self._held) + data, translation.counters()
            self._finish_at_once(
                counters, self._answer_headers() + spent(self._dispatch, self._ask, body, counters), body
            )

    def _counters_if_whole(self) -> Counters | None:
        if self._watch is not None:
            return self._watch.end()
        translation = self._translation
        return translation.counters() if translation is not None and translation.is_whole else None

    def _finish(self, counters: Counters) -> None:
        """The books are closed first: what the client sends next, perhaps within `end`, may need the slot."""
        rest = self._whole_lines.rest
        self._forwarded_bytes += len(rest)
        self._over()
        self._feed_finished(counters, self._status)
        if rest:
            self._exchange.write(rest)
        self._exchange.end()

    def _finish_at_once(self, counters: Counters, headers: list[Header], body: bytes) -> None:
        """The same for an answer of which nothing was forwarded before it was whole: its end tells of its first byte too."""
        self._forwarded_bytes = len(body)
        self._over()
        self._feed_finished(counters, self._status)
        if self._noted is not None:
            self._exchange.write(body)
            self._exchange.end()
            return
        self._exchange.respond(self._status, headers, body)

    def _feed_finished(self, counters: Counters, status: int) -> None:
        driver = self._services.driver
        driver.feed(
            AttemptFinished(
                driver.now(), self._request_id, self._dispatch.attempt, counters, status, self._forwarded_bytes
            )
        )

    # --- the node says no ---

    def _judge(self) -> None:
        """Whether a refusal is the node's trouble, and then of what kind, or the client's mistake, which it is told."""
        status, body = self._status, b"".join(self._held)
        engine = self._services.engines[self._dispatch.card.engine.kind]
        pin, card, too_long = self._dispatch.pin, self._dispatch.card, engine.rejected_prompt_tokens(status, body)
        if retry_prompt_tokens(too_long, pin, card):
            self._fail(FailureKind.WINDOW, f"its prompt has {too_long} tokens", prompt_tokens=too_long)
            return
        if too_long and pin is not None and pin.forbids_cutting and not self._forwarded_bytes:
            self._answer_ourselves(prompt_too_long(too_long, pin, card))
            return
        kind = engine.failure_kind(status, body, has_begun=self._forwarded_bytes > 0)
        if kind is None:
            self._pass_refusal_on(body)
        else:
            retry_after_s = forwarded_headers.retry_after_s(self._headers) if kind is FailureKind.BUSY else None
            self._fail(kind, f"it answered {status}", retry_after_s, error_text(body))

    def _pass_refusal_on(self, body: bytes) -> None:
        """In the node's own words where the client speaks its language, else in the client's."""
        headers = self._answer_headers()
        if self._noted is not None:
            self._feed_finished(Counters(), self._status)
            self._end_with(
                Refusal(self._status, "invalid_request", error_text(body) or f"the node answered {self._status}")
            )
            return
        if self._translation is not None or not body or len(body) > self._services.settings.refusal_max_bytes:
            message = error_text(body) or f"the node answered {self._status}"
            answer = self._dialect.error(Refusal(self._status, "invalid_request", message), self._request_id)
            headers[0] = (b"Content-Type", answer.content_type.encode("latin-1"))
            body = answer.body
        self._finish_at_once(Counters(), headers, body)

    def _answer_ourselves(self, refusal: Refusal) -> None:
        """The request cannot be put to this engine: the client's mistake, found here instead of there."""
        if self._is_committed():
            self._feed_finished(Counters(), refusal.status)
            self._end_with(refusal)

    # --- failing ---

    def _fail(
        self, kind: FailureKind, detail: str, retry_after_s: float | None = None, said: str = "", prompt_tokens: int = 0
    ) -> None:
        """Tells the core, which answers with what to do. A call that is still open is of no use any more.

        `said` is the engine's own text: for the client, never for logs or traces, since it may quote a prompt.
        """
        self._give_up()
        if self._step == _OVER:
            return
        self._step = _OPEN if self._forwarded_bytes else _IDLE
        continues_on = self._continues_on() if self._forwarded_bytes else frozenset[str]()
        is_crash = kind in (FailureKind.RESET, FailureKind.CLOSED) and not self._forwarded_bytes
        fingerprint = hash(self._ask.body) if is_crash else 0
        failure = Failure(
            kind,
            self._forwarded_bytes,
            detail,
            self._status or None,
            retry_after_s,
            said,
            continues_on,
            fingerprint,
            prompt_tokens,
        )
        driver = self._services.driver
        driver.feed(AttemptFailed(driver.now(), self._request_id, self._dispatch.attempt, failure))

    def _continues_on(self) -> frozenset[str]:
        """The kinds of engines that could write on; it is prepared for then."""
        if self._told is None:
            return frozenset()
        name = self._dispatch.fallback or self._ask.model
        self._resumed = self._told.resume(self._dialect, self._ask, name, self._request_id, self._services.moment())
        if self._resumed is None:
            return frozenset()
        is_empty = self._resumed.partial_answer.is_empty
        return frozenset(
            kind
            for kind, engine in self._services.engines.items()
            if is_empty or engine.can_continue or engine.can_render
        )

    def _watched(self, data: bytes) -> bytes:
        """What may pass of an answer that is not translated: of a stream, whole lines only."""
        assert self._watch is not None
        self._watch.feed(data)
        return self._whole_lines.feed(data) if self._ask.stream else data

    def _translated(self, data: bytes) -> bytes:
        assert self._translation is not None
        try:
            return self._translation.feed(data)
        except (ValueError, EngineFailed) as error:
            self._fail_translation(error)
            return b""

    def _fail_translation(self, error: ValueError | EngineFailed) -> None:
        if isinstance(error, EngineFailed):
            self._fail(FailureKind.SERVER_ERROR, "it failed in the middle of its answer", said=str(error))
        else:
            self._fail(FailureKind.GARBAGE, str(error))

    # --- the client's side ---

    def _client_gone(self) -> None:
        """Nobody wants the answer: the node is told first, by closing; the books follow."""
        if self._step == _OVER:
            return
        self._over()
        driver = self._services.driver
        driver.feed(ClientLeft(driver.now(), self._request_id, self._forwarded_bytes, self._counted()))

    def _counted(self) -> Counters | None:
        """The tokens that were forwarded of an answer nobody will finish; engines send one a piece."""
        if self._told is None or not self._forwarded_bytes:
            return None
        pieces = self._told.pieces(self._dialect, self._ask, self._request_id, self._services.moment())
        return Counters(completion_tokens=pieces) if pieces is not None else None

    @property
    def _noted(self) -> WaitNotice | None:
        """The client's wait, if the head has left because of it."""
        return self._wait if self._wait is not None and self._wait.has_begun else None

    def _client_reads(self, is_reading: bool) -> None:
        call = self._call
        if call is None:
            return
        if is_reading:
            call.resume()
        else:
            call.pause()

    def _end_with(self, refusal: Refusal) -> None:
        """The client is told no: as an answer, or, where one has begun, by breaking it off so that it shows."""
        if self._step == _OVER:
            return
        exchange = self._exchange
        self._over()
        if self._forwarded_bytes or self._noted is not None:
            frame = self._dialect.error_frame(self._ask, refusal)
            exchange.cut(self._apart_from_the_rest(frame) + frame if frame else b"")
            return
        answer = self._dialect.error(refusal, self._request_id)
        headers = forwarded_headers.refusal_headers(
            answer.content_type, refusal, self._request_id, self._services.dice.random()
        )
        if self._wait is not None:
            headers += self._wait.headers()
        exchange.respond(answer.status, headers, answer.body)

    def _apart_from_the_rest(self, frame: bytes) -> bytes:
        """Line ends that keep a last frame from being read as part of a line or event that broke off."""
        wanted = b"\n\n" if frame.startswith((b"data:", b"event:")) else b"\n"
        if self._last.endswith(wanted):
            return b""
        return b"\n" if self._last.endswith(b"\n") else wanted

    def _over(self) -> None:
        """Nothing is expected any more; the exchange is let go of, so that neither keeps the other alive."""
        self._give_up()
        if self._wait is not None:
            self._services.notes.over(self._wait)
        self._step = _OVER
        self._exchange.on_gone = None
        self._exchange.on_writable = None
