"""Finds or installs the real ollama-herd 0.11.4, and runs its agent.

It lives in an environment of its own, outside the repository, in the cache folder of the tests. Only a test run in CI
installs it; otherwise the tests that need it are skipped, with the command that installs it.
"""

from __future__ import annotations

import os
import subprocess
import venv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from fakes.child_process import Child
from fakes.llamacpp.tiny_gguf import cache_folder

VERSION = "0.11.4"
PACKAGE = f"ollama-herd=={VERSION}"
INSTALL_LIMIT_S = 600.0
_WRITE_A_MONTH = """
import asyncio, time
from fleet_manager.server.latency_store import LatencyStore
from fleet_manager.server.trace_store import TraceStore

ROWS = {rows}
real_time = time.time

async def write():
    traces, latencies = TraceStore("{folder}"), LatencyStore("{folder}")
    await traces.initialize()
    await latencies.initialize()
    started = real_time()
    for number in range(ROWS):
        at = started - (ROWS - number) * 900
        time.time = lambda: at
        failed = number % 50 == 7
        await traces.record_trace(
            f"req-{{number}}", "m:latest", "gone:latest" if number % 40 == 3 else "m:latest",
            ["alpha", "attic"][number % 2], 71.5, {{"thermal": 50.0, "queue_depth": -6.0}},
            "failed" if failed else "completed", 1000.0 + number % 100, 200.0, 300, None if failed else 120,
            number % 3 // 2, number % 40 == 3, ["attic"] if number % 3 == 2 else [], "192.168.1.7",
            ["ollama", "openai", "anthropic"][number % 3], "boom" if failed else None,
            ["app:notes", "user:ann"] if number % 5 else None, "length" if number % 9 == 0 else "stop", 310,
        )
        await latencies.record(["alpha", "attic"][number % 2], "m:latest", 1000.0 + number % 100, 120, 300, 120)
    time.time = real_time
    await traces.save_benchmark_run(dict(
        run_id="bench-1", duration_s=10.0, total_requests=20, total_failures=0, total_prompt_tokens=1000,
        total_completion_tokens=500, tokens_per_sec=50.0, per_node_results={{"alpha": {{"requests": 20}}}},
    ))
    await traces.save_briefing("All is well.", "m")
    await traces.close()
    await latencies.close()

asyncio.run(write())
"""
INSTALLED = "installed"
"""A file that is written last: pip writes the programs before it has written all packages."""


class Unavailable(Exception):
    """It is not installed. The message has the command that installs it."""


def folder() -> Path:
    return cache_folder().parent / f"ollama-herd-{VERSION}"


def is_installed() -> bool:
    return (folder() / INSTALLED).exists()


def find_or_install() -> Path:
    """The folder of its programs. Raises `Unavailable` if it is missing and this is not CI, or if pip fails."""
    programs = folder() / "bin"
    if not is_installed():
        if os.environ.get("CI", "").lower() != "true":
            command = f"python3 -m venv {folder()} && {programs}/pip install {PACKAGE} && touch {folder()}/{INSTALLED}"
            raise Unavailable(f"{PACKAGE} is not installed; to test with it: {command}")
        with _one_installation_at_a_time(folder()):
            if not is_installed():
                _install(folder())
    return programs


@contextmanager
def _one_installation_at_a_time(target: Path) -> Iterator[None]:
    """Each test process asks for the programs, and two of them must not write into one environment at once."""
    import fcntl  # noqa: PLC0415  # CI runs on Linux only; Windows has no such module.

    target.parent.mkdir(parents=True, exist_ok=True)
    with target.with_name(f"{target.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _install(target: Path) -> None:
    venv.create(target, with_pip=True)
    pip = [str(target / "bin/python"), "-m", "pip", "install", "--quiet", PACKAGE]
    done = subprocess.run(pip, capture_output=True, text=True, timeout=INSTALL_LIMIT_S, check=False)
    if done.returncode:
        raise Unavailable(f"{PACKAGE} cannot be installed: {done.stderr.strip()[-500:]}")
    (target / INSTALLED).touch()


def environment(home: Path, **more: str) -> dict[str, str]:
    """A home of its own, and no telemetry: by default this program reports to its makers."""
    return {
        "HOME": str(home),
        "FLEET_NODE_DATA_DIR": str(home / "data"),
        "FLEET_DATA_DIR": str(home / "data"),
        "FLEET_NODE_TELEMETRY": "false",
        "FLEET_TELEMETRY": "false",
        "COLUMNS": "200",
        **more,
    }


@contextmanager
def agent(
    programs: Path, home: Path, coordinator_url: str, ollama_url: str, options: Sequence[str] = ()
) -> Iterator[Child]:
    """Its `herd-node`, as the node `studio`, with a heartbeat five times per second."""
    command = [str(programs / "herd-node"), "--node-id", "studio", "--router-url", coordinator_url]
    settings = environment(home, FLEET_NODE_HEARTBEAT_INTERVAL="0.2", PYTHONUNBUFFERED="1")
    child = Child([*command, "--ollama-host", ollama_url, *options], settings)
    try:
        yield child
    finally:
        child.stop()


def run_python(programs: Path, home: Path, code: str) -> str:
    """What its own Python prints for this code. The code may use its public programs, but no copy of its source."""
    done = subprocess.run(
        [str(programs / "python"), "-c", code],
        env={**os.environ, **environment(home)},
        capture_output=True,
        text=True,
        timeout=INSTALL_LIMIT_S,
        check=True,
        cwd=home,
    )
    return done.stdout


def writing_a_month(folder: Path, rows: int) -> str:
    """Code for `run_python` that fills a trace database in this folder, with a request every quarter of an hour."""
    return _WRITE_A_MONTH.format(rows=rows, folder=folder)
