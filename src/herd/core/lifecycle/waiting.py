"""Stores where each live request is: running or queued on a node, or held for any node; and limits how many may wait.

Only this class moves a request between the queues and the held requests, so that a request is never in two of them, and
the waiting bytes are counted correctly. A tenant (an API key, else a client machine) may use only a share of the
limits, so that a flood from one tenant leaves space for others. Beyond its share a tenant may use half of the rest for
those of its members that use little, so that a flood from one member leaves space for the others, too.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field

from herd.core.lifecycle.holding import Holding, HoldingSettings
from herd.core.lifecycle.wait_estimate import WaitEstimate
from herd.core.scheduling.user_slots import UserSlots, UserSlotSettings
from herd.core.state import refusals
from herd.core.state.fleet import ModelName, NodeId
from herd.core.state.live_request import LiveRequest
from herd.core.state.queues import Queue, Queues, Work
from herd.core.state.request import RequestId
from herd.errors import Refusal


@dataclass(slots=True)
class _TenantUsage:
    """What the waiting requests of one tenant use."""

    requests: int = 0
    size_bytes: int = 0
    by_member: Counter[str] = field(default_factory=Counter)
    """The requests of each member."""


class Waiting:
    def __init__(self, settings: HoldingSettings, user_slots: UserSlotSettings | None = None) -> None:
        self.settings = settings
        self.user_slots = UserSlots(user_slots or UserSlotSettings())
        self.queues = Queues()
        self.holding = Holding()
        self.wait_estimate = WaitEstimate()
        self._usage_by_tenant: dict[str, _TenantUsage] = {}
        self._bytes = 0
        self._queued = 0

    def __len__(self) -> int:
        """The number of waiting requests, queued or held."""
        return self._queued + len(self.holding)

    @property
    def has_queued(self) -> bool:
        return self._queued > 0

    def refusal_for(self, live_request: LiveRequest, now: float) -> Refusal | None:
        """The refusal of a request that would have to wait, if its tenant (429) or the coordinator (503) has too many
        waiting requests."""
        settings, size_bytes = self.settings, live_request.request.size_bytes
        if len(self) >= settings.held_max or self._bytes + size_bytes > settings.held_max_bytes:
            return self.wait_estimate.with_retry_after(refusals.FULL, len(self), now)
        own = self._usage_by_tenant.get(live_request.request.tenant)
        if own is None or not live_request.request.tenant or live_request.has_waited or live_request.attempts:
            return None
        share = settings.tenant_share
        if len(self._usage_by_tenant) == 1:
            share = (1.0 + share) / 2.0  # a single tenant may use more, but must leave space for the next one
        if 2 * own.by_member[live_request.request.member] < own.requests:
            share = (1.0 + share) / 2.0  # space for members beside the one that floods
        requests_max = max(1, math.ceil(share * settings.held_max))
        if own.requests < requests_max and own.size_bytes + size_bytes <= share * settings.held_max_bytes:
            return None
        return self.wait_estimate.with_retry_after(refusals.OVER_SHARE, own.requests, now)

    def is_overdue(self, live_request: LiveRequest, now: float) -> bool:
        """Whether it has waited for busy slots as long as the settings allow, since it last ran."""
        since = live_request.waiting_since
        return since is not None and now - since >= self.settings.queue_max_s

    def start(self, live_request: LiveRequest, node_id: NodeId, model: ModelName, now: float) -> Queue:
        """Lets the request occupy a slot."""
        assert live_request.queue is None
        load_s, prefill_s, decode_s = _service_s(live_request, node_id)
        service_s = load_s + prefill_s + decode_s
        queue = live_request.queue = self.queues.queue(node_id, model)
        self.wait_estimate.record_start(now, is_contended=len(self) > 0)
        queue.start(live_request.request, Work(service_s, now, now + service_s, now + load_s, prefill_s))
        if live_request.request.user:
            self.user_slots.start(live_request.request.user, node_id, model)
        return queue

    def enqueue(self, live_request: LiveRequest, node_id: NodeId, model: ModelName) -> int:
        """Queues the request for this node, and returns its position from 1."""
        assert live_request.queue is None
        live_request.queue = self.queues.queue(node_id, model)
        self._queued += 1
        self._count(live_request)
        return live_request.queue.enqueue(live_request.request, Work(sum(_service_s(live_request, node_id))))

    def hold(self, live_request: LiveRequest) -> int:
        """Holds the request for any node, and returns its position from 1 among requests with the same conditions."""
        assert live_request.queue is None
        self._count(live_request)
        conditions = (
            live_request.models,
            live_request.request.needs,
            live_request.tried,
            live_request.request.kind,
            live_request.request.only_node,
            live_request.request.labels,
            live_request.request.continuation_kinds,
            live_request.request.digest,
            live_request.request.path,
            live_request.request.special_fields,
            (live_request.request.wanted_window_tokens or 0).bit_length(),
            live_request.needs_budget,
        )
        return self.holding.add(live_request.request, conditions)

    def leave(self, live_request: LiveRequest, now: float | None = None) -> Queue | None:
        """Removes the request. Returns the queue it was in, which may have a free slot now.

        `now` is the time, if the request may have been running.
        """
        request_id = live_request.request.id
        if request_id in self.holding:
            self.holding.remove(request_id)
            self._uncount(live_request)
        queue, live_request.queue = live_request.queue, None
        if queue is None:
            return None
        if request_id in queue.pending:
            self._queued -= 1
            self._uncount(live_request)
        elif live_request.request.user:
            self.user_slots.end(live_request.request.user, queue.node_id, queue.model)
        queue.leave(live_request.request, now)
        self.queues.remove_if_idle(queue)
        return queue

    def has(self, live_request: LiveRequest) -> bool:
        """Whether the request is held or queued, so that it will be tried again."""
        queue, request_id = live_request.queue, live_request.request.id
        return request_id in self.holding or (queue is not None and request_id in queue.pending)

    def _count(self, live_request: LiveRequest) -> None:
        live_request.has_waited = True
        if live_request.request.user:
            self.user_slots.wait(live_request.request.user)
        own = self._usage_by_tenant.setdefault(live_request.request.tenant, _TenantUsage())
        own.requests += 1
        own.by_member[live_request.request.member] += 1
        own.size_bytes += live_request.request.size_bytes
        self._bytes += live_request.request.size_bytes

    def _uncount(self, live_request: LiveRequest) -> None:
        if live_request.request.user:
            self.user_slots.end_wait(live_request.request.user)
        own = self._usage_by_tenant[live_request.request.tenant]
        own.requests -= 1
        own.by_member[live_request.request.member] -= 1
        if not own.by_member[live_request.request.member]:
            del own.by_member[live_request.request.member]
        own.size_bytes -= live_request.request.size_bytes
        self._bytes -= live_request.request.size_bytes
        if not own.requests:
            del self._usage_by_tenant[live_request.request.tenant]

    def problems(self, live_requests: dict[RequestId, LiveRequest]) -> list[str]:
        """Violated invariants; empty if the state is consistent."""
        found: list[str] = []
        for queue in self.queues:
            found += [
                f"{r} runs but its state is {live_requests[r].state if r in live_requests else 'gone'}"
                for r in queue.in_flight
                if r not in live_requests or not live_requests[r].is_running
            ]
            found += [
                f"{r} is queued but not live"
                for r in queue.pending
                if r not in live_requests or not live_requests[r].is_waiting
            ]
            if queue.is_idle:
                found.append(f"idle queue {queue.node_id}:{queue.model} was not removed")
        waiting = [live_request for live_request in live_requests.values() if live_request.is_waiting]
        if len(waiting) != len(self):
            found.append(f"{len(waiting)} requests wait, but {len(self)} are counted")
        if sum(live_request.request.size_bytes for live_request in waiting) != self._bytes:
            found.append("the count of waiting bytes is wrong")
        if sum(own.requests for own in self._usage_by_tenant.values()) != len(waiting):
            found.append("the counts of the tenants are wrong")
        if any(len(queue.order or ()) != len(queue.pending) for queue in self.queues):
            found.append("the order of a queue does not have the requests that wait in it")
        return found


def _service_s(live_request: LiveRequest, node_id: NodeId) -> tuple[float, float, float]:
    """Seconds of load, prefill and decode that the policy expected on this node."""
    scored = (
        live_request.decision.scored[0] if live_request.decision is not None and live_request.decision.scored else None
    )
    if scored is None or not scored.expected_s or scored.node_id != node_id:
        return 0.0, 0.0, 0.0
    terms = scored.expected_s
    return terms["load"], terms["prefill"], terms["decode"]
