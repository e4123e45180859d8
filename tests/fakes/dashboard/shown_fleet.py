"""Starts a simulated fleet for browser tests and screenshots: four nodes, a week of history from a seed, and clients.

with shown_fleet() as shown:                        # shown.fleet.url; the nodes report once a second
    with shown.traffic(): ...                       # clients send requests until the end of the block
"""

from __future__ import annotations

import json
import math
import sqlite3
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from msgspec.structs import astuple

from fakes.clock import WallClock
from fakes.fleet import Fleet, Machine, running_fleet
from fakes.ollama.server import FakeModel, FakeOllama, FakeSettings
from herd import config
from herd.coordinator.settings import Settings
from herd.coordinator.settings_store import FILE_NAME, SettingsStore
from herd.coordinator.storage import node_history, trace_rows
from herd.core.state.fleet import GB, Capacity, Disk, Gpu

SEED = 11
HISTORY_HOURS = 9 * 24
BEAT_S = 1.0
POLL_S = 0.05
APPS = ("aider", "open-webui", "home-assistant", "notes-search")
MODELS = {
    "qwen3:8b": 5_200_000_000,
    "llama3.2:3b": 2_000_000_000,
    "nomic-embed-text:latest": 274_000_000,
    "qwen3:32b": 20_000_000_000,
}
PARAMETERS = {"qwen3:8b": "8.2B", "llama3.2:3b": "3.2B", "nomic-embed-text:latest": "137M", "qwen3:32b": "32.8B"}
SPEED = {"studio": 48.0, "gaming-pc": 92.0, "mini": 24.0, "attic": 11.0}


def week(seed: int) -> tuple[float | None, ...]:
    """The availability of a laptop: low by day on weekdays, high at night; a few hours without data."""
    rng = Random(seed)
    available = (
        0.25 if day < 5 and 9 <= hour < 18 else 0.6 if 7 <= hour < 23 else 0.95
        for day in range(7)
        for hour in range(24)
    )
    return tuple(
        None if rng.random() < 0.03 else round(min(1.0, max(0.0, share + rng.uniform(-0.12, 0.12))), 2)
        for share in available
    )


MACHINES = {
    "studio": Machine(
        64,
        41,
        more={
            "os": "macos",
            "chip": "Apple M3 Max",
            "cores": 16,
            "cpu_utilization": 31.0,
            "temperature_c": 52.0,
            "thermal_state": "nominal",
            "agent_version": "0.1.0",
            "disk": Disk(994 * GB, 784 * GB, 210 * GB),
            "lan_ip": "192.168.1.20",
        },
    ),
    "gaming-pc": Machine(
        32,
        9,
        more={
            "os": "linux",
            "chip": "AMD Ryzen 7 7800X3D",
            "cores": 16,
            "cpu_utilization": 12.0,
            "temperature_c": 61.0,
            "thermal_state": "nominal",
            "agent_version": "0.1.0",
            "disk": Disk(1000 * GB, 640 * GB, 360 * GB),
            "lan_ip": "192.168.1.31",
            "gpus": (Gpu("NVIDIA GeForce RTX 4090", 24 * GB, 15 * GB, 71.0, 66.0),),
        },
    ),
    "mini": Machine(
        16,
        8,
        more={
            "os": "macos",
            "chip": "Apple M2",
            "cores": 8,
            "cpu_utilization": 22.0,
            "temperature_c": 44.0,
            "thermal_state": "nominal",
            "agent_version": "0.1.0",
            "disk": Disk(245 * GB, 180 * GB, 65 * GB),
            "lan_ip": "192.168.1.22",
            "capacity": Capacity(
                mode="learned_medium",
                ceiling_bytes=12 * GB,
                score=0.72,
                trend="rising",
                reason="quiet at this hour",
                paused=False,
                override_active=False,
                learning_confidence=0.8,
                days_observed=21,
                week=week(3),
            ),
        },
    ),
    "attic": Machine(
        16,
        3,
        more={
            "os": "linux",
            "chip": "Intel Core i5-8500",
            "cores": 6,
            "cpu_utilization": 6.0,
            "temperature_c": 39.0,
            "thermal_state": "nominal",
            "agent_version": "0.1.0",
            "disk": Disk(480 * GB, 471 * GB, 9 * GB),
            "lan_ip": "192.168.1.40",
        },
    ),
}
HELD = {
    "studio": ("qwen3:8b", "qwen3:32b", "nomic-embed-text:latest"),
    "gaming-pc": ("qwen3:8b", "llama3.2:3b"),
    "mini": ("llama3.2:3b", "nomic-embed-text:latest"),
    "attic": ("llama3.2:3b",),
}
ANSWER = (
    "A herd is a group of animals that live, feed and move together. Each animal is safer in a group: more eyes see a "
    "danger sooner, and one animal among many is rarely the one that is caught. Most herds have no single leader. An "
    "animal that knows the way to water goes first and the others follow; at the next crossing another one may lead. "
    "So the group finds more than any of its members would find alone, without a plan."
)
SLOTS = {"studio": 4, "gaming-pc": 4, "mini": 2, "attic": 1}


