"""Measures the CPU time of one request in the coordinator's core, with many nodes that have its model."""

from __future__ import annotations

import time

from bench.scale.nodes import MODEL, SLOTS, report_of
from herd.coordinator.build_core import build_dispatcher
from herd.coordinator.settings import Settings
from herd.core.lifecycle.dispatcher import Dispatcher
from herd.core.state.events import AttemptFinished, FirstByte, HeartbeatReceived, RequestArrived
from herd.core.state.fleet import canonical
from herd.core.state.request import Counters, Request, RequestId

REQUESTS = 200
RUNNING = 40
"""Requests that run all the time, so that nodes differ in what they are doing."""
EVERY_S = 0.01


def decision_ms(candidates: int, models: int, running_max: int = RUNNING, users: int = 0) -> float:
    """Milliseconds of CPU from the arrival of a request to the end of its answer, without input and output.

    `running_max` requests run meanwhile, if the nodes have this many slots; they are of this many named users.
    """
    dispatcher = build_dispatcher(Settings(), 0.0)
    for number in range(candidates):
        dispatcher.handle(HeartbeatReceived(0.0, report_of(number, models)))
    running: list[RequestId] = []
    now, used_s = 10.0, 0.0
    for number in range(running_max + REQUESTS):
        now += EVERY_S
        began_s = time.process_time()
        running.append(_arrive(dispatcher, number, now, f"user-{number % users}" if users else ""))
        if len(running) > min(running_max, candidates * SLOTS - 1):
            _finish(dispatcher, running.pop(0), now)
        if number >= running_max:
            used_s += time.process_time() - began_s
    return used_s * 1000.0 / REQUESTS


def _arrive(dispatcher: Dispatcher, number: int, now: float, user: str) -> RequestId:
    request_id = RequestId(f"r{number}")
    model = canonical(MODEL)
    request = Request(
        id=request_id,
        model=model,
        requested_name=MODEL,
        prompt_tokens=200 + number,
        stream=True,
        tenant="team" if user else "",
        member=user,
        user=user,
    )
    dispatcher.handle(RequestArrived(now, request))
    dispatcher.handle(FirstByte(now + 0.001, request_id, 1))
    return request_id


def _finish(dispatcher: Dispatcher, request_id: RequestId, now: float) -> None:
    dispatcher.handle(AttemptFinished(now, request_id, 1, Counters(200, 100), 200))
