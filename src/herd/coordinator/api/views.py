"""Builds the parts of the answers of `/fleet/status` and `/fleet/queue` from the core's state."""

from __future__ import annotations

from herd.coordinator.queue_counts import QueueCount, QueueCounts
from herd.core.lifecycle.dispatcher import Dispatcher
from herd.core.lifecycle.queue_positions import QueuePosition, compute_positions
from herd.core.state.fleet import GB, Fleet, Liveness, ModelInfo, ModelName, Node, NodeId
from herd.core.state.live_request import LiveRequest, RequestState
from herd.core.state.nodes.budget import NO_BUDGET
from herd.core.state.request import Request, RequestId
from herd.dashboard.requests import node_of

Json = dict[str, object]
HOT_MODELS_UNKNOWN = 3
"""Models in memory at the same time on a node that reports no limit: the default of Ollama for one GPU."""
KEY_CHARACTERS_SHOWN = 8
"""A tenant that is a key is shown as "key " and the first characters of the key's id."""


def totals(dispatcher: Dispatcher) -> Json:
    fleet = dispatcher.fleet
    return {
        "nodes_total": len(fleet.nodes),
        "nodes_online": sum(node.liveness is not Liveness.OFFLINE for node in fleet),
        "models_loaded": sum(not loaded.is_other_name for node in fleet for loaded in node.loaded.values()),
        "requests_active": sum(live_request.is_running for live_request in dispatcher.live_requests.values()),
        "requests_waiting": len(dispatcher.waiting),
    }


def queues(dispatcher: Dispatcher) -> Json:
    """One entry per node and model with running or queued requests."""
    return {
        f"{queue.node_id}:{queue.model}": {
            "node_id": queue.node_id,
            "model": queue.model,
            "pending": len(queue.pending),
            "in_flight": len(queue.in_flight),
            "slots": _slots(dispatcher.fleet, queue.node_id, queue.model),
        }
        for queue in dispatcher.waiting.queues
    }


def queue_view(dispatcher: Dispatcher, now: float) -> Json:
    """`GET /fleet/queue`: every live request with its state, and why and how long it waits.

    The answer has no prompts, client addresses or keys.
    """
    live_requests = sorted(dispatcher.live_requests.values(), key=lambda live_request: live_request.arrived_at)
    positions = queue_positions(dispatcher, now)
    return {
        "requests": [
            _request_view(live_request, positions.get(live_request.request.id), now) for live_request in live_requests
        ],
        "waiting": len(dispatcher.waiting),
    }


def queue_totals(dispatcher: Dispatcher, counts: QueueCounts, timestamp: float) -> Json:
    """The keys that `GET /fleet/queue` has in ollama-herd, for clients that poll it before they send more."""
    live = dispatcher.live_requests.values()
    pending, in_flight = len(dispatcher.waiting), sum(live_request.is_running for live_request in live)
    running = {(queue.node_id, queue.model): queue for queue in dispatcher.waiting.queues}
    found: dict[str, Json] = {}
    for node_id, model in dict.fromkeys([*running, *counts.of_queue]):
        queue, count = running.get((node_id, model)), counts.of_queue.get((node_id, model)) or QueueCount()
        slots = _slots(dispatcher.fleet, node_id, model)
        found[f"{node_id}:{model}"] = {
            "pending": len(queue.pending) if queue is not None else 0,
            "in_flight": len(queue.in_flight) if queue is not None else 0,
            "concurrency": slots or 1,
            "model": model,
            "node_id": node_id,
            "backend": _engine_kind(dispatcher.fleet, node_id, model),
            "completed": count.completed,
            "failed": count.failed,
            "stats_samples": count.completed,
            "avg_latency_ms": count.mean(1000.0 * count.latency_s),
            "avg_prompt_tokens": count.mean(count.prompt_tokens),
            "avg_completion_tokens": count.mean(count.completion_tokens),
        }
    return {
        "queue_depth": pending + in_flight,
        "pending": pending,
        "in_flight": in_flight,
        "completed": sum(count.completed for count in counts.of_queue.values()),
        "failed": sum(count.failed for count in counts.of_queue.values()),
        "estimated_wait_ms": _estimated_wait_ms(dispatcher) if pending else None,
        "nodes_online": sum(node.liveness is not Liveness.OFFLINE for node in dispatcher.fleet),
        "queues": found,
        "timestamp": timestamp,
    }


