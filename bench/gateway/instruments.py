"""Compiles and starts the stub engine and the load generator, and reads their results.

Both are in C because a measuring program must be several times faster than the measured one. herd itself contains no C.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.gateway.machine import BenchmarkError, running

HERE = Path(__file__).parent
COMPILE_MAX_S = 60.0
START_MAX_S = 5.0
CHUNKS = 64
PACE_MS = 10
STREAM_S = CHUNKS * PACE_MS / 1000
TOKEN = " grass"
"""The text of every chunk of the stub's streams."""
SENTENCE = "The herd moves as one body, yet each animal in it looks for its own grass and keeps an eye on the others. "
"""The stub's complete answers contain this sentence three times."""


@dataclass(frozen=True, slots=True)
class Tools:
    """The compiled programs."""

    stub: Path
    load: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """The result of one run of the load generator. Times are in microseconds and begin when the request is sent.

    The `all_` numbers include the warm-up; `reason` describes the first error.
    """

    answers: int
    seconds: float
    lines: int
    body_bytes: int
    all_answers: int
    all_lines: int
    errors: int
    stuck: int
    connects: int
    p50_us: int
    p99_us: int
    first_p50_us: int
    first_p99_us: int
    reason: str


def compiler() -> str | None:
    return shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")


def compiled() -> Tools:
    """Both programs, from the cache or newly compiled. Raises `BenchmarkError` without a C compiler."""
    cc = compiler()
    if cc is None:
        raise BenchmarkError("no C compiler (cc, gcc or clang) was found; install one, for example: apt install gcc")
    return Tools(_compiled(cc, HERE / "stub.c"), _compiled(cc, HERE / "load.c"))


def shared_library(name: str) -> Path:
    """A C file of this folder as a library. Raises `BenchmarkError` if it cannot be compiled."""
    return _compiled(compiler() or "cc", HERE / name, ".so", "-shared", "-fPIC")


def _compiled(cc: str, source: Path, suffix: str = "", *options: str) -> Path:
    digest = hashlib.sha256(source.read_bytes()).hexdigest()[:12]
    folder = HERE / ".cache"
    program = folder / f"{source.stem}-{digest}{suffix}"
    if program.exists():
        return program
    folder.mkdir(exist_ok=True)
    (folder / ".gitignore").write_text("*\n", "utf-8")
    with tempfile.TemporaryDirectory(dir=folder) as made:
        fresh = Path(made) / source.stem
        done = subprocess.run(
            [cc, "-O2", *options, "-o", str(fresh), str(source)],
            capture_output=True,
            text=True,
            timeout=COMPILE_MAX_S,
            check=False,
        )
        if done.returncode:
            raise BenchmarkError(
                f"{source.name} does not compile: {(done.stderr.strip().splitlines() or ['no reason given'])[0]}"
            )
        return fresh.replace(program)


@contextmanager
def stub(tools: Tools, core: int | None, folder: Path) -> Iterator[int]:
    """Runs a stub and yields its port."""
    log = folder / "stub.log"
    argv = [str(tools.stub), "--port", "0", "--chunks", str(CHUNKS), "--pace-ms", str(PACE_MS)]
    with running(argv, core, log) as process:
        until = time.monotonic() + START_MAX_S
        while time.monotonic() < until and process.poll() is None:
            printed = log.read_text("utf-8").split()
            if len(printed) >= 2 and printed[0] == "port":
                yield int(printed[1])
                return
            time.sleep(0.01)
        raise BenchmarkError(f"the stub did not start: {log.read_text('utf-8').strip()}")


@dataclass(frozen=True, slots=True)
class Load:
    """The load of one scenario. An answer is correct if it has `lines` line ends (0: the length of the first answer)
    and ends with `end`.
    """

    connections: int
    url_path: str
    body: dict[str, object]
    end: str
    lines: int = 0
    stagger_s: float = 0.0


def measured(tools: Tools, load: Load, port: int, seconds: float, warmup_s: float, folder: Path) -> Reading:
    """Runs the load generator against a port. Raises `BenchmarkError` if it fails or does not end in time."""
    body = folder / "body.json"
    body.write_text(json.dumps(load.body, separators=(",", ":")), "utf-8")
    options = {
        "--port": port,
        "--path": load.url_path,
        "--body": body,
        "--connections": load.connections,
        "--seconds": seconds,
        "--warmup-s": warmup_s,
        "--stagger-ms": load.stagger_s * 1000,
        "--lines": load.lines,
        "--tail": load.end,
    }
    argv = [str(tools.load), *(str(part) for option in options.items() for part in option)]
    time_max_s = load.stagger_s + warmup_s + seconds + 10.0
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=time_max_s, check=False)
    except subprocess.TimeoutExpired as error:
        raise BenchmarkError(f"the load generator did not end within {time_max_s:.0f} s") from error
    if done.returncode:
        raise BenchmarkError(f"the load generator failed: {done.stderr.strip()[:200]}")
    return read(done.stdout)


def read(line: str) -> Reading:
    """Parses the line that the load generator prints. Raises `BenchmarkError` if it is malformed."""
    try:
        return Reading(**json.loads(line))
    except (ValueError, TypeError) as error:
        raise BenchmarkError(f"the load generator printed something unexpected: {line[:100]!r}") from error
