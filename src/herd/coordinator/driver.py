"""Feeds events to the core with the current time and performs the commands that the core returns.

Only this file reads the clock for the core. Everything runs synchronously on the loop's thread, so the core's state
does not change between a decision and its commands. An event that arises while commands are performed (for example
a connection that is refused at once) is queued, not nested.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Protocol

from herd.core.lifecycle.dispatcher import Dispatcher
from herd.core.lifecycle.frozen_engines import reading_s
from herd.core.state.commands import Abort, Alarm, Command, Dispatch, GiveUp, Hold, LoadModel, Record, Refuse
from herd.core.state.events import AttemptFailed, AttemptFinished, ClientLeft, Event, FirstByte, RequestArrived, Ticked
from herd.core.state.refusals import INTERNAL_ERROR as _INTERNAL
from herd.core.state.request import Failure, FailureKind, Outcome, Request, RequestId

log = logging.getLogger("herd.driver")

Observer = Callable[[Event | Command], None]


class RequestRunner(Protocol):
    """Carries out one request: holds its client connection and its upstream attempt."""

    def dispatch(self, command: Dispatch) -> None:
        """Starts this attempt. An earlier attempt of the same request that is still open is cancelled first."""

    def hold(self, command: Hold) -> None: ...

    def refuse(self, command: Refuse) -> None: ...

    def give_up(self, command: GiveUp) -> None: ...

    def abort(self, command: Abort) -> None: ...

    def break_off(self) -> None:
        """Gives up the attempt after an exception: cancels its call. If the answer has ended, cuts the client off."""

    @property
    def is_calling(self) -> bool:
        """Whether a call to a node is open."""

    @property
    def forwarded_bytes(self) -> int: ...


AUDIT_EVERY_S = 5.0


class Driver:
    def __init__(
        self,
        dispatcher: Dispatcher,
        record: Callable[[Record], None],
        loop: asyncio.AbstractEventLoop,
        load_model: Callable[[LoadModel], None] = lambda _: None,
        admitted: Callable[[Request, float], None] = lambda *_: None,
    ) -> None:
        """`admitted` is called with each request and the time of its arrival.

        `record` takes every trace row; `load_model` performs the core's `LoadModel` commands.
        """
        self.dispatcher = dispatcher
        self.fleet = dispatcher.fleet
        self.forecast = dispatcher.forecast
        self.queues = dispatcher.waiting.queues
        self.live_requests = dispatcher.live_requests
        """Every request that has not ended yet, by its id."""
        self.alarms = 0
        """How often an invariant was violated or an exception was contained; each is a bug."""
        self.runs: dict[RequestId, RequestRunner] = {}
        self.now = loop.time
        self._loop = loop
        self._record = record
        self._load_model = load_model
        self._admitted = admitted
        self._observers: tuple[Observer, ...] = ()
        self._inbox: deque[Event] = deque()
        self._is_feeding = False
        self._audited_at = loop.time()
        self._timer: asyncio.TimerHandle | None = None
        self._idle: asyncio.Future[None] | None = None

    @property
    def is_draining(self) -> bool:
        return self.dispatcher.is_draining

    @property
    def observers(self) -> tuple[Observer, ...]:
        return self._observers

    def observe(self, observer: Observer) -> None:
        """Calls `observer` with every further event and command, before the command is performed."""
        if observer not in self._observers:
            self._observers = (*self._observers, observer)

    def stop_observing(self, observer: Observer) -> None:
        self._observers = tuple(known for known in self._observers if known != observer)

    def admit(self, request: Request, run: RequestRunner) -> None:
        """Admits a request. `run` performs its commands until its final row was recorded."""
        self.runs[request.id] = run
        now = self.now()
        self._admitted(request, now)
        self.feed(RequestArrived(now, request))

    def feed(self, event: Event) -> None:
        """Handles one event, performs its commands, and does the same for every event that these commands caused."""
        if self._is_feeding:
            self._inbox.append(event)
            return
        self._is_feeding = True
        try:
            self._handle(event)
            while self._inbox:
                self._handle(self._inbox.popleft())
        finally:
            self._is_feeding = False
        if self._timer is None:
            self._arm()

    def _handle(self, event: Event) -> None:
        # A bug in the handling of one request must not stop the other requests: neither those whose commands follow
        # from the same event.
        commands: list[Command] = []
        try:
            self.dispatcher.handle(event, commands)
        except Exception:  # noqa: BLE001 - see above
            self._report_exception(f"{type(event).__name__} could not be handled", _request_id(event))
            self._end_broken(event, _request_id(event), commands)
        for observer in self._observers:
            for message in (event, *commands):
                self._succeeds("an observer failed", None, partial(observer, message))
        for command in commands:
            try:
                self._perform(command)
            except Exception:  # noqa: BLE001 - see above
                self._contain_command(command)

    def _succeeds(self, what: str, request_id: RequestId | None, action: Callable[[], None]) -> bool:
        """Performs an action whose failure must not prevent what follows it."""
        try:
            action()
        except Exception:  # noqa: BLE001 - see above
            self._report_exception(what, request_id)
            return False
        return True

    def reading_s(self, request_id: RequestId) -> float:
        """Seconds of silence of this stream that prompts of other requests on its node explain."""
        return reading_s(self.live_requests, self.forecast, self.fleet, request_id, self.now())

    def can_move_on(self, request_id: RequestId) -> bool:
        """Whether an engine of another kind can take a request that the engine which has it refuses."""
        live_request = self.live_requests.get(request_id)
        return live_request is not None and self.dispatcher.placement.can_move_on(live_request, self.now())

    # --- bugs ---

    def contain(self, request_id: RequestId, where: str) -> None:
        """Called while an exception in a callback of this request is handled: its attempt fails.

        Another node may answer if nothing was forwarded. Otherwise the client gets an error in the format of its API.
        """
        self._report_exception(f"a callback failed: {where}", request_id)
        self._fail_attempt(request_id, "an exception in the coordinator")

    def audit(self) -> None:
        """Finds requests without an owner, a queue or an open call, which would never end, and ends them."""
        for request_id, live_request in list(self.live_requests.items()):
            run = self.runs.get(request_id)
            if run is None:
                self._report_violation("a request has no owner", request_id)
                self._end_now(request_id)
            elif live_request.is_running and not run.is_calling:
                self._report_violation(f"a request is {live_request.state.value} without an open call", request_id)
                self._fail_attempt(request_id, "its call to the node was lost")
            elif live_request.is_waiting and not self.dispatcher.waiting.has(live_request):
                self._report_violation("a request waits in no queue", request_id)
                self._end_now(request_id)
        for request_id in [request_id for request_id in self.runs if request_id not in self.live_requests]:
            self._report_violation("a client waits for a request that has ended", request_id)
            self._end_now(request_id)

    def _report_exception(self, what: str, request_id: RequestId | None) -> None:
        self.alarms += 1
        log.exception("internal invariant violated: %s", what, extra={"request_id": request_id})

    def _report_violation(self, what: str, request_id: RequestId) -> None:
        self.alarms += 1
        log.error("internal invariant violated: %s", what, extra={"request_id": request_id})

    def _fail_attempt(self, request_id: RequestId, detail: str) -> None:
        live_request, run = self.live_requests.get(request_id), self.runs.get(request_id)
        attempt = live_request.attempt if live_request is not None else None
        if live_request is None or run is None or attempt is None or not live_request.is_running:
            self._end_now(request_id)
            return
        self._succeeds("the call of an attempt could not be cancelled", request_id, run.break_off)
        failure = Failure(kind=FailureKind.INTERNAL, detail=detail, bytes_forwarded=run.forwarded_bytes)
        self.feed(AttemptFailed(self.now(), request_id, attempt.number, failure))

    def _end_now(self, request_id: RequestId) -> None:
        """Ends a request that no event can end any more: its client gets an error, and its row is recorded."""
        commands: list[Command] = []
        self._end_broken(None, request_id, commands)
        run = self.runs.get(request_id)
        if run is not None and not commands:
            commands.append(Refuse(request_id, _INTERNAL))
        for command in commands:
            what = f"{type(command).__name__} could not be performed"
            self._succeeds(what, request_id, partial(self._perform, command))
        self.runs.pop(request_id, None)

    def _end_broken(self, event: Event | None, request_id: RequestId | None, commands: list[Command]) -> None:
        if request_id is None:
            return
        end = partial(self.dispatcher.placement.end_broken, request_id, event, self.now(), commands)
        if not self._succeeds("a request could not be ended in order", request_id, end):
            self.dispatcher.placement.drop(request_id)

    def _contain_command(self, command: Command) -> None:
        """A command could not be performed. Its request ends, or continues elsewhere; its row is never lost."""
        if isinstance(command, Record):
            request_id: RequestId | None = command.request.id
        else:
            request_id = None if isinstance(command, LoadModel | Alarm) else command.request_id
        self._report_exception(f"{type(command).__name__} could not be performed", request_id)
        if isinstance(command, Dispatch):
            self._fail_attempt(command.request_id, "an exception in the coordinator")
        elif isinstance(command, Hold):
            self._end_now(command.request_id)
        elif isinstance(command, Refuse | Abort) and (run := self.runs.get(command.request_id)) is not None:
            self._succeeds("a client could not be cut off", request_id, run.break_off)

    def _perform(self, command: Command) -> None:
        if isinstance(command, Record):
            self._finish(command)
            return
        if isinstance(command, LoadModel):
            self._load_model(command)
            return
        if isinstance(command, Alarm):
            self.alarms += 1
            log.error("internal invariant violated: %s", command.message)
            return
        run = self.runs.get(command.request_id)
        if run is None:
            return
        if isinstance(command, Dispatch):
            run.dispatch(command)
        elif isinstance(command, Hold):
            run.hold(command)
        elif isinstance(command, Refuse):
            run.refuse(command)
        elif isinstance(command, GiveUp):
            run.give_up(command)
        else:
            run.abort(command)

    def _finish(self, record: Record) -> None:
        """The request is no longer live, whatever happens while its row is recorded."""
        if record.outcome is not Outcome.RETRIED:
            self.runs.pop(record.request.id, None)
        try:
            self._record(record)
        finally:
            if self._idle is not None and not self.runs and not self._idle.done():
                self._idle.set_result(None)

    async def idle(self) -> None:
        """Returns as soon as every request has ended."""
        if not self.runs:
            return
        if self._idle is None or self._idle.done():
            self._idle = self._loop.create_future()
        await self._idle

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self) -> None:
        at = self.dispatcher.next_wakeup()
        if at is not None:
            self._timer = self._loop.call_at(max(at, self.now()), self._wake)

    def _wake(self) -> None:
        self._timer = None
        now = self.now()
        self.feed(Ticked(now))
        if now - self._audited_at >= AUDIT_EVERY_S:
            self._audited_at = now
            self.audit()


def _request_id(event: Event) -> RequestId | None:
    if isinstance(event, RequestArrived):
        return event.request.id
    if isinstance(event, (FirstByte, AttemptFinished, AttemptFailed, ClientLeft)):
        return event.request_id
    return None