def _estimated_wait_ms(dispatcher: Dispatcher) -> int | None:
    """How long a request that arrives now would wait, from the recent latencies of the queues; None if unknown."""
    queues_now = list(dispatcher.waiting.queues)
    known = [p75_s for q in queues_now if (p75_s := dispatcher.latencies.p75_s(q.node_id, q.model)) is not None]
    slots = sum(_slots(dispatcher.fleet, q.node_id, q.model) or 1 for q in queues_now)
    if not known:
        return None
    return round(1000.0 * len(dispatcher.waiting) * sum(known) / len(known) / max(1, slots))


def limit_totals(fleet: Fleet, retries_max: int, timestamp: float) -> Json:
    """The keys that `GET /fleet/limits` has in ollama-herd."""
    return {
        "max_retries": retries_max,
        "hot_model_cap": HOT_MODELS_UNKNOWN,
        "nodes": [
            {
                "node_id": node.id,
                "status": node.liveness.value,
                "hot_model_cap": (cap := _hot_model_cap(node)),
                "models_loaded": (loaded := sum(not one.is_other_name for one in node.loaded.values())),
                "free_slots": max(0, cap - loaded),
            }
            for node in sorted(fleet, key=lambda node: node.id)
        ],
        "timestamp": timestamp,
    }


def _hot_model_cap(node: Node) -> int:
    caps = [endpoint.models_max for endpoint in node.report.engines if endpoint.models_max]
    return sum(caps) if caps else HOT_MODELS_UNKNOWN


def _engine_kind(fleet: Fleet, node_id: NodeId, model: ModelName) -> str | None:
    node = fleet.node(node_id)
    model_info = node.model_info(model) if node else None
    return model_info.engine.kind if model_info else None


def queue_positions(dispatcher: Dispatcher, now: float) -> dict[RequestId, QueuePosition]:
    """The queue position of every waiting request."""
    return compute_positions(dispatcher.live_requests, dispatcher.waiting, dispatcher.fleet, dispatcher.latencies, now)


def node_view(node: Node, dispatcher: Dispatcher, now: float, models: object) -> Json:
    """One node. `models` is the list of its models, or the encoded list."""
    report, queues_of_model = node.report, dispatcher.waiting.queues.of_node(node.id)
    return {
        "node_id": node.id,
        "status": node.liveness.value,
        "last_heartbeat_s": round(max(0.0, now - node.last_heartbeat_at), 3),
        "agent_version": report.agent_version,
        "arch": report.arch,
        "os": report.os,
        "chip": report.chip,
        "lan_ip": report.lan_ip,
        "draining": report.is_leaving,
        "paused": report.is_paused and not report.is_leaving,
        "administration": _administration(node),
        "labels": sorted(report.all_labels),
        "budget": _budget(node),
        "reachable": node.unreachable_until <= now,
        "requests_active": sum(len(queue.in_flight) for queue in queues_of_model.values()),
        "requests_pending": sum(len(queue.pending) for queue in queues_of_model.values()),
        "memory": _memory(node),
        "cpu": {"cores_physical": report.cores, "utilization_pct": report.cpu_utilization},
        "disk": _disk(node),
        "gpus": [_gpu(node, index) for index in range(len(report.gpus))],
        "thermal": {"state": report.thermal_state, "temperature_c": report.temperature_c},
        "capacity": _capacity(node),
        "engines": [
            {
                "kind": e.kind,
                "url": e.url,
                "version": e.version,
                "slots": e.slots,
                "models_max": e.models_max,
                "silent_s": round(e.silent_s, 1),
                "problem": e.problem,
                "remedy": e.remedy,
                "instance": e.instance,
            }
            for e in report.engines
        ],
        "models": models,
        "models_total": len(report.models),
        "loading": sorted(node.loading_until),
    }


def _administration(node: Node) -> Json | None:
    """What an administrator has set; None if the node gets requests as usual."""
    known = node.report.administration
    if known.is_active:
        return None
    return {"duty": known.duty.value, "reason": known.reason, "by": known.by, "since": known.since_unix_s}


