"""Tracks which nodes are online and which may be used: missing heartbeats, refused connections, repeated failures."""

from __future__ import annotations

from dataclasses import dataclass, field

from herd.bounded import BoundedDict
from herd.core.state.fleet import Fleet, Liveness, ModelName, Node, NodeId
from herd.core.state.request import Failure, FailureKind

PAIRS_MAX = 4096
"""Pairs of node and model whose failures are stored; the oldest are dropped first."""


@dataclass(frozen=True, slots=True)
class LivenessSettings:
    late_after_s: float = field(
        default=5.5,
        metadata={
            "env": "FLEET_HEARTBEAT_LATE",
            "help": "Seconds without a heartbeat before the coordinator asks the engines of a node that has requests "
            "whether they still answer. Agents send one every 5 s.",
        },
    )
    degraded_after_s: float = field(
        default=15.0,
        metadata={"env": "FLEET_HEARTBEAT_TIMEOUT", "help": "Seconds without a heartbeat before a node is degraded."},
    )
    offline_after_s: float = field(
        default=30.0,
        metadata={"env": "FLEET_HEARTBEAT_OFFLINE", "help": "Seconds without a heartbeat before a node is offline."},
    )
    forget_after_s: float = field(
        default=86400.0,
        metadata={
            "env": "FLEET_FORGET_NODE_AFTER",
            "help": "Seconds without a heartbeat before a node is removed from the list.",
        },
    )
    failures_max: int = field(
        default=3,
        metadata={
            "env": "FLEET_QUARANTINE_FAILURES",
            "help": "Failures of a model on a node, within a minute, before the pair is quarantined.",
        },
    )
    quarantine_s: float = field(
        default=15.0,
        metadata={
            "env": "FLEET_QUARANTINE_SECONDS",
            "help": "First quarantine time in seconds; it doubles each time, up to five minutes.",
        },
    )


RETURNS_ALLOWED = 1
"""A node that returns once gets requests at once; a node that returns again within five minutes is flapping."""
FLAP_WINDOW_S = 300.0
HEARTBEATS_TO_TRUST = 3
TRIAL_S = 10.0
TRIAL_MAX_S = 300.0
PROBE_S = 30.0
"""Longest time for which one request tests a quarantined model while no other request is sent there."""
UNAUTHORIZED_S = 60.0
CONFIRMED_AFTER_HEARTBEATS = 2
"""Heartbeats that must list an engine as usable after it has refused its key: the agent asks its engines between two
heartbeats, with the key, so the second one was certainly taken afterwards."""
REFUSED_AGAIN_S = 600.0
"""An engine that refuses again within this time lists its models without the key: its lists confirm nothing."""
BUSY_MAX_S = 60.0
"""Longest pause that an engine may request with Retry-After."""
UNREACHABLE_S = 1.0
UNREACHABLE_MAX_S = 30.0
QUARANTINE_MAX_S = 300.0
FAILURE_WINDOW_S = 60.0
PAUSE_GAP_S = 5.0
"""If the coordinator's process was paused this long, missing heartbeats say nothing about the nodes."""


@dataclass(slots=True)
class _Failures:
    failed_at: list[float] = field(default_factory=list)
    until: float = 0.0
    half_failures: int = 0
    quarantines: int = 0


@dataclass(slots=True)
class _RefusedKey:
    """What an engine's answers with 401 or 403 have shown."""

    at: float
    heartbeats: int = 0
    is_repeated: bool = False


