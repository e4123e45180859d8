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
from typing import Protocol

from herd.core.lifecycle.dispatcher import Dispatcher
from herd.core.state.commands import Abort, Alarm, Command, Dispatch, Hold, LoadModel, Record, Refuse
from herd.core.state.events import AttemptFailed, AttemptFinished, ClientLeft, Event, FirstByte, RequestArrived, Ticked
from herd.core.state.request import Outcome, Request, RequestId
from herd.errors import Refusal

log = logging.getLogger("herd.driver")

Observer = Callable[[Event | Command], None]


class RequestRunner(Protocol):
    """Carries out one request: holds its client connection and its upstream attempt."""

    def dispatch(self, command: Dispatch) -> None:
        """Starts this attempt. An earlier attempt of the same request that is still open is cancelled first."""

    def hold(self, command: Hold) -> None: ...

    def refuse(self, command: Refuse) -> None: ...

    def abort(self, command: Abort) -> None: ...


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
        """How often the core reported a violated invariant."""
        self.runs: dict[RequestId, RequestRunner] = {}
        self.now = loop.time
        self._loop = loop
        self._record = record
        self._load_model = load_model
        self._admitted = admitted
        self._observers: tuple[Observer, ...] = ()
        self._inbox: deque[Event] = deque()
        self._is_feeding = False
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
        # A bug in the handling of one request must not stop the other requests.
        try:
            if not self._observers:
                for command in self.dispatcher.handle(event):
                    self._perform(command)
            else:
                self._perform_observed(event)
        except Exception:  # noqa: BLE001 - see above
            self._contain(event)

    def _perform_observed(self, event: Event) -> None:
        commands = self.dispatcher.handle(event)
        for observer in self._observers:
            for message in (event, *commands):
                observer(message)
        for command in commands:
            self._perform(command)

    def _contain(self, event: Event) -> None:
        """Handles a bug: logs it with the request id that the client also gets, and ends the affected request."""
        request_id = _request_id(event)
        log.exception("event could not be handled: %s", type(event).__name__, extra={"request_id": request_id})
        run = self.runs.pop(request_id, None) if request_id else None
        if run is not None and request_id is not None:
            self.dispatcher.drop(request_id)
            message = f"internal error; the coordinator's log has the details under request id {request_id}"
            run.refuse(Refuse(request_id, Refusal(500, "internal_error", message)))

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
        else:
            run.abort(command)

    def _finish(self, record: Record) -> None:
        self._record(record)
        if record.outcome is Outcome.RETRIED:
            return
        self.runs.pop(record.request.id, None)
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
        self.feed(Ticked(self.now()))


def _request_id(event: Event) -> RequestId | None:
    if isinstance(event, RequestArrived):
        return event.request.id
    if isinstance(event, (FirstByte, AttemptFinished, AttemptFailed, ClientLeft)):
        return event.request_id
    return None
