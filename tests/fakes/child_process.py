"""Runs a server as a child process: starts it on a free port, waits for it, and stops it reliably.

It polls the server until a time limit and does not assume a start time.
"""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO

START_LIMIT_S = 60.0
POLL_EVERY_S = 0.01
END_LIMIT_S = 10.0


class DidNotStart(Exception):
    """The process ended, or did not answer in time. The message contains the end of its output."""


def free_port() -> int:
    """A port of 127.0.0.1 that is free at the time of the call."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def get_status(port: int, path: str, timeout_s: float = 2.0) -> int:
    """The status of one GET request; 0 without an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()


def wait_until(ready: Callable[[], bool], what: str, limit_s: float = START_LIMIT_S) -> None:
    """Returns as soon as `ready()` is true. Raises `TimeoutError` with `what`."""
    deadline = time.monotonic() + limit_s
    while not ready():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not happen within {limit_s} s")
        time.sleep(POLL_EVERY_S)


class Child:
    """One process; a context manager that stops it on exit."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        self._output: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by stop()
        self._process = subprocess.Popen(
            list(command),
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            cwd=Path(tempfile.gettempdir()),
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    @property
    def returncode(self) -> int | None:
        return self._process.poll()

    def output(self) -> str:
        """Its output so far. The process shares the file's position, so it is read without a move of it."""
        number = self._output.fileno()
        return os.pread(number, os.fstat(number).st_size, 0).decode(errors="replace")

    def wait_for_get(self, port: int, path: str, limit_s: float = START_LIMIT_S) -> None:
        """Returns when GET `path` answers 200. Raises `DidNotStart`."""

        def answered() -> bool:
            if not self.is_running:
                raise DidNotStart(f"ended with {self.returncode}: {self.output()[-2000:]}")
            return get_status(port, path) == 200

        try:
            wait_until(answered, f"GET {path} on port {port}", limit_s)
        except TimeoutError as why:
            raise DidNotStart(f"{why}: {self.output()[-2000:]}") from why

    def kill(self) -> None:
        """Sends SIGKILL and waits until the process has ended and its sockets are closed."""
        self._process.kill()
        self._process.wait(END_LIMIT_S)

    def freeze(self) -> None:
        """Sends SIGSTOP and waits until it is stopped: the kernel still accepts connections, but nothing answers."""
        self._process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WNOWAIT)

    def thaw(self) -> None:
        """Sends SIGCONT."""
        self._process.send_signal(signal.SIGCONT)

    def terminate(self) -> None:
        """Sends SIGTERM without waiting."""
        self._process.terminate()

    def wait(self, limit_s: float = END_LIMIT_S) -> int:
        """Waits for the end and returns the exit status. Raises `subprocess.TimeoutExpired`."""
        return self._process.wait(limit_s)

    def stop(self) -> None:
        """Sends SIGTERM, and SIGKILL if the process does not end in time."""
        if self.is_running:
            self._process.terminate()
            try:
                self._process.wait(END_LIMIT_S)
            except subprocess.TimeoutExpired:
                self.kill()
        self._output.close()

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
