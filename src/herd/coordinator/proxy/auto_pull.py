"""Fetches a model that somebody asks for and no node has, while the request waits. Where from and where to is `core/planning/transfer_queue.py`'s.

Whoever may fetch models by hand may cause it: by default not every client of the network, since a name alone could fill a disk. All who
ask for the same model share one fetch; when the last of them leaves, it stops (what was read is kept).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from herd.coordinator.auth.access_control import may_fetch
from herd.coordinator.http.contract import Exchange
from herd.coordinator.models.transfers import Transfers
from herd.coordinator.proxy.wait_comments import ASKED_WITH, NOTES, WaitNotice
from herd.core.lifecycle.queue_positions import QueuePosition
from herd.core.planning.transfer_queue import Transfer, TransferState
from herd.core.state.fleet import Fleet
from herd.core.state.request import Request, RequestKind
from herd.errors import HerdError, Refusal

log = logging.getLogger("herd.auto_pull")

HELD_MAX = 64
"""Requests that wait for a model at the same time; others are told that it is on no node."""
TAG = "auto-pull"
"""What such a request is tagged with in the traces."""


@dataclass(frozen=True, slots=True)
class AutoPullSettings:
    is_on: bool = field(
        default=True,
        metadata={
            "env": "FLEET_AUTO_PULL",
            "help": "Download a requested model that no node has, while the request waits.",
        },
    )
    timeout_s: float = field(
        default=300.0,
        metadata={
            "env": "FLEET_AUTO_PULL_TIMEOUT",
            "help": "Seconds a request waits for its model to be downloaded.",
            "min": 1,
        },
    )
    whom: str = field(
        default="admins",
        metadata={
            "env": "FLEET_AUTO_PULL_FOR",
            "choices": ("admins", "everybody"),
            "help": (
                "Whose requests may start a download: admins (this machine and keys with scope models) or everybody."
            ),
        },
    )


@dataclass(frozen=True, slots=True)
class AutoPullCallbacks:
    """What becomes of a request that waited: it is admitted with its wait, refused (`wait` where its head may have left), or left."""

    admit: Callable[[WaitNotice], None]
    refuse: Callable[[Refusal, WaitNotice | None], None]
    leave: Callable[[], None]


class AutoPull:
    def __init__(
        self,
        settings: AutoPullSettings,
        fetching: Transfers,
        fleet: Fleet,
        loop: asyncio.AbstractEventLoop,
        is_ready: Callable[[], bool],
        note_every_s: float,
    ) -> None:
        """`is_ready`: whether every node had time to report since the start; before, what is unknown may be there."""
        self._note_every_s = note_every_s
        self._is_ready = is_ready
        self._settings = settings
        self._fetching = fetching
        self._fleet = fleet
        self._loop = loop
        self._tasks: set[asyncio.Task[None]] = set()

    def take(self, exchange: Exchange, request: Request, tells: bool, ends: AutoPullCallbacks) -> bool:
        """Whether it is seen to here: then one of `ends` is called, once. `tells`: its answer can hold comments."""
        models = (request.model, *request.fallbacks)
        if (
            request.kind is RequestKind.INFO
            or not self._fleet.nodes
            or any(self._fleet.knows(model) for model in models)
        ):
            return False
        may = (
            self._settings.is_on
            and self._is_ready()
            and (self._settings.whom == "everybody" or may_fetch(exchange.admission))
        )
        if not may or len(self._tasks) >= HELD_MAX:
            return False
        try:
            fetch = self._fetching.want(request.model_as_asked or request.model, str(request.id))
        except HerdError as error:
            ends.refuse(
                Refusal(
                    404,
                    error.refusal.code,
                    f"model '{request.model_as_asked or request.model}' not found on any node, and it is not fetched: {error}",
                ),
                None,
            )
            return True
        request.tags = (*request.tags, TAG)
        self._hold(exchange, request, fetch, tells, ends)
        return True

    def stop(self) -> None:
        for task in list(self._tasks):
            task.cancel()

    def _hold(
        self, exchange: Exchange, request: Request, fetch: Transfer, tells: bool, ends: AutoPullCallbacks
    ) -> None:
        asked = exchange.header(ASKED_WITH) if tells else None
        wait = WaitNotice(request.id, exchange, 0)
        wait.began(self._loop.time())
        notes = wait if asked is not None and asked.strip().lower() == NOTES else None
        task = self._loop.create_task(self._wait(fetch, notes))
        self._tasks.add(task)

        def over(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            trouble = fetch.error
            self._fetching.release(fetch, str(request.id))
            wait.ended(self._loop.time())
            if fetch.state is TransferState.DONE and not task.cancelled():
                ends.admit(wait)
            else:
                why = trouble or f"it was not there within {self._settings.timeout_s:.0f} s; watch it with: herd pulls"
                ends.refuse(
                    Refusal(
                        404 if trouble else 503,
                        "model_not_fetched",
                        f"model '{request.model_as_asked or request.model}' not found on any node, and it could not be fetched: {why}",
                    ),
                    wait,
                )

        def leave() -> None:
            task.remove_done_callback(over)
            task.add_done_callback(self._tasks.discard)
            task.cancel()
            self._fetching.release(fetch, str(request.id))
            ends.leave()

        task.add_done_callback(over)
        exchange.on_gone = leave

    async def _wait(self, fetch: Transfer, notes: WaitNotice | None) -> None:
        """Returns when the model is there and its node has said so, when it cannot be had, or when the time is up."""
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                async for one in self._fetching.follow(fetch, self._note_every_s):
                    at = self._loop.time()
                    if notes is not None and at - notes.noted_at >= self._note_every_s:
                        notes.note(QueuePosition(0, told(one)), at)
                if fetch.state is TransferState.DONE:
                    await self._fetching.seen(fetch)
        except TimeoutError:
            log.info("a request waited too long for its model", extra={"model": fetch.model, "node_id": fetch.node_id})


def told(fetch: Transfer) -> str:
    """How far it is, in words."""
    share = (
        f", {100 * fetch.completed_bytes // fetch.total_bytes} % of {fetch.total_bytes / 1e9:.1f} GB"
        if fetch.total_bytes
        else ""
    )
    source = f" from {fetch.source}" if fetch.source else ""
    return f"{fetch.name} to be fetched onto {fetch.node_id}{source}{share}"
