"""Tests a coordinator without free file descriptors: it keeps running and accepts connections when some are closed."""

from __future__ import annotations

import contextlib
import shutil
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from fakes.child_process import Child, free_port, get_status, wait_until
from terminal import environment

FILES_MAX = 64
pytestmark = pytest.mark.skipif(
    shutil.which("bash") is None, reason="there is no bash here: A LIMIT ON OPEN FILES IS NOT TRIED"
)


@contextlib.contextmanager
def a_coordinator_with_few_files(folder: Path) -> Iterator[tuple[Child, int]]:
    port = free_port()
    serve = (
        f"ulimit -n {FILES_MAX}; exec {sys.executable} -m herd serve --host 127.0.0.1 --port {port} --data-dir {folder}"
    )
    child = Child(["bash", "-c", serve], {**environment(), "FLEET_MDNS": "false", "HOME": str(folder)})
    try:
        child.wait_for_get(port, "/health")
        yield child, port
    finally:
        child.stop()


def test_without_free_file_descriptors_it_waits_and_serves_again_later(tmp_path: Path) -> None:
    with a_coordinator_with_few_files(tmp_path) as (child, port):
        held = []
        for _ in range(FILES_MAX * 2):
            one = socket.socket()
            one.settimeout(0.2)
            with contextlib.suppress(OSError):
                one.connect(("127.0.0.1", port))
            held.append(one)
        wait_until(lambda: psutil.Process(child.pid).num_fds() >= FILES_MAX - 8, "no more files")
        assert child.is_running
        for one in held:
            one.close()
        wait_until(lambda: get_status(port, "/health") == 200, "an answer")
        assert child.is_running