class LivenessTracker:
    """Updates `Node.liveness`, `Node.unreachable_until` and the quarantine of pairs of node and model."""

    def __init__(self, settings: LivenessSettings) -> None:
        self.settings = settings
        self._records = BoundedDict[tuple[NodeId, ModelName], _Failures](PAIRS_MAX)
        self._refused_keys = BoundedDict[tuple[NodeId, str], _RefusedKey](PAIRS_MAX)
        """By node and the engine's URL."""

    def apply_heartbeat(self, node: Node, now: float) -> None:
        """Marks the node as online. After an absence it gets requests again, later each time within a few minutes."""
        if node.liveness is Liveness.OFFLINE:
            self.record_return(node, now)
        node.heartbeats_since_return += 1
        node.liveness = Liveness.ONLINE

    @staticmethod
    def record_return(node: Node, now: float) -> None:
        """The node is back, or its frozen engine answers again: it gets requests slowly, and later each time."""
        is_flapping = now - node.returned_at < FLAP_WINDOW_S
        node.returns = node.returns + 1 if is_flapping else 1
        node.returned_at, node.heartbeats_since_return = now, 0
        if node.returns > RETURNS_ALLOWED:
            node.untrusted_until = now + min(TRIAL_MAX_S, TRIAL_S * 2.0 ** (node.returns - RETURNS_ALLOWED - 1))

    def record_attempt(self, node: Node, model: ModelName, now: float) -> None:
        """The first attempt after a quarantine is a test: no other request is sent until its result is known."""
        record = self._records.get((node.id, model)) if self._records else None
        if record is not None and record.quarantines and record.until <= now:
            record.until = now + PROBE_S

    def reduce_penalty(self, node_id: NodeId, model: ModelName) -> None:
        """Halves the weight of the last failure, which the request probably caused: two of them count as one."""
        record = self._records.get((node_id, model))
        if record is None or not record.failed_at:
            return
        record.half_failures += 1
        if record.half_failures % 2:
            record.failed_at.pop()

    def is_healthy(self, node_id: NodeId, model: ModelName) -> bool:
        """Whether nothing has failed there since the last success."""
        return (node_id, model) not in self._records

    def clear_failures(self, node: Node) -> None:
        """Clears all failures of a node that has restarted."""
        node.unreachable_until, node.connect_failures = 0.0, 0
        node.unauthorized_until.clear()
        for pair in [p for p in self._records if p[0] == node.id]:
            del self._records[pair]

    def quarantined_until(self, node_id: NodeId, model: ModelName) -> float:
        if not self._records:
            return 0.0
        record = self._records.get((node_id, model))
        return record.until if record is not None else 0.0

    def record_success(self, node: Node, model: ModelName) -> None:
        node.unreachable_until = 0.0
        node.connect_failures = 0
        if self._records:
            self._records.pop((node.id, model), None)

    def record_failure(self, node: Node, model: ModelName, failure: Failure, now: float) -> None:
        """Counts a refused connection against the node, and any other failure against this model on the node."""
        if failure.kind is FailureKind.BUSY and failure.retry_after_s:
            self._pause(node.id, model, now + min(failure.retry_after_s, BUSY_MAX_S))
        if not failure.is_nodes_fault:
            return
        if failure.kind is FailureKind.CONNECT:
            self._count_refused_connection(node, now)
        elif failure.kind is FailureKind.UNAUTHORIZED:
            model_info = node.model_info(model)
            if model_info is not None:
                self._record_refused_key(node, model_info.engine.url, now)
        else:
            self._count_failure(node.id, model, now)

    def _record_refused_key(self, node: Node, url: str, now: float) -> None:
        node.unauthorized_until[url] = now + UNAUTHORIZED_S
        before = self._refused_keys.get((node.id, url))
        # Requests that ran at the same time are refused at the same time, and repeat nothing.
        was_confirmed = before is not None and before.heartbeats >= CONFIRMED_AFTER_HEARTBEATS
        is_repeated = before is not None and now - before.at < REFUSED_AGAIN_S and (was_confirmed or before.is_repeated)
        self._refused_keys[node.id, url] = _RefusedKey(now, is_repeated=is_repeated)

    def confirm_keys(self, node: Node) -> None:
        """Permits requests again to engines that the node's reports list as usable, before the minute is over."""
        if not node.unauthorized_until or node.report.connection_failures:
            return
        usable = {endpoint.url for endpoint in node.report.engines if not endpoint.problem}
        for url in usable & node.unauthorized_until.keys():
            refused = self._refused_keys.get((node.id, url))
            if refused is None:
                continue
            refused.heartbeats += 1
            if not refused.is_repeated and refused.heartbeats >= CONFIRMED_AFTER_HEARTBEATS:
                del node.unauthorized_until[url]

    def sweep(self, fleet: Fleet, now: float) -> list[Node]:
        """Returns the nodes that have just gone offline, and removes nodes that were away for long."""
        gone: list[Node] = []
        for node in list(fleet):
            silent_s = now - node.last_heartbeat_at
            if silent_s > self.settings.forget_after_s:
                fleet.forget(node.id)
            elif silent_s > self.settings.offline_after_s:
                if node.liveness is not Liveness.OFFLINE:
                    node.liveness = Liveness.OFFLINE
                    gone.append(node)
            elif silent_s > self.settings.degraded_after_s and node.liveness is Liveness.ONLINE:
                node.liveness = Liveness.DEGRADED
        return gone

    def process_was_paused(self, fleet: Fleet, gap_s: float) -> None:
        """The coordinator's process was paused for `gap_s`: that time does not count as missing heartbeats."""
        for node in fleet:
            node.last_heartbeat_at += gap_s

    @staticmethod
    def _count_refused_connection(node: Node, now: float) -> None:
        node.connect_failures += 1
        node.refused_at = now
        pause_s = min(UNREACHABLE_MAX_S, UNREACHABLE_S * 2.0 ** (node.connect_failures - 1))
        node.unreachable_until = now + pause_s

    def _pause(self, node_id: NodeId, model: ModelName, until: float) -> None:
        record = self._record(node_id, model)
        record.until = max(record.until, until)

    def _record(self, node_id: NodeId, model: ModelName) -> _Failures:
        return self._records.setdefault((node_id, model), _Failures())

    def _count_failure(self, node_id: NodeId, model: ModelName, now: float) -> None:
        record = self._record(node_id, model)
        record.failed_at = [t for t in record.failed_at if now - t < FAILURE_WINDOW_S] + [now]
        # After a first quarantine one more failure is enough.
        if len(record.failed_at) >= self.settings.failures_max or record.quarantines:
            record.until = now + min(QUARANTINE_MAX_S, self.settings.quarantine_s * 2.0**record.quarantines)
            record.quarantines += 1
            record.failed_at.clear()
