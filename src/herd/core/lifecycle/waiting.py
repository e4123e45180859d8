"""Where live requests are: running, queued for a node, or held for any node. Counts and bounds them; chooses no node.

The queues say who runs and who is next on each node; holding says who waits for a node at all. This is the one
place that moves a request between them, so that a request is never in two, and waiting bytes are never miscounted.
A tenant (whose key, else which app, else which machine) may fill a share of the places only, so that one flood leaves room.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from herd.core.lifecycle.holding import Holding, HoldingSettings
from herd.core.lifecycle.wait_estimate import WaitEstimate
from herd.core.state import refusals
from herd.core.state.fleet import ModelName, NodeId
from herd.core.state.live_request import LiveRequest
from herd.core.state.queues import Queue, Queues, Work
from herd.core.state.request import RequestId
from herd.errors import Refusal


@dataclass(slots=True)
class _TenantUsage:
    """What one tenant's waiting requests take."""

    places: int = 0
    size_bytes: int = 0


class Waiting:
    def __init__(self, settings: HoldingSettings) -> None:
        self.settings = settings
        self.queues = Queues()
        self.holding = Holding()
        self.wait_estimate = WaitEstimate()
        self._usage_by_tenant: dict[str, _TenantUsage] = {}
        self._bytes = 0
        self._queued = 0

    def __len__(self) -> int:
        """Requests that wait, queued or held."""
        return self._queued + len(self.holding)

    @property
    def has_queued(self) -> bool:
        return self._queued > 0

    def refusal_for(self, live: LiveRequest, at: float) -> Refusal | None:
        """What a request that would have to wait is told instead: that its tenant (429) or everybody (503) waits too much already."""
        settings, size_bytes = self.settings, live.request.size_bytes
        if len(self) >= settings.held_max or self._bytes + size_bytes > settings.held_max_bytes:
            return self.wait_estimate.timed(refusals.FULL, len(self), at)
        own = self._usage_by_tenant.get(live.request.tenant)
        if own is None or not live.request.tenant or live.has_waited or live.attempts:
            return None
        share = settings.tenant_share
        if len(self._usage_by_tenant) == 1:
            share = (1.0 + share) / 2.0  # alone: but whoever comes next must find a place
        places_max = max(1, math.ceil(share * settings.held_max))
        if own.places < places_max and own.size_bytes + size_bytes <= share * settings.held_max_bytes:
            return None
        return self.wait_estimate.timed(refusals.OVER_SHARE, own.places, at)

    def run(self, live: LiveRequest, node_id: NodeId, model: ModelName, at: float) -> Queue:
        """It occupies a slot from now on."""
        assert live.queue is None
        load_s, prefill_s, decode_s = _service_s(live, node_id)
        service_s = load_s + prefill_s + decode_s
        queue = live.queue = self.queues.queue(node_id, model)
        self.wait_estimate.started(at, is_contended=len(self) > 0)
        queue.run(live.request.id, live.request.tenant, Work(service_s, at, at + service_s, at + load_s, prefill_s))
        return queue

    def enqueue(self, live: LiveRequest, node_id: NodeId, model: ModelName) -> int:
        """It waits for this node; its position from 1."""
        assert live.queue is None
        live.queue = self.queues.queue(node_id, model)
        self._queued += 1
        self._count(live)
        return live.queue.enqueue(live.request.id, live.request.tenant, Work(sum(_service_s(live, node_id))))

    def hold(self, live: LiveRequest) -> int:
        """It waits for any node; its position from 1 among those that wait for the same."""
        assert live.queue is None
        self._count(live)
        conditions = (live.models, live.request.needs, live.tried, live.request.kind, live.request.only_node)
        return self.holding.add(live.request.id, live.request.tenant, conditions)

    def leave(self, live: LiveRequest) -> Queue | None:
        """Takes it out of wherever it is. Returns the queue it was in, which may have a free slot now."""
        request_id = live.request.id
        if request_id in self.holding:
            self.holding.remove(request_id)
            self._uncount(live)
        queue, live.queue = live.queue, None
        if queue is None:
            return None
        if request_id in queue.pending:
            self._queued -= 1
            self._uncount(live)
        queue.leave(request_id)
        self.queues.tidy(queue)
        return queue

    def _count(self, live: LiveRequest) -> None:
        live.has_waited = True
        own = self._usage_by_tenant.setdefault(live.request.tenant, _TenantUsage())
        own.places += 1
        own.size_bytes += live.request.size_bytes
        self._bytes += live.request.size_bytes

    def _uncount(self, live: LiveRequest) -> None:
        own = self._usage_by_tenant[live.request.tenant]
        own.places -= 1
        own.size_bytes -= live.request.size_bytes
        self._bytes -= live.request.size_bytes
        if not own.places:
            del self._usage_by_tenant[live.request.tenant]

    def problems(self, live: dict[RequestId, LiveRequest]) -> list[str]:
        """What is wrong with the books; empty when all is well. Asked by tests after every event."""
        found: list[str] = []
        for queue in self.queues:
            found += [
                f"{r} runs but is {live[r].state if r in live else 'gone'}"
                for r in queue.in_flight
                if r not in live or not live[r].is_running
            ]
            found += [f"{r} queues but is gone" for r in queue.pending if r not in live or not live[r].is_waiting]
            if queue.is_idle:
                found.append(f"idle queue {queue.node_id}:{queue.model} was kept")
        waiting = [one for one in live.values() if one.is_waiting]
        if len(waiting) != len(self):
            found.append(f"{len(waiting)} wait, {len(self)} counted")
        if sum(one.request.size_bytes for one in waiting) != self._bytes:
            found.append("waiting bytes are miscounted")
        if sum(own.places for own in self._usage_by_tenant.values()) != len(waiting):
            found.append("the tenants' places are miscounted")
        if any(len(queue.order or ()) != len(queue.pending) for queue in self.queues):
            found.append("a queue's line is not those who wait in it")
        return found


def _service_s(live: LiveRequest, node_id: NodeId) -> tuple[float, float, float]:
    """What the policy expected of this node without the wait: seconds of loading, reading and writing."""
    scored = live.decision.scored[0] if live.decision is not None and live.decision.scored else None
    if scored is None or not scored.expected_s or scored.node_id != node_id:
        return 0.0, 0.0, 0.0
    terms = scored.expected_s
    return terms["load"], terms["prefill"], terms["decode"]
