"""Starts each gateway in front of the stub, if it is installed."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import herd as herd_package
from bench.gateway.machine import BenchmarkError, running
from bench.gateway.probe import Answer, probe
from bench.gateway.scenarios import (
    CHUNK_PATHS,
    MODEL,
    OLLAMA,
    OLLAMA_MODELS,
    OPENAI,
    PACED_MODEL,
    SCENARIOS,
    TENS_MODEL,
    ApiPath,
)

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = Path(herd_package.__file__).resolve().parent
START_MAX_S = 20.0
STORED_MAX_S = 30.0
HEARTBEAT_EVERY_S = 2.0
SLOTS = 512
DATABASE = "latency.db"


@dataclass(frozen=True, slots=True)
class Assignment:
    """The stub, the CPU core and the folder for the files of a gateway."""

    stub_port: int
    core: int | None
    folder: Path


@dataclass(slots=True)
class Gateway:
    """A running gateway. `stored_traces` reads, at the end, how many requests it stored."""

    name: str
    version: str
    port: int
    paths: tuple[ApiPath, ...]
    pid: int | None = None
    stored_traces: Callable[[], dict[str, object]] = field(default=dict)


Start = Callable[[Assignment], AbstractContextManager[Gateway]]


@contextmanager
def direct(assigned: Assignment) -> Iterator[Gateway]:
    """No gateway: the maximum that stub and load generator reach together."""
    yield Gateway("direct", "", assigned.stub_port, (OPENAI, OLLAMA))


# --- nginx ---

NGINX = """
daemon off; worker_processes 1; worker_rlimit_nofile 8192; pid {folder}/pid; error_log {folder}/error.log error;
events {{ worker_connections 4096; }}
http {{
  access_log off; tcp_nodelay on; keepalive_timeout 600s; keepalive_requests 1000000000;
  client_body_temp_path {folder}/1; proxy_temp_path {folder}/2; fastcgi_temp_path {folder}/3;
  uwsgi_temp_path {folder}/4; scgi_temp_path {folder}/5;
  upstream stub {{ server 127.0.0.1:{stub_port}; keepalive 1024; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://stub; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
    }}
  }}
}}
"""


def nginx() -> Start | None:
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    return None if program is None else lambda assigned: _nginx(program, assigned)


@contextmanager
def _nginx(program: str, assigned: Assignment) -> Iterator[Gateway]:
    port = free_port()
    config = assigned.folder / "nginx.conf"
    config.write_text(NGINX.format(folder=assigned.folder, stub_port=assigned.stub_port, port=port), "utf-8")
    version = _first_line_of([program, "-v"]).rpartition("/")[2]
    log = assigned.folder / "log"
    with running([program, "-p", str(assigned.folder), "-c", str(config)], assigned.core, log) as process:
        _await_answer(port, process, log)
        yield Gateway("nginx", version, port, (OPENAI, OLLAMA), process.pid)


# --- sglang-router ---


def sglang(path: str | None) -> Start | None:
    program = shutil.which(path or "sglang-router")
    if program is None and path is None:
        beside = Path(sys.executable).with_name("sglang-router")
        program = str(beside) if beside.exists() else None
    if program is None and path is not None:
        raise BenchmarkError(f"there is no program {path}")
    return None if program is None else lambda assigned: _sglang(program, assigned)


@contextmanager
def _sglang(program: str, assigned: Assignment) -> Iterator[Gateway]:
    """The cheapest policy and the fewest log lines, for the least work per request."""
    port, metrics_port = free_port(), free_port()
    argv = [
        program,
        "launch",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--worker-urls",
        f"http://127.0.0.1:{assigned.stub_port}",
        "--policy",
        "round_robin",
        "--log-level",
        "error",
        "--prometheus-port",
        str(metrics_port),
    ]
    log = assigned.folder / "log"
    with running(argv, assigned.core, log) as process:
        _await_answer(port, process, log)
        version = _first_line_of([program, "--version"]).split(" ")[-1]
        yield Gateway("sglang-router", version, port, (OPENAI,), process.pid)


# --- herd ---


def herd() -> Start:
    return _herd


@contextmanager
def _herd(assigned: Assignment) -> Iterator[Gateway]:
    """With default settings: limits, routing and traces. Only mDNS is off, to stay invisible in the network."""
    port, data_dir = free_port(), assigned.folder / "data"
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("FLEET_")}
    sources = os.pathsep.join([str(PACKAGE.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    env = {
        **inherited,
        "FLEET_MDNS": "false",
        "FLEET_OPEN": "true",
        "FLEET_ENV_FILE": str(assigned.folder / "none.env"),
        "PYTHONPATH": sources,
    }
    argv = [
        sys.executable,
        "-m",
        "herd",
        "serve",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--data-dir",
        str(data_dir),
    ]
    log = assigned.folder / "log"
    with running(argv, assigned.core, log, env) as process, _nodes(port, assigned.stub_port):
        for path in (OPENAI, OLLAMA):
            if "x-fleet-node" not in _await_answer(port, process, log, path).headers:
                raise BenchmarkError("herd answered without X-Fleet-Node: the request was not routed")
        version = _first_line_of([sys.executable, "-m", "herd", "--version"], env).split(" ")[-1]
        yield Gateway("herd", version, port, CHUNK_PATHS, process.pid, lambda: _stored_traces(port, data_dir))


@contextmanager
def _nodes(port: int, stub_port: int) -> Iterator[None]:
    """Two nodes that send heartbeats as agents do. The stub is the OpenAI engine of one and the Ollama of the other."""
    reports = (openai_heartbeat(stub_port), ollama_heartbeat(stub_port))
    is_over = threading.Event()

    def report() -> None:
        wait_s = 0.05
        while not is_over.wait(wait_s):
            accepted = [_is_accepted(port, one) for one in reports]
            wait_s = HEARTBEAT_EVERY_S if all(accepted) else 0.05

    reporter = threading.Thread(target=report, daemon=True)
    reporter.start()
    try:
        yield
    finally:
        is_over.set()
        reporter.join(5.0)


def openai_heartbeat(stub_port: int) -> bytes:
    return heartbeat("bench-openai", "vllm", stub_port, [MODEL, PACED_MODEL, TENS_MODEL])


def ollama_heartbeat(stub_port: int) -> bytes:
    return heartbeat("bench-ollama", "ollama", stub_port, [f"{name}:latest" for name in OLLAMA_MODELS.values()])


def heartbeat(node: str, kind: str, stub_port: int, names: list[str]) -> bytes:
    """An idle machine of 64 GB with its models in memory."""
    loaded = {"size_bytes": 1 << 30, "context_tokens": 8192}
    engine = {
        "kind": kind,
        "url": f"http://127.0.0.1:{stub_port}",
        "version": "0.17.7",
        "slots": SLOTS,
        "models": [{"name": name, "size_bytes": 1 << 30, "loaded": loaded} for name in names],
    }
    own = {"boot_id": "bench", "os": "linux", "engines": [engine]}
    memory = {"total_gb": 64.0, "used_gb": 8.0, "available_gb": 56.0}
    return json.dumps({"node_id": node, "memory": memory, "herd": own}).encode()


def _is_accepted(port: int, report: bytes) -> bool:
    try:
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=5.0)) as connection:
            connection.request("POST", "/heartbeat", report, {"Content-Type": "application/json"})
            return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False


def _stored_traces(port: int, data_dir: Path) -> dict[str, object]:
    """The store's own counters once its queue is empty, and the number of rows by status."""
    until = time.monotonic() + STORED_MAX_S
    while True:
        store = dict(json.loads(_get(port, "/fleet/status"))["store"])
        if not store["waiting"] or time.monotonic() > until:
            break
        time.sleep(0.2)
    with closing(sqlite3.connect(f"file:{data_dir / DATABASE}?mode=ro", uri=True)) as database:
        rows = database.execute("SELECT status, count(*) FROM request_traces GROUP BY status").fetchall()
    return {"store": store, "rows": dict(rows)}


# --- all gateways ---


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _first_line_of(argv: list[str], env: dict[str, str] | None = None) -> str:
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=20, env=env, check=False)
    except subprocess.TimeoutExpired:
        return ""
    return ((done.stdout + done.stderr).strip().splitlines() or [""])[0] if not done.returncode else ""


def _get(port: int, path: str) -> bytes:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10.0)) as connection:
        connection.request("GET", path)
        return connection.getresponse().read()


def _await_answer(port: int, process: subprocess.Popen[bytes], log: Path, path: ApiPath = OPENAI) -> Answer:
    """Sends requests until one is answered correctly. Raises `BenchmarkError` after a timeout."""
    scenario = next(one for one in SCENARIOS if one.path is path and not one.is_stream)
    until = time.monotonic() + START_MAX_S
    problem = ""
    while time.monotonic() < until and process.poll() is None:
        try:
            return probe(port, scenario)
        except (OSError, http.client.HTTPException, BenchmarkError) as error:
            problem = str(error)
        time.sleep(0.1)
    lines = log.read_text("utf-8", "replace").strip().splitlines() or ["no output"]
    raise BenchmarkError(f"it did not start: {problem}; the last line of its output: {lines[-1]}")
