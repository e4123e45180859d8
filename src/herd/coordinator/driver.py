"""The only place where a clock meets a decision: feeds events to the core and performs what it asks for. Decides nothing.

Everything runs on the loop's thread and synchronously: between reading the core and acting on it nothing waits.
An event that arises while commands are being performed (a connection refused at once) is queued, not nested.
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
from herd.core.state.fleet import NodeId
from herd.core.state.request import Outcome, Request, RequestId
from herd.errors import Refusal

log = logging.getLogger("herd.driver")


class RequestRunner(Protocol):
    """Whoever carries one request out: holds its client connection and its upstream attempt."""

    def dispatch(self, command: Dispatch) -> None:
        """Starts this attempt; an earlier one of the same request that is still open is given up first."""

    def hold(self, command: Hold) -> None: ...

    def refuse(self, command: Refuse) -> None: ...

    def abort(self, command: Abort) -> None: ...


class Driver:
    def __init__(
        self, dispatcher: Dispatcher, record: Callable[[Record], None], loop: asyncio.AbstractEventLoop
    ) -> None:
        self.dispatcher = dispatcher
        self.alarms = 0
        """How often the core found what should never be."""
        self.warm: Callable[[LoadModel], None] | None = None
        """Who loads models ahead, where the core was composed to wish for it."""
        self.onlooker: Callable[[Event | Command], None] | None = None
        """Told of every event and command while somebody looks on."""
        self.dispatched: Callable[[NodeId], None] | None = None
        """Who wants to know that somebody's request goes to a node, the moment before it does."""
        self.fleet = dispatcher.fleet
        self.runs: dict[RequestId, RequestRunner] = {}
        self.now = loop.time
        self._loop = loop
        self._record = record
        self._inbox: deque[Event] = deque()
        self._is_feeding = False
        self._timer: asyncio.TimerHandle | None = None
        self._idle: asyncio.Future[None] | None = None

    def admit(self, request: Request, run: RequestRunner) -> None:
        """Takes a request in; from now on `run` is told what to do, until its terminal row was recorded."""
        self.runs[request.id] = run
        self.feed(RequestArrived(self.now(), request))

    def feed(self, event: Event) -> None:
        """One event in, its commands performed, and those of every event that this caused."""
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
        # One of the two loop roots: a bug in one request's handling must not end the service of all others.
        try:
            if self.onlooker is None:
                for command in self.dispatcher.handle(event):
                    self._perform(command)
            else:
                self._perform_watched(event, self.onlooker)
        except Exception:  # noqa: BLE001 - the loop root
            self._contain(event)

    def _perform_watched(self, event: Event, onlooker: Callable[[Event | Command], None]) -> None:
        commands = self.dispatcher.handle(event)
        for told in (event, *commands):
            onlooker(told)
        for command in commands:
            self._perform(command)

    def _contain(self, event: Event) -> None:
        """A bug: it is logged with the id that the client is given, and the request it struck is ended."""
        request_id = _request_id(event)
        log.exception("event could not be handled: %s", type(event).__name__, extra={"request_id": request_id})
        run = self.runs.pop(request_id, None) if request_id else None
        if run is not None and request_id is not None:
            self.dispatcher.abandon(request_id)
            message = f"internal error; the coordinator's log has the details under {request_id}"
            run.refuse(Refuse(request_id, Refusal(500, "internal_error", message)))

    def _perform(self, command: Command) -> None:
        if isinstance(command, Record):
            self._finish(command)
            return
        if isinstance(command, LoadModel):
            if self.warm is not None:
                self.warm(command)
            return
        if isinstance(command, Alarm):
            self.alarms += 1
            log.error("this should never be: %s", command.message)
            return
        run = self.runs.get(command.request_id)
        if run is None:
            return
        if isinstance(command, Dispatch):
            if self.dispatched is not None:
                self.dispatched(command.node_id)
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
        """Returns once no request is live."""
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
