"""Who is measured: starts each gateway in front of the stub, and says whether it is there. Measures nothing."""

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

from bench.gateway.machine import Trouble, running
from bench.gateway.scenarios import MODEL, PACED_MODEL, PATH, body

ROOT = Path(__file__).resolve().parents[2]
START_MAX_S = 40.0
BOOKS_MAX_S = 30.0
HEARTBEAT_EVERY_S = 2.0
SLOTS = 512
DATABASE = "latency.db"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a gateway is to run: before this stub, on this core, with this folder for its files."""

    stub_port: int
    core: int | None
    folder: Path


@dataclass(slots=True)
class Gateway:
    """One that runs. `books` reads, at the end, what it wrote down of the requests."""

    name: str
    version: str
    port: int
    pid: int | None = None
    books: Callable[[], dict[str, object]] = field(default=dict)


Start = Callable[[Place], AbstractContextManager[Gateway]]


@contextmanager
def direct(place: Place) -> Iterator[Gateway]:
    """Nobody in the middle: the most that stub and generator can do together."""
    yield Gateway("direct", "", place.stub_port)


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
    return None if program is None else lambda place: _nginx(program, place)


@contextmanager
def _nginx(program: str, place: Place) -> Iterator[Gateway]:
    port = free_port()
    config = place.folder / "nginx.conf"
    config.write_text(NGINX.format(folder=place.folder, stub_port=place.stub_port, port=port), "utf-8")
    version = _said([program, "-v"]).rpartition("/")[2]
    log = place.folder / "log"
    with running([program, "-p", str(place.folder), "-c", str(config)], place.core, log) as process:
        _await_answer(port, process, log)
        yield Gateway("nginx", version, port, process.pid)


# --- sglang-router ---


def sglang(path: str | None) -> Start | None:
    program = shutil.which(path or "sglang-router")
    if program is None and path is None:
        beside = Path(sys.executable).with_name("sglang-router")
        program = str(beside) if beside.exists() else None
    if program is None and path is not None:
        raise Trouble(f"there is no program {path}")
    return None if program is None else lambda place: _sglang(program, place)


@contextmanager
def _sglang(program: str, place: Place) -> Iterator[Gateway]:
    """The cheapest policy, and quiet: what it does per request is then least."""
    port, metrics_port = free_port(), free_port()
    argv = [
        program,
        "launch",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--worker-urls",
        f"http://127.0.0.1:{place.stub_port}",
        "--policy",
        "round_robin",
        "--log-level",
        "error",
        "--prometheus-port",
        str(metrics_port),
    ]
    log = place.folder / "log"
    with running(argv, place.core, log) as process:
        _await_answer(port, process, log)
        yield Gateway("sglang-router", _said([program, "--version"]).split(" ")[-1], port, process.pid)


# --- herd ---


def herd() -> Start:
    return _herd


@contextmanager
def _herd(place: Place) -> Iterator[Gateway]:
    """As it is installed: limits, routing and traces on. Only mDNS is off: this node is not for the neighbours."""
    port, data_dir = free_port(), place.folder / "data"
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FLEET_")}
    sources = os.pathsep.join([str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])])
    env = {
        **kept,
        "FLEET_MDNS": "false",
        "FLEET_OPEN": "true",
        "FLEET_ENV_FILE": str(place.folder / "none.env"),
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
    log = place.folder / "log"
    with running(argv, place.core, log, env) as process, _node(port, place.stub_port):
        answer = _await_answer(port, process, log)
        if answer.getheader("X-Fleet-Node") is None:
            raise Trouble("herd answered without X-Fleet-Node: the request was not routed")
        version = _said([sys.executable, "-m", "herd", "--version"], env).split(" ")[-1]
        yield Gateway("herd", version, port, process.pid, lambda: _books(port, data_dir))


@contextmanager
def _node(port: int, stub_port: int) -> Iterator[None]:
    """A node that reports every two seconds, as an agent would; the engine is the stub."""
    report = heartbeat(stub_port)
    is_over = threading.Event()

    def reporting() -> None:
        wait_s = 0.05
        while not is_over.wait(wait_s):
            wait_s = HEARTBEAT_EVERY_S if _is_accepted(port, report) else 0.05

    reporter = threading.Thread(target=reporting, daemon=True)
    reporter.start()
    try:
        yield
    finally:
        is_over.set()
        reporter.join(5.0)


def heartbeat(stub_port: int) -> bytes:
    """An idle machine of 64 GB with the two models of this benchmark in memory."""
    loaded = {"size_bytes": 1 << 30, "context_tokens": 8192}
    models = [{"name": f"{name}:latest", "size_bytes": 1 << 30, "loaded": loaded} for name in (MODEL, PACED_MODEL)]
    engine = {
        "kind": "ollama",
        "url": f"http://127.0.0.1:{stub_port}",
        "version": "0.17.7",
        "slots": SLOTS,
        "models": models,
    }
    own = {"boot_id": "bench", "os": "linux", "engines": [engine]}
    memory = {"total_gb": 64.0, "used_gb": 8.0, "available_gb": 56.0}
    return json.dumps({"node_id": "bench", "memory": memory, "herd": own}).encode()


def _is_accepted(port: int, report: bytes) -> bool:
    try:
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=5.0)) as connection:
            connection.request("POST", "/heartbeat", report, {"Content-Type": "application/json"})
            return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False


def _books(port: int, data_dir: Path) -> dict[str, object]:
    """What the store says of itself once nothing waits, and the rows that are really there, by status."""
    until = time.monotonic() + BOOKS_MAX_S
    while True:
        store = dict(json.loads(_get(port, "/fleet/status"))["store"])
        if not store["waiting"] or time.monotonic() > until:
            break
        time.sleep(0.2)
    with closing(sqlite3.connect(f"file:{data_dir / DATABASE}?mode=ro", uri=True)) as database:
        rows = database.execute("SELECT status, count(*) FROM request_traces GROUP BY status").fetchall()
    return {"store": store, "rows": dict(rows)}


# --- all of them ---


def free_port() -> int:
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        return int(door.getsockname()[1])


def _said(argv: list[str], env: dict[str, str] | None = None) -> str:
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=20, env=env, check=False)
    except subprocess.TimeoutExpired:
        return ""
    return ((done.stdout + done.stderr).strip().splitlines() or [""])[0] if not done.returncode else ""


def _get(port: int, path: str) -> bytes:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10.0)) as connection:
        connection.request("GET", path)
        return connection.getresponse().read()


def _await_answer(port: int, process: subprocess.Popen[bytes], log: Path) -> http.client.HTTPResponse:
    """Asks until a whole answer comes from the stub behind it."""
    question = json.dumps(body(MODEL, False)).encode()
    until = time.monotonic() + START_MAX_S
    while time.monotonic() < until and process.poll() is None:
        try:
            with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=5.0)) as connection:
                connection.request("POST", PATH, question, {"Content-Type": "application/json"})
                answer = connection.getresponse()
                if answer.status == 200 and answer.read().endswith(b'"whole"}'):
                    return answer
        except (OSError, http.client.HTTPException):
            pass
        time.sleep(0.1)
    raise Trouble(
        f"it did not start: {(log.read_text('utf-8', 'replace').strip().splitlines() or ['it said nothing'])[-1]}"
    )
