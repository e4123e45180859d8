"""Runs herd with a wall clock that another process can move: `python -m bench.faults.jumping_clock FILE serve ...`.

`time.time` adds the number of seconds in FILE, read at most every `READ_EVERY_S`. The monotonic clock stays as it is,
as on a machine whose clock is set. `datetime.now` is not moved; herd uses it only for names.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

READ_EVERY_S = 0.2


def move(file: Path) -> None:
    """Replaces `time.time` and `time.time_ns` in this process."""
    real_s, read_at, offset_s = time.time, float("-inf"), 0.0

    def moved_s() -> float:
        nonlocal read_at, offset_s
        now = time.monotonic()
        if now - read_at > READ_EVERY_S:
            read_at, offset_s = now, offset_in(file)
        return real_s() + offset_s

    time.time = moved_s
    time.time_ns = lambda: int(moved_s() * 1e9)


def offset_in(file: Path) -> float:
    try:
        return float(file.read_text("ascii"))
    except (OSError, ValueError):
        return 0.0


if __name__ == "__main__":
    move(Path(sys.argv.pop(1)))
    # herd's modules take the clock when they are imported.
    from herd.cli import herd

    sys.argv[0] = "herd"
    herd()
