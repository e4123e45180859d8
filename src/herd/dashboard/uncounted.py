"""Says which older requests the figures lack: after an update all stored requests are counted again, newest first."""

from __future__ import annotations

from msgspec import Struct

from herd.text import number, percent


class Uncounted(Struct, frozen=True):
    """Stored requests that the figures do not include yet: `requests` that ended until `until_at`. `done` is the share
    of all stored requests that is counted, 0..1; `note` says this in a sentence."""

    requests: int
    until_at: float
    done: float
    note: str


def uncounted(requests: int, stored: int, until_at: float, until: str) -> Uncounted:
    """The remark about this many of `stored` requests; `until` is the time `until_at` in words."""
    done = min(max(1.0 - requests / max(stored, 1), 0.0), 1.0)
    note = (
        f"The figures do not include all requests before {until} yet: {number(requests, 'older request')} "
        f"{'is' if requests == 1 else 'are'} still being counted after an update ({percent(done)} done)."
    )
    return Uncounted(requests, until_at, round(done, 4), note)
