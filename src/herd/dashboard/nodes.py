"""Describes a node for the overview and the live messages: state and reason, hardware, load and models.

The memory of a node is the memory that models use: VRAM where the node has GPUs, else RAM.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from herd.core.state.fleet import Capacity, Gpu, Liveness, ModelInfo, ModelName, Node, Pressure
from herd.core.state.nodes.administration import Administration
from herd.core.state.queues import Queue
from herd.core.state.timestamps import unix_s
from herd.text import duration, number

NEVER_S = 365 * 86400.0
"""An engine that never unloads a model reports an expiry time centuries in the future."""
STATES = ("online", "busy", "degraded", "yielding", "paused", "asleep", "waking", "draining", "gone")
"""A node is in exactly one of these states; `why` in the node's card gives the reason. The pages show `yielding` as
paused for local use (`paused`: by an administrator), `waking` as recovering, and `gone` as offline."""


class MemoryBar(Struct, frozen=True):
    """`ceiling_bytes` is the limit for models: less than `total_bytes` where the owner reserves some."""

    total_bytes: int
    used_bytes: int
    ceiling_bytes: int
    pressure: str
    is_graphics: bool


class GpuCard(Struct, frozen=True):
    """A GPU."""

    name: str
    memory_total_bytes: int
    memory_used_bytes: int
    utilization_pct: float | None
    temperature_c: float | None


class LoadedModel(Struct, frozen=True, kw_only=True):
    """A loaded model. `unload_in_s` is None if the engine does not unload it or reports no time; `context_tokens`
    is its context window."""

    name: str
    engine: str
    size_bytes: int
    context_tokens: int | None
    unload_in_s: float | None
    running: int
    pending: int
    slots: int


class SharedCapacity(Struct, frozen=True):
    """How available the machine is now, on nodes that learn when the owner uses it; `score` is 0..1."""

    mode: str
    score: float
    trend: str
    reason: str
    confidence: float
    days_observed: int
    is_overridden: bool


class NodeCard(Struct, frozen=True, kw_only=True):
    """`why` is the reason for `state`. `availability` has a value 0..1 for each hour of the week from Monday 0:00 in
    the node's local time, None for hours without data; it is None on nodes that do not learn it. `heard_s` is the
    age of the last heartbeat. `duty` is `active`, or what an administrator has set at `duty_since` (Unix time)."""

    node_id: str
    state: str
    why: str
    heard_s: float
    address: str
    os: str
    arch: str
    chip: str
    agent_version: str
    engines: tuple[str, ...]
    cpu_pct: float
    memory: MemoryBar
    gpus: tuple[GpuCard, ...]
    disk_free_bytes: int | None
    disk_total_bytes: int | None
    thermal: str
    temperature_c: float | None
    running: int
    pending: int
    slots: int
    tokens_per_s: float
    models: tuple[LoadedModel, ...]
    models_on_disk: int
    loading: tuple[str, ...]
    lent: SharedCapacity | None
    availability: tuple[float | None, ...] | None
    labels: tuple[str, ...]
    memory_budget_bytes: int | None
    disk_budget_bytes: int | None
    models_disk_bytes: int
    duty: str
    duty_since: float | None


def node_card(
    node: Node, queues: Mapping[ModelName, Queue], now: float, unix_now: float, tokens_per_s: float = 0.0
) -> NodeCard:
    """`queues` are the node's queues; `now` is the core's clock, `unix_now` the same time in unix seconds."""
    report = node.report
    running = running_on(queues)
    slots = slots_of(node)
    state, why = state_of(node, running, slots, now)
    disk = report.disk
    return NodeCard(
        node_id=node.id,
        state=state,
        why=why,
        heard_s=round(max(0.0, now - node.last_heartbeat_at), 1),
        address=report.lan_ip,
        os=report.os,
        arch=report.arch,
        chip=report.chip,
        agent_version=report.agent_version,
        engines=tuple(f"{endpoint.kind} {endpoint.version}".strip() for endpoint in report.engines),
        cpu_pct=round(report.cpu_utilization, 1),
        memory=_memory(node),
        gpus=tuple(_gpu(gpu) for gpu in report.gpus),
        disk_free_bytes=disk.available_bytes if disk else None,
        disk_total_bytes=disk.total_bytes if disk else None,
        thermal=report.thermal_state,
        temperature_c=report.temperature_c,
        running=running,
        pending=sum(len(queue.pending) for queue in queues.values()),
        slots=slots,
        tokens_per_s=tokens_per_s,
        models=tuple(
            _loaded(node.report.models[name], queues.get(name), unix_now)
            for name in sorted(node.loaded)
            if name in report.models
        ),
        models_on_disk=len(report.models),
        loading=tuple(sorted(node.loading_until)),
        lent=_shared_capacity(report.capacity),
        availability=report.capacity.week if report.capacity else None,
        labels=tuple(sorted(report.all_labels)),
        memory_budget_bytes=report.budget.memory_bytes,
        disk_budget_bytes=report.budget.disk_bytes,
        models_disk_bytes=report.model_disk_bytes,
        duty=report.administration.duty.value,
        duty_since=report.administration.since_unix_s or None,
    )


def running_on(queues: Mapping[ModelName, Queue]) -> int:
    return sum(len(queue.in_flight) for queue in queues.values())


def slots_of(node: Node) -> int:
    """How many requests can run concurrently with the loaded models, or with one model if none is loaded."""
    of_loaded = sum(
        model_info.engine.slots
        for name, loaded in node.loaded.items()
        if not loaded.is_other_name and (model_info := node.model_info(name)) is not None
    )
    return of_loaded or max((endpoint.slots for endpoint in node.report.engines if not endpoint.problem), default=0)


def state_of(node: Node, running: int, slots: int, now: float) -> tuple[str, str]:
    """The most severe state that applies, and the reason."""
    report = node.report
    heartbeat_age = duration(max(0.0, now - node.last_heartbeat_at) * 1000)
    if node.liveness is Liveness.OFFLINE:
        return "gone", f"last heartbeat {heartbeat_age} ago"
    if not report.administration.is_active:
        return report.administration.duty.value, _administered(report.administration, running)
    if report.draining:
        return "draining", f"finishing {number(running, 'request')}, accepts no new ones"
    if report.is_paused:
        reason = report.capacity.reason.replace("_", " ") if report.capacity is not None else ""
        return "yielding", f"paused for local use{': ' + reason if reason else ''}"
    problem = _problem(node, heartbeat_age, now)
    if problem:
        return "degraded", problem
    if now < node.untrusted_until:
        return "waking", "online again after repeated outages; gets requests again when it has stayed online"
    if slots and running >= slots:
        return "busy", f"{running} of {number(slots, 'slot')} in use"
    return "online", f"{number(slots - running, 'slot')} free" if slots else "no inference engine responds"


def _administered(known: Administration, running: int) -> str:
    work = f"finishing {number(running, 'request')}" if running else "no request is running"
    return f"{work}; {known.duty.value} by {known.by}{': ' + known.reason if known.reason else ''}"


def _problem(node: Node, heartbeat_age: str, now: float) -> str:
    report = node.report
    if node.liveness is Liveness.DEGRADED:
        return f"no heartbeat for {heartbeat_age}"
    if now < node.unreachable_until:
        return f"connections fail; next attempt in {duration((node.unreachable_until - now) * 1000)}"
    if any(now < until for until in node.unauthorized_until.values()):
        return (
            "an engine answers 401 or 403: set FLEET_NODE_ENGINE_KEY on that machine, or check the engine's allow-list"
        )
    if report.memory.pressure is Pressure.CRITICAL:
        return "critically low on memory"
    if any(not endpoint.problem for endpoint in report.engines):
        return ""
    return next((endpoint.problem for endpoint in report.engines), "no inference engine responds")


def _memory(node: Node) -> MemoryBar:
    report = node.report
    total = report.gpu_memory_bytes or report.memory.total_bytes
    return MemoryBar(
        total, report.memory_used_bytes, report.memory_ceiling_bytes, report.memory.pressure.value, bool(report.gpus)
    )


def _gpu(gpu: Gpu) -> GpuCard:
    return GpuCard(gpu.name, gpu.memory_total_bytes, gpu.memory_used_bytes, gpu.utilization, gpu.temperature_c)


def _loaded(model_info: ModelInfo, queue: Queue | None, unix_now: float) -> LoadedModel:
    loaded = model_info.loaded
    assert loaded is not None
    ends_at = unix_s(loaded.expires_at) if loaded.expires_at else None
    left_s = None if ends_at is None or ends_at - unix_now > NEVER_S else round(max(0.0, ends_at - unix_now), 0)
    return LoadedModel(
        name=model_info.name,
        engine=model_info.engine.kind,
        size_bytes=loaded.size_bytes,
        context_tokens=loaded.window_tokens,
        unload_in_s=left_s,
        running=len(queue.in_flight) if queue else 0,
        pending=len(queue.pending) if queue else 0,
        slots=model_info.engine.slots,
    )


def _shared_capacity(capacity: Capacity | None) -> SharedCapacity | None:
    if capacity is None:
        return None
    return SharedCapacity(
        capacity.mode,
        capacity.score,
        capacity.trend,
        capacity.reason,
        capacity.learning_confidence,
        capacity.days_observed,
        capacity.override_active,
    )
