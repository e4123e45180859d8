"""The commands as people meet them: processes of their own, their output piped or on a terminal of a chosen size.

done = herd("status", url=fleet.url)                    # done.status, done.out, done.err
with Terminal("chat", "m", url=fleet.url) as screen:    # screen.until(">"); screen.type("hello\r")
"""

from __future__ import annotations

import os
import re
import select
import struct
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

SRC = Path(__file__).resolve().parents[1] / "src"
PATIENCE_S = 60.0
"""Only how long a failing test takes."""
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
    """Nothing of this machine's own settings; nothing is announced or searched on the network."""
    ours = ("FLEET_", "HERD_", "COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR")
    clean = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
    told = {
        "PYTHONPATH": str(SRC),
        "FLEET_ENV_FILE": os.devnull,
        "FLEET_MDNS": "false",
        "PYTHONUTF8": "1",
        "TERM": "xterm",
    }
    return {**clean, **told, **(more or {})}


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
    """Runs a verb with its output piped, to its end."""
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
    """A verb on a terminal; a context manager that ends it. `text` is what it wrote so far, without the codes."""

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
        """Reads until this appears behind what was already waited for; returns what was read up to there."""
        deadline = time.monotonic() + PATIENCE_S
        while (found := re.search(pattern, self.text[self._seen :])) is None:
            assert self._read(deadline), f"the process ended, or fell silent, before {pattern!r}:\n{self.text}"
        told = self.text[self._seen : self._seen + found.end()]
        self._seen += found.end()
        return told

    def end(self) -> int:
        """Reads to the end; the exit status."""
        deadline = time.monotonic() + PATIENCE_S
        while self._read(deadline):
            pass
        return self.process.wait(PATIENCE_S)

    def _read(self, deadline: float) -> bool:
        """Whether anything more came before the process closed its terminal or the time was over."""
        ready, _, _ = select.select([self._ours], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            return False
        try:
            data = os.read(self._ours, 65536)
        except OSError:
            # Linux tells the end of a terminal as an error.
            return False
        self.raw += data.decode("utf-8", "replace")
        return bool(data)