@dataclass
class ShownFleet:
    fleet: Fleet
    engines: dict[str, FakeOllama]
    _ended: threading.Event = field(default_factory=threading.Event)

    def ask(self, model: str, app: str, text: str) -> None:
        """Sends one chat request and reads the answer. Errors are ignored: they are part of the simulation."""
        body = json.dumps({"model": model, "messages": [{"role": "user", "content": text}]}).encode()
        request = urllib.request.Request(
            f"{self.fleet.url}/api/chat", body, {"Content-Type": "application/json", "X-Herd-Tags": app}
        )
        with suppress(urllib.error.URLError, OSError), urllib.request.urlopen(request, timeout=60) as answer:
            answer.read()

    def benchmark(self, *nodes: str) -> None:
        """Runs a benchmark on these nodes to its end. Other requests at the same time would pause it."""
        self.fleet.ask(
            "POST",
            "/dashboard/api/benchmarks/start",
            json.dumps({"models": [], "nodes": nodes, "dry_run": False}).encode(),
        )
        while self.fleet.get("/dashboard/api/benchmarks/progress")["state"] == "running":
            time.sleep(POLL_S)

    @contextmanager
    def traffic(self, clients: int = 7) -> Iterator[None]:
        """Runs `clients` clients until the end of the block; each sends one request after the other."""
        ended = threading.Event()

        def client(number: int) -> None:
            rng = Random(SEED + number)
            while not ended.is_set():
                self.ask(
                    rng.choice(("qwen3:8b", "qwen3:8b", "llama3.2:3b")),
                    rng.choice(APPS),
                    f"question {rng.randrange(10**6)}",
                )

        threads = [threading.Thread(target=client, args=(number,), daemon=True) for number in range(clients)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            ended.set()
            for thread in threads:
                thread.join()


@contextmanager
def shown_fleet(is_slow: bool = True, history_hours: int = HISTORY_HOURS) -> Iterator[ShownFleet]:
    """With `is_slow` the nodes answer at realistic speed, else immediately."""
    with TemporaryDirectory(prefix="herd-shown-") as folder, ExitStack() as stack:
        home = Path(folder)
        with running_fleet({}, data_dir=home):
            pass
        write_history(home / "latency.db", history_hours)
        engines = {name: stack.enter_context(_engine(name, is_slow)) for name in MACHINES}
        fleet = stack.enter_context(
            running_fleet(engines, MACHINES, data_dir=home, settings_store=a_settings_store(home))
        )
        shown = ShownFleet(fleet, engines)
        stack.enter_context(_beating(shown))
        yield shown


def a_settings_store(folder: Path) -> SettingsStore:
    """A settings store like that of `herd`, which ignores the environment of this machine."""
    return SettingsStore(
        lambda here: config.load(
            config.parts_of(Settings), {"FLEET_DATA_DIR": "/var/lib/herd"}, None, None, dashboard=here
        ),
        folder / FILE_NAME,
    )


def _engine(name: str, is_slow: bool) -> FakeOllama:
    models = [
        FakeModel(
            name=model,
            size_bytes=MODELS[model],
            capabilities=("embedding",) if "embed" in model else ("completion", "tools"),
            context_train=32768,
            parameter_size=PARAMETERS[model],
            quantization="Q4_K_M",
            answer=ANSWER if is_slow else None,
            answer_tokens=8,
            load_s=1.0,
        )
        for model in HELD[name]
    ]
    speed = FakeSettings(
        num_parallel=SLOTS[name],
        context_length=8192,
        on_gpu=name != "attic",
        tokens_per_s=SPEED[name] if is_slow else 0.0,
    )
    return FakeOllama(models, speed, WallClock() if is_slow else None)


@contextmanager
def _beating(shown: ShownFleet) -> Iterator[None]:
    """Sends heartbeats until the end of the block."""
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(BEAT_S):
            with suppress(OSError, AssertionError):
                shown.fleet.beat()

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


# --- history ---


def write_history(path: Path, hours: int) -> None:
    """Writes traces and node states of the last `hours` hours into the database."""
    rng, now = Random(SEED), time.time()
    with sqlite3.connect(path) as database:
        for hour in range(hours, 0, -1):
            begin = now - hour * 3600
            clock = time.localtime(begin).tm_hour
            for _ in range(int(6 + 90 * max(0.0, math.sin((clock - 6) / 18 * math.pi)) + rng.random() * 20)):
                database.execute(trace_rows.INSERT_TRACE, astuple(_trace(rng, begin + rng.random() * 3600)))
        database.commit()
        node_history.insert_history(
            database,
            [*_stays(rng, now, hours)],
            [
                node_history.FleetEvent(now - 5 * 3600, "node_joined", "attic joined"),
                node_history.FleetEvent(now - 2.2 * 3600, "settings", "FLEET_FALLBACK was changed"),
            ],
        )


def _stays(rng: Random, now: float, hours: int) -> Iterator[node_history.StateInterval]:
    for name in MACHINES:
        for minute in range(hours * 60, 0, -10):
            if name == "attic" and minute > 5 * 60:
                continue
            is_away = name == "gaming-pc" and time.localtime(now - minute * 60).tm_hour in (2, 3, 4, 5)
            is_paused = name == "mini" and rng.random() < 0.06
            state = "gone" if is_away else "yielding" if is_paused else "degraded" if rng.random() < 0.004 else "online"
            yield node_history.StateInterval(now - minute * 60, name, state, 600.0, SLOTS[name])


def _trace(rng: Random, at: float) -> trace_rows.TraceRow:
    app = rng.choices(APPS, (5, 4, 2, 1))[0]
    model = (
        "nomic-embed-text:latest"
        if app == "notes-search"
        else rng.choices(("qwen3:8b", "llama3.2:3b", "qwen3:32b"), (6, 3, 1))[0]
    )
    node = rng.choice([name for name, held in HELD.items() if model in held])
    status = rng.choices(("completed", "failed", "client_cancelled", "rejected"), (9900, 12, 60, 8))[0]
    prompt, completion = (
        int(rng.lognormvariate(6.0, 0.8)),
        int(rng.lognormvariate(4.6, 0.7)) if status == "completed" else 0,
    )
    held, load = ((rng.expovariate(1 / 500) if rng.random() < 0.08 else 0.0), (2400.0 if rng.random() < 0.006 else 0.0))
    prefill, decode = prompt / SPEED[node] * 45, completion / SPEED[node] * 1000
    first, attempt = held + load + prefill + 12, load + prefill + decode + 12
    return trace_rows.TraceRow(
        request_id=f"r5eed00-{rng.randrange(16**8):x}",
        model=model,
        original_model=model,
        node_id=node,
        score=60.0,
        scores_breakdown=None,
        status=status,
        latency_ms=held + attempt,
        time_to_first_token_ms=first,
        prompt_tokens=prompt,
        completion_tokens=completion,
        retry_count=int(status == "failed"),
        fallback_used=0,
        excluded_nodes=None,
        client_ip="192.168.1.7",
        original_format="ollama",
        error_message="the engine did not answer" if status == "failed" else None,
        timestamp=at,
        tags=json.dumps([app]),
        finish_reason="stop" if status == "completed" else None,
        estimated_tokens=int(prompt * 1.05),
        kind="embed" if "embed" in model else "chat",
        stream=1,
        attempt=1,
        attempt_ms=attempt,
        held_ms=held,
        cached_tokens=0,
        load_ms=load,
        prefill_ms=prefill,
        decode_ms=decode,
        size_bytes=prompt * 4,
        failure=None,
        policy="completion_time",
        candidates=None,
        key_id=None,
        truncated=0,
        without_effect=None,
        repairs=None,
        user_id=None,
        app_name=None,
    )
