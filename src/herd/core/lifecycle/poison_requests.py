"""Decides which requests crash engines, from how their attempts ended, and remembers them for ten minutes.

An engine that dies says nothing about the request that it processed: it may have run out of memory for another one, or
its owner stopped it. So several engines must have died at the same place of the same request. A crash counts in full if
the request was alone there and nothing else had failed there, else half. It counts more if the client itself chose how
the model runs: some values of `num_batch` or `num_thread` kill the process of every Ollama that gets them.
"""

from __future__ import annotations

from dataclasses import dataclass

from herd.bounded import BoundedDict
from herd.core.state.liveness import LivenessTracker
from herd.core.state.queues import Queues
from herd.core.state.request import Attempt, Failure, FailureKind

BLOCKED_S = 600.0
"""How long a request is refused, and how long evidence counts."""
FINGERPRINTS_MAX = 256
"""Most fingerprints; the oldest are dropped first."""
PROOF = 6
"""Weight at which a request is refused: three crashes that count in full."""
ALONE_WEIGHT = 2
COMPANY_WEIGHT = 1
OWN_OPTIONS_WEIGHT = 3
"""Two crashes with options of the client are proof, on one node or on two."""

_CRASHES = (FailureKind.RESET, FailureKind.CLOSED, FailureKind.MODEL_CRASHED)


def is_crash(failure: Failure) -> bool:
    """Whether the engine closed the connection, as it does when it dies, or says that its model has died."""
    return failure.kind in _CRASHES


def crash_weight(attempt: Attempt, failure: Failure, queues: Queues, liveness: LivenessTracker) -> int:
    """How much a crash says about the request. Called before the crash is counted against the node."""
    running = sum(len(queue.in_flight) for queue in queues.of_node(attempt.node_id).values())
    is_alone = attempt.is_alone and running <= 1
    if is_alone and failure.has_own_options:
        return OWN_OPTIONS_WEIGHT
    return ALONE_WEIGHT if is_alone and liveness.is_healthy(attempt.node_id, attempt.model) else COMPANY_WEIGHT


@dataclass(slots=True)
class _Evidence:
    place_bytes: int
    weight: int
    until: float


class PoisonRequests:
    """A fingerprint is a hash of the body, salted for each process; 0 means none."""

    def __init__(self) -> None:
        self._evidence = BoundedDict[int, _Evidence](FINGERPRINTS_MAX)

    def __len__(self) -> int:
        return len(self._evidence)

    def record_crash(self, fingerprint: int, place_bytes: int, weight: int, now: float) -> bool:
        """Adds a crash after `place_bytes` of the answer. Returns whether the request is now proven to cause it.

        After a crash at another place only that one counts: the request got past the place of the earlier ones.
        """
        if not fingerprint:
            return False
        known = self._evidence.get(fingerprint)
        if known is None or known.until <= now or known.place_bytes != place_bytes:
            known = _Evidence(place_bytes, 0, 0.0)
        known.weight += weight
        known.until = now + BLOCKED_S
        self._evidence[fingerprint] = known
        self._evidence.move_to_end(fingerprint)
        return known.weight >= PROOF

    def acquit(self, fingerprint: int) -> None:
        """An engine has answered the request."""
        self._evidence.pop(fingerprint, None)

    def blocked_s(self, fingerprint: int, now: float) -> float:
        """For how long the request is still refused; 0 if it is not."""
        for expired in [old for old, known in self._evidence.items() if known.until <= now]:
            del self._evidence[expired]
        known = self._evidence.get(fingerprint)
        return known.until - now if known is not None and known.weight >= PROOF else 0.0
