"""Builds snapshots for the health checks: a healthy fleet, and changes to it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from builders import a_model_info, a_report, an_engine
from herd.core.state.fleet import GB, Disk, Gpu, Liveness, Loaded, Memory, Pressure, Report, canonical
from herd.health.snapshot import SAMPLE_EVERY_S, ModelTraffic, NodeNow, NodeSample, Snapshot, StoreNow, Traffic

AT = 1_795_448_000.0
VERSION = "0.1.0"


def a_sample(number: int = 0, **more: Any) -> NodeSample:
    """`number` counts sampling intervals back from now."""
    plain: dict[str, Any] = {
        "at": AT - number * SAMPLE_EVERY_S,
        "liveness": Liveness.ONLINE,
        "pressure": Pressure.NORMAL,
        "swap_used_bytes": 0,
        "disk_free_bytes": 200 * GB,
        "is_hot": False,
        "loaded": frozenset({canonical("m")}),
    }
    return NodeSample(**{**plain, **more})


def an_hour(**more: Any) -> tuple[NodeSample, ...]:
    return tuple(a_sample(number, **more) for number in reversed(range(240)))


def a_healthy_report(node_id: str = "alpha", **more: Any) -> Report:
    plain: dict[str, Any] = {
        "agent_version": VERSION,
        "os": "linux",
        "disk": Disk(500 * GB, 300 * GB, 200 * GB),
        "gpus": (Gpu("RTX 4090", 24 * GB, 3 * GB),),
        "thermal_state": "nominal",
        "temperature_c": 50.0,
        "lan_ip": "192.168.1.20",
        "engines": (an_engine(2),),
    }
    model_info = a_model_info("m", 2.0, loaded=True, digest="sha256:aa", kv_bytes_per_token=100_000, slots=2)
    in_memory = Loaded(int(2.5 * GB), 4096, int(2.5 * GB))
    models = more.pop("models", (replace(model_info, loaded=in_memory),))
    return a_report(node_id, models, **{**plain, **more})


def a_node(node_id: str = "alpha", report: Report | None = None, **more: Any) -> NodeNow:
    plain: dict[str, Any] = {
        "liveness": Liveness.ONLINE,
        "silent_s": 2.0,
        "running": 1,
        "clock_ahead_s": 0.02,
        "samples": an_hour(),
    }
    return NodeNow(report=report or a_healthy_report(node_id), **{**plain, **more})


def a_pair(node_id: str = "alpha", **more: Any) -> ModelTraffic:
    plain: dict[str, Any] = {
        "requests": 100,
        "completed": 99,
        "failed": 1,
        "retried": 1,
        "cold_loads": 1,
        "load_s": 2.0,
        "prompt_tokens_max": 1800,
        "busy_s": 200.0,
        "waited_s": 3.0,
        "link_s": 0.01,
        "link_count": 90,
    }
    return ModelTraffic(node_id=a_report(node_id).node_id, model=canonical(more.pop("model", "m")), **{**plain, **more})


def a_snapshot(*nodes: NodeNow, pairs: tuple[ModelTraffic, ...] | None = None, **more: Any) -> Snapshot:
    """A healthy fleet: two nodes that share the load."""
    pairs = (a_pair("alpha"), a_pair("beta")) if pairs is None else pairs
    traffic = more.pop("traffic", Traffic(pairs, sum(pair.requests for pair in pairs)))
    plain: dict[str, Any] = {
        "store": StoreNow(free_bytes=100 * GB),
        "pinned": {a_report("alpha").node_id: (canonical("m"),)},
    }
    return Snapshot(
        at=AT, version=VERSION, nodes=nodes or (a_node("alpha"), a_node("beta")), traffic=traffic, **{**plain, **more}
    )


def a_memory(available_gb: float = 20.0, pressure: Pressure = Pressure.NORMAL, swap_gb: float = 0.0) -> Memory:
    return Memory(
        total_bytes=32 * GB,
        used_bytes=int((32 - available_gb) * GB),
        available_bytes=int(available_gb * GB),
        pressure=pressure,
        swap_used_bytes=int(swap_gb * GB),
        swap_total_bytes=16 * GB,
    )
