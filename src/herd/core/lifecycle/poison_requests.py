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
        """Two nodes closed the connection at this request."""
        if not fingerprint:
            return
        self._until[fingerprint] = now + BLOCKED_S
        self._until.move_to_end(fingerprint)

    def is_suspected(self, fingerprint: int, now: float) -> bool:
        for old in [one for one, until in self._until.items() if until <= now]:
            del self._until[old]
        return fingerprint in self._until
