"""Downloads a model that a request needs and no node has, while the request waits.

`core/planning/transfer_queue.py` chooses the source and the node. Only callers that may pull models by hand can cause
a download (FLEET_AUTO_PULL_FOR): otherwise any request could fill a disk. All requests for the same model
share one download. When the last of them is cancelled, the download stops; its completed part stays on the disk.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from herd.coordinator.auth.access_control import may_pull_models
from herd.coordinator.models.transfers import Transfers
from herd.coordinator.proxy.wait_comments import WaitNotice, wants_comments
from herd.core.lifecycle.queue_positions import QueuePosition
from herd.core.planning import transfer_queue
from herd.core.planning.transfer_queue import Transfer, TransferState
from herd.core.state import refusals
from herd.core.state.fleet import Fleet, NodeId
from herd.core.state.request import Request, RequestKind
from herd.errors import HerdError, Refusal, Unavailable
from herd.http1.contract import Exchange

log = logging.getLogger("herd.auto_pull")

HELD_MAX = 64
"""Requests that wait for a download at the same time; further ones get 404 as if auto-pull were off."""
TAG = "auto-pull"
"""The tag of such a request in the traces."""


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
    allowed_clients: str = field(
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
    """Exactly one of them is called when the wait is over."""

    admit: Callable[[WaitNotice], None]
    refuse: Callable[[Refusal, WaitNotice | None], None]
    """The second argument is the request's wait: its comments may already have sent the head of the response."""
    client_left: Callable[[], None]


class AutoPull:
    def __init__(
        self,
        settings: AutoPullSettings,
        transfers: Transfers,
        fleet: Fleet,
        loop: asyncio.AbstractEventLoop,
        is_ready: Callable[[], bool],
        comment_every_s: float,
    ) -> None:
        """`is_ready`: whether every node had time to report since the start. Before that, a node may have the model."""
        self._settings = settings
        self._transfers = transfers
        self._fleet = fleet
        self._loop = loop
        self._is_ready = is_ready
        self._comment_every_s = comment_every_s
        self._tasks: set[asyncio.Task[None]] = set()

    def try_hold(
        self, exchange: Exchange, request: Request, takes_comments: bool, callbacks: AutoPullCallbacks
    ) -> bool:
        """Whether this request now waits for a download or was refused. Then one of the callbacks is called."""
        models = (request.model, *request.fallbacks)
        if (
            request.kind is RequestKind.INFO
            or not self._fleet.nodes
            or any(self._fleet.knows(model) for model in models)
        ):
            return False
        is_allowed = (
            self._settings.is_on
            and self._is_ready()
            and (self._settings.allowed_clients == "everybody" or may_pull_models(exchange.admission))
        )
        if not is_allowed or len(self._tasks) >= HELD_MAX:
            return False
        if (invalid := refusals.invalid_name(request, self._fleet)) is not None:
            callbacks.refuse(invalid, None)
            return True
        name = request.requested_name or request.model
        try:
            transfer = self._transfers.add(name, str(request.id), self._labelled(request))
        except HerdError as error:
            message = f"model '{name}' not found on any node, and it cannot be downloaded: {error}"
            callbacks.refuse(Refusal(404, error.refusal.code, message), None)
            return True
        request.tags = (*request.tags, TAG)
        self._hold(exchange, request, transfer, takes_comments, callbacks)
        return True

    def _labelled(self, request: Request) -> NodeId | None:
        """The node for a request that requires labels; None: any node. Raises `Unavailable`."""
        if not request.labels:
            return None
        best = transfer_queue.best_target(self._fleet, request.model, 0, request.labels)
        if isinstance(best, Refusal):
            raise Unavailable(best.message, best.code)
        return best.id

    def stop(self) -> None:
        for task in list(self._tasks):
            task.cancel()

    def _hold(
        self,
        exchange: Exchange,
        request: Request,
        transfer: Transfer,
        takes_comments: bool,
        callbacks: AutoPullCallbacks,
    ) -> None:
        wait = WaitNotice(request.id, exchange, 0)
        wait.start(self._loop.time())
        task = self._loop.create_task(
            self._wait(transfer, wait if takes_comments and wants_comments(exchange) else None)
        )
        self._tasks.add(task)

        def end(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            problem = transfer.error
            self._transfers.release(transfer, str(request.id))
            wait.stop(self._loop.time())
            if transfer.state is TransferState.DONE and not task.cancelled():
                callbacks.admit(wait)
            else:
                callbacks.refuse(self._refusal(request, problem), wait)

        def client_left() -> None:
            task.remove_done_callback(end)
            task.add_done_callback(self._tasks.discard)
            task.cancel()
            self._transfers.release(transfer, str(request.id))
            callbacks.client_left()

        task.add_done_callback(end)
        exchange.on_disconnect = client_left

    def _refusal(self, request: Request, problem: str) -> Refusal:
        reason = problem or f"not completed within {self._settings.timeout_s:.0f} s; watch it with: herd pulls"
        name = request.requested_name or request.model
        message = f"model '{name}' not found on any node, and it could not be downloaded: {reason}"
        return Refusal(404 if problem else 503, "model_not_fetched", message)

    async def _wait(self, transfer: Transfer, commented: WaitNotice | None) -> None:
        """Returns when the node reports the model, when the download has failed, or when the time is up."""
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                async for progress in self._transfers.follow(transfer, self._comment_every_s):
                    now = self._loop.time()
                    if commented is not None and now - commented.commented_at >= self._comment_every_s:
                        commented.write_position(QueuePosition(0, describe(progress)), now)
                if transfer.state is TransferState.DONE:
                    await self._transfers.wait_until_reported(transfer)
        except TimeoutError:
            about = {"model": transfer.model, "node_id": transfer.node_id}
            log.info("a request waited too long for the download of its model", extra=about)


def describe(transfer: Transfer) -> str:
    """What a request waits for, e.g. "the download of qwen3 onto alpha, 40 % of 4.2 GB"."""
    share = (
        f", {100 * transfer.completed_bytes // transfer.total_bytes} % of {transfer.total_bytes / 1e9:.1f} GB"
        if transfer.total_bytes
        else ""
    )
    source = f" from {transfer.source}" if transfer.source else ""
    return f"the download of {transfer.name} onto {transfer.node_id}{source}{share}"
