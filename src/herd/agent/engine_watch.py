"""Probes the engines of this machine every second, and reports at once when one freezes or answers again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from herd.agent.engine_list import authorization
from herd.agent.engine_silence import PROBE_EVERY_S
from herd.agent.inventory import Engines, LocalEngine
from herd.http1.client import request

PROBE_MAX_S = 30.0
"""A probe stays open for this long: a frozen engine that continues answers it at once."""
REFUSED = "no answer within"
"""How the client begins the description of a timeout. All other problems come from a server that reacted."""


class EngineWatch:
    """`changed()` is called when an engine freezes or answers again."""

    def __init__(self, engines: Engines, changed: Callable[[], None]) -> None:
        self._engines = engines
        self._changed = changed
        self._probes: set[asyncio.Task[None]] = set()
        self._frozen: frozenset[str] = frozenset()

    async def run(self) -> None:
        """Probes until it is cancelled."""
        planned_at = time.monotonic()
        try:
            while True:
                now = time.monotonic()
                self.step(now, now - planned_at)
                planned_at = now + PROBE_EVERY_S
                await asyncio.sleep(PROBE_EVERY_S)
        finally:
            for probe in self._probes:
                probe.cancel()

    def step(self, now: float, lag_s: float) -> None:
        """Starts the probes that are due, and reports a change. `lag_s`: how late this call is."""
        watched = [local for local in self._engines.found if local.engine.answers_while_busy]
        for local in watched:
            local.silence.agent_was_delayed(lag_s)
            if local.silence.may_probe(now):
                local.silence.probe_sent(now)
                probe = asyncio.get_running_loop().create_task(self._probe(local))
                self._probes.add(probe)
                probe.add_done_callback(self._probes.discard)
        self._report(now)

    async def _probe(self, local: LocalEngine) -> None:
        sent = local.engine.sign_of_life()
        has_answer = False
        try:
            response = await request(
                sent.method, local.url + sent.path, sent.body, PROBE_MAX_S, authorization(local.key)
            )
            has_answer = not response.problem.startswith(REFUSED)
        finally:
            local.silence.probe_ended(has_answer)
        self._report(time.monotonic())

    def _report(self, now: float) -> None:
        frozen = frozenset(local.url for local in self._engines.found if local.silence.silent_s(now))
        if frozen != self._frozen:
            self._frozen = frozen
            self._changed()
