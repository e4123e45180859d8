"""Runs the commands as processes of their own, with piped output or on a terminal of a chosen size.

done = herd("status", url=fleet.url)                    # done.status, done.out, done.err
with Terminal("chat", "m", url=fleet.url) as screen:    # screen.until(">"); screen.type("hello\r")
"""

from __future__ import annotations

import os
import re
import selectors
import struct
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import herd as herd_package

SRC = Path(herd_package.__file__).resolve().parents[1]
"""Where these tests import herd from: every process that they start must be of the same form."""
PATIENCE_S = 60.0
"""A limit for failing tests; no passing test waits this long."""
ESCAPE = "\x1b"
CODES = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b[()][A-Z0-9]|\x1b[=>]")
IS_POSIX = os.name == "posix"

if sys.platform != "win32":
    import fcntl
    import pty
    import termios


@dataclass(frozen=True)
class Done:
    status: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment without this machine's settings, and without mDNS."""
    ours = ("FLEET_", "HERD_", "COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR")
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
    fixed = {
        "PYTHONPATH": str(SRC),
        "FLEET_ENV_FILE": os.devnull,
        "FLEET_MDNS": "false",
        "PYTHONUTF8": "1",
        "TERM": "xterm",
    }
    return {**inherited, **fixed, **(more or {})}


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "herd", *arguments]


def with_url(arguments: tuple[str, ...], url: str | None) -> tuple[str, ...]:
    return arguments if url is None else (*arguments, "--url", url)


def herd(
    *arguments: str,
    url: str | None = None,
    stdin: str = "",
    env: Mapping[str, str] | None = None,
    encoding: str = "utf-8",
) -> Done:
    """Runs a command to its end, with its output piped."""
    done = subprocess.run(
        command(*with_url(arguments, url)),
        input=stdin,
        capture_output=True,
        encoding=encoding,
        env=environment(env),
        timeout=PATIENCE_S,
    )
    return Done(done.returncode, done.stdout, done.stderr)


class Terminal:
    """A command on a terminal; the context manager stops it. `text` is its output so far, without control codes."""

    def __init__(self, *arguments: str, url: str | None = None, columns: int = 80, rows: int = 24) -> None:
        self.raw = ""
        self._arguments = with_url(arguments, url)
        self._size = struct.pack("HHHH", rows, columns, 0, 0)
        self._seen = 0

    @property
    def text(self) -> str:
        return CODES.sub("", self.raw)

    def __enter__(self) -> Terminal:
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, self._size)
        self.process = subprocess.Popen(
            command(*self._arguments),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=environment(),
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(theirs)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._ours)

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def until(self, pattern: str) -> str:
        """Reads until the pattern appears after the previous match; returns the text up to there."""
        deadline = time.monotonic() + PATIENCE_S
        while (found := re.search(pattern, self.text[self._seen :])) is None:
            assert self._read(deadline), f"the process ended, or printed nothing more, before {pattern!r}:\n{self.text}"
        matched = self.text[self._seen : self._seen + found.end()]
        self._seen += found.end()
        return matched

    def end(self) -> int:
        """Reads to the end; returns the exit status."""
        deadline = time.monotonic() + PATIENCE_S
        while self._read(deadline):
            pass
        return self.process.wait(PATIENCE_S)

    def _read(self, deadline: float) -> bool:
        """Whether more output arrived before the process closed its terminal or the deadline passed."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._ours, selectors.EVENT_READ)
            if not selector.select(max(0.0, deadline - time.monotonic())):
                return False
        try:
            data = os.read(self._ours, 65536)
        except OSError:
            # Linux reports the end of a terminal as an error.
            return False
        self.raw += data.decode("utf-8", "replace")
        return bool(data)
