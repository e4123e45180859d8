"""Who is there and who may be trusted: silence, refused connections, models that keep failing. Chooses nobody."""

from __future__ import annotations

from dataclasses import dataclass, field

from herd.bounded import BoundedDict
from herd.core.state.fleet import Fleet, Liveness, ModelName, Node, NodeId
from herd.core.state.request import Failure, FailureKind

PAIRS_MAX = 4096
"""Pairs of node and model whose failures are remembered; the oldest go first."""


@dataclass(frozen=True, slots=True)
class LivenessSettings:
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


FLAPS_FORGIVEN = 1
"""A node that slept or was restarted once serves at once; one that goes again within five minutes is flapping."""
FLAP_WINDOW_S = 300.0
HEARTBEATS_TO_TRUST = 3
TRIAL_S = 10.0
TRIAL_MAX_S = 300.0
PROBE_S = 30.0
"""While one request tries whether a quarantined model answers again, nobody else is sent there; at most so long."""
UNAUTHORIZED_S = 60.0
BUSY_MAX_S = 60.0
"""No engine's wish to be left alone is honoured for longer."""
UNREACHABLE_S = 1.0
UNREACHABLE_MAX_S = 30.0
QUARANTINE_MAX_S = 300.0
FAILURE_WINDOW_S = 60.0
PAUSE_GAP_S = 5.0
"""If the coordinator itself slept this long, silence says nothing about the nodes."""


@dataclass(slots=True)
class _Record:
    failed_at: list[float] = field(default_factory=list)
    until: float = 0.0
    halves: int = 0
    spells: int = 0


class LivenessTracker:
    """Keeps `Node.liveness`, `Node.unreachable_until` and the quarantine of (node, model) up to date."""

    def __init__(self, settings: LivenessSettings) -> None:
        self.settings = settings
        self._records = BoundedDict[tuple[NodeId, ModelName], _Record](PAIRS_MAX)

    def apply_heartbeat(self, node: Node, at: float) -> None:
        """A heartbeat. After an absence the node is taken back, more slowly each time within a few minutes."""
        if node.liveness is Liveness.OFFLINE:
            is_flapping = at - node.returned_at < FLAP_WINDOW_S
            node.returns = node.returns + 1 if is_flapping else 1
            node.returned_at, node.heartbeats_since_return = at, 0
            if node.returns > FLAPS_FORGIVEN:
                node.untrusted_until = at + min(TRIAL_MAX_S, TRIAL_S * 2.0 ** (node.returns - FLAPS_FORGIVEN - 1))
        node.heartbeats_since_return += 1
        node.liveness = Liveness.ONLINE

    def tries(self, node: Node, model: ModelName, at: float) -> None:
        """A request is sent there. If the model was in quarantine this is the one that finds out: others wait for it."""
        record = self._records.get((node.id, model)) if self._records else None
        if record is not None and record.spells and record.until <= at:
            record.until = at + PROBE_S

    def reduce_penalty(self, node_id: NodeId, model: ModelName) -> None:
        """The last failure was probably the request's: it counts for half, so two of them make one."""
        record = self._records.get((node_id, model))
        if record is None or not record.failed_at:
            return
        record.halves += 1
        if record.halves % 2:
            record.failed_at.pop()

    def restarted(self, node: Node) -> None:
        """A new boot starts with a clean slate."""
        node.unreachable_until, node.connect_failures, node.unauthorized_until = 0.0, 0, 0.0
        for pair in [p for p in self._records if p[0] == node.id]:
            del self._records[pair]

    def quarantined_until(self, node_id: NodeId, model: ModelName) -> float:
        if not self._records:
            return 0.0
        record = self._records.get((node_id, model))
        return record.until if record is not None else 0.0

    def succeeded(self, node: Node, model: ModelName) -> None:
        node.unreachable_until = 0.0
        node.connect_failures = 0
        if self._records:
            self._records.pop((node.id, model), None)

    def failed(self, node: Node, model: ModelName, failure: Failure, at: float) -> None:
        """A refused connection speaks against the node, anything else against this model on it."""
        if failure.kind is FailureKind.BUSY and failure.retry_after_s:
            self._left_alone(node.id, model, at + min(failure.retry_after_s, BUSY_MAX_S))
        if not failure.is_nodes_fault:
            return
        if failure.kind is FailureKind.CONNECT:
            self._refused(node, at)
        elif failure.kind is FailureKind.UNAUTHORIZED:
            node.unauthorized_until = at + UNAUTHORIZED_S
        else:
            self._count(node.id, model, at)

    def sweep(self, fleet: Fleet, at: float) -> list[Node]:
        """Nodes that have just gone offline. Forgets those that stayed away for long."""
        gone: list[Node] = []
        for node in list(fleet):
            silent_s = at - node.last_heartbeat_at
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
        """The coordinator was stopped for `gap_s`: that is not the nodes' silence."""
        for node in fleet:
            node.last_heartbeat_at += gap_s

    @staticmethod
    def _refused(node: Node, at: float) -> None:
        node.connect_failures += 1
        node.refused_at = at
        pause_s = min(UNREACHABLE_MAX_S, UNREACHABLE_S * 2.0 ** (node.connect_failures - 1))
        node.unreachable_until = at + pause_s

    def _left_alone(self, node_id: NodeId, model: ModelName, until: float) -> None:
        record = self._record(node_id, model)
        record.until = max(record.until, until)

    def _record(self, node_id: NodeId, model: ModelName) -> _Record:
        return self._records.setdefault((node_id, model), _Record())

    def _count(self, node_id: NodeId, model: ModelName, at: float) -> None:
        record = self._record(node_id, model)
        record.failed_at = [t for t in record.failed_at if at - t < FAILURE_WINDOW_S] + [at]
        # After a first quarantine one more failure is enough: it was let back on trial.
        if len(record.failed_at) >= self.settings.failures_max or record.spells:
            record.until = at + min(QUARANTINE_MAX_S, self.settings.quarantine_s * 2.0**record.spells)
            record.spells += 1
            record.failed_at.clear()