def _budget(node: Node) -> Json | None:
    budget = node.report.budget
    if budget == NO_BUDGET:
        return None
    limits = {"memory_gb": budget.memory_bytes, "disk_gb": budget.disk_bytes}
    return {name: round(limit / GB, 3) if limit is not None else None for name, limit in limits.items()}


def model_view(model_info: ModelInfo) -> Json:
    loaded = model_info.loaded
    return {
        "name": model_info.name,
        "size_gb": round(model_info.size_bytes / GB, 3),
        "digest": model_info.digest,
        "parameter_size": model_info.parameters,
        "quantization": model_info.quantization,
        "capabilities": sorted(model_info.capabilities),
        "engine": model_info.engine.kind,
        "loaded": loaded is not None,
        "loaded_gb": round(loaded.size_bytes / GB, 3) if loaded else None,
        "context_length": loaded.window_tokens if loaded else None,
        "context_max": model_info.context_max_tokens,
        "expires_at": loaded.expires_at or None if loaded else None,
    }


def _slots(fleet: Fleet, node_id: NodeId, model: ModelName) -> int | None:
    node = fleet.node(node_id)
    model_info = node.model_info(model) if node else None
    return model_info.engine.slots if model_info else None


def _memory(node: Node) -> Json:
    memory = node.report.memory
    return {
        "total_gb": round(memory.total_bytes / GB, 3),
        "used_gb": round(memory.used_bytes / GB, 3),
        "available_gb": round(memory.available_bytes / GB, 3),
        "pressure": memory.pressure.value,
        "ceiling_gb": round(node.report.memory_ceiling_bytes / GB, 3),
    }


def _disk(node: Node) -> Json | None:
    disk = node.report.disk
    if disk is None:
        return None
    return {
        "total_gb": round(disk.total_bytes / GB, 1),
        "used_gb": round(disk.used_bytes / GB, 1),
        "available_gb": round(disk.available_bytes / GB, 1),
    }


def _gpu(node: Node, index: int) -> Json:
    gpu = node.report.gpus[index]
    return {
        "name": gpu.name,
        "memory_total_gb": round(gpu.memory_total_bytes / GB, 3),
        "memory_used_gb": round(gpu.memory_used_bytes / GB, 3),
        "utilization_pct": gpu.utilization,
        "temperature_c": gpu.temperature_c,
    }


def _capacity(node: Node) -> Json | None:
    capacity = node.report.capacity
    if capacity is None:
        return None
    return {
        "mode": capacity.mode,
        "ceiling_gb": round(capacity.ceiling_bytes / GB, 3),
        "availability_score": capacity.score,
        "trend": capacity.trend,
        "reason": capacity.reason,
        "override_active": capacity.override_active,
        "learning_confidence": capacity.learning_confidence,
        "days_observed": capacity.days_observed,
    }


def _request_view(live_request: LiveRequest, position: QueuePosition | None, now: float) -> Json:
    expected_s = position.expected_wait_s if position is not None else None
    return {
        "request_id": live_request.request.id,
        "model": live_request.model,
        "state": live_request.state.value,
        "node_id": node_of(live_request),
        "tenant": _tenant(live_request.request),
        "position": position.position if position is not None else None,
        "waits_for": position.waits_for if position is not None else None,
        "expected_wait_s": round(expected_s, 3) if expected_s is not None else None,
        "gives_up_in_s": round(max(0.0, live_request.hold_until - now), 3)
        if live_request.state is RequestState.HELD
        else None,
        "attempt": live_request.attempts,
        "tried": list(live_request.tried),
        "age_s": round(now - live_request.arrived_at, 3),
        "tags": list(live_request.request.tags),
        "estimated_tokens": live_request.request.prompt_tokens,
    }


def _tenant(request: Request) -> str:
    """The user or app that takes turns, else its key or client machine."""
    if request.user:
        return f"user {request.user}"
    tenant = request.tenant
    if tenant.startswith("key "):
        return f"{tenant[:KEY_CHARACTERS_SHOWN]}…"
    return f"app {request.member}" if request.member else tenant
