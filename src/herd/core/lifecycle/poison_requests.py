"""Remembers requests that seem to crash nodes, by a fingerprint, for ten minutes."""

from __future__ import annotations

from herd.bounded import BoundedDict

BLOCKED_S = 600.0
FINGERPRINTS_MAX = 256
"""Most fingerprints; the oldest are dropped first."""


class PoisonRequests:
    """A fingerprint is a hash of the body, salted for each process; 0 means none."""

    def __init__(self) -> None:
        self._until = BoundedDict[int, float](FINGERPRINTS_MAX)

    def __len__(self) -> int:
        return len(self._until)

    def suspect(self, fingerprint: int, now: float) -> None:
        """Remembers a request at which two nodes closed the connection before a first byte."""
        if not fingerprint:
            return
        self._until[fingerprint] = now + BLOCKED_S
        self._until.move_to_end(fingerprint)

    def is_suspected(self, fingerprint: int, now: float) -> bool:
        for expired in [old for old, until in self._until.items() if until <= now]:
            del self._until[expired]
        return fingerprint in self._until
