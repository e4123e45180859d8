"""Encodes a heartbeat: the public fields, which other programs read, and the object `herd` with exact values."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from herd.agent_protocol.heartbeat_json import (
    BODY_MAX_BYTES,
    GIB,
    PAUSED_MODES,
    VERSION,
    EngineJson,
    GpuJson,
    LoadedJson,
    ModelJson,
    OwnJson,
)
from herd.core.state.fleet import GB, Capacity, Disk, EngineEndpoint, Memory, ModelInfo, Report
from herd.core.state.nodes.budget import Budget


def encode(report: Report, timestamp: float, further: Sequence[Report] = ()) -> bytes:
    """The heartbeat of this report and of the machine's further engines. `timestamp` is in Unix seconds."""
    own = OwnJson(
        v=VERSION,
        boot_id=report.boot_id,
        os=report.os,
        paused=report.paused,
        trend=report.capacity.trend if report.capacity else "stable",
        engines=msgspec.Raw(
            msgspec.json.encode([_engine_json(engine, of) for of in (report, *further) for engine in of.engines])
        ),
        gpus=[
            GpuJson(gpu.name, gpu.memory_total_bytes, gpu.memory_used_bytes, gpu.utilization, gpu.temperature_c)
            for gpu in report.gpus
        ],
        memory={
            "total_bytes": report.memory.total_bytes,
            "used_bytes": report.memory.used_bytes,
            "available_bytes": report.memory.available_bytes,
        },
        labels=sorted(report.labels),
        budget=_budget(report.own_budget),
        week=list((report.capacity.week if report.capacity else None) or ()),
    )
    body = msgspec.json.encode({**_public(report, timestamp), "herd": own})
    if len(body) <= BODY_MAX_BYTES:
        return body
    # With hundreds of models the body is too large, so the models are sent only in the object `herd`.
    return msgspec.json.encode({**_public(report, timestamp), "ollama": None, "herd": own})


def _budget(budget: Budget) -> dict[str, int]:
    limits = {"memory_bytes": budget.memory_bytes, "disk_bytes": budget.disk_bytes}
    return {name: limit for name, limit in limits.items() if limit is not None}


def _public(report: Report, timestamp: float) -> dict[str, object]:
    return {
        "node_id": report.node_id,
        "arch": report.arch,
        "timestamp": timestamp,
        "agent_version": report.agent_version,
        "ollama_host": report.engines[0].url if report.engines else None,
        "lan_ip": report.lan_ip or None,
        "draining": report.draining,
        "chip": report.chip or None,
        "memory_bandwidth_gbps": report.memory_bandwidth_gbps,
        "connection_failures": report.connection_failures,
        "cpu": {"cores_physical": report.cores, "utilization_pct": report.cpu_utilization},
        "memory": _memory_json(report.memory),
        "thermal": {"state": report.thermal_state, "temperature_c": report.temperature_c, "source": ""},
        "disk": _disk_json(report.disk) if report.disk else None,
        "ollama": _ollama_json(report),
        "capacity": _capacity_json(report.capacity) if report.capacity else None,
    }


def _engine_json(engine: EngineEndpoint, report: Report) -> EngineJson:
    models = [_model_json(model) for model in report.models.values() if model.engine == engine]
    return EngineJson(
        kind=engine.kind,
        url=engine.url,
        version=engine.version,
        slots=engine.slots,
        models_max=engine.models_max,
        models=models,
        library_url=engine.library_url,
        silent_s=engine.silent_s,
        problem=engine.problem,
        remedy=engine.remedy,
        instance=engine.instance,
        gpus=list(engine.gpus) if engine.gpus is not None else None,
    )


def _model_json(model: ModelInfo) -> ModelJson:
    loaded = model.loaded
    return ModelJson(
        name=model.name,
        size_bytes=model.size_bytes,
        digest=model.digest,
        family=model.family,
        parameters=model.parameters,
        quantization=model.quantization,
        context_max_tokens=model.context_max_tokens,
        capabilities=sorted(model.capabilities),
        lacks=sorted(model.lacks),
        modified_at=model.modified_at,
        kv_bytes_per_token=model.kv_bytes_per_token,
        loaded=LoadedJson(
            loaded.size_bytes, loaded.window_tokens, loaded.vram_bytes, loaded.context_explicit, loaded.expires_at
        )
        if loaded is not None
        else None,
    )


def _memory_json(memory: Memory) -> dict[str, object]:
    return {
        "total_gb": memory.total_bytes / GIB,
        "used_gb": memory.used_bytes / GIB,
        "available_gb": memory.available_bytes / GIB,
        "pressure": memory.pressure.value,
        "wired_gb": memory.wired_bytes / GIB,
        "compressed_gb": memory.compressed_bytes / GIB,
        "swap_used_gb": memory.swap_used_bytes / GIB,
        "swap_total_gb": memory.swap_total_bytes / GIB,
    }


def _disk_json(disk: Disk) -> dict[str, float]:
    return {
        "total_gb": disk.total_bytes / GIB,
        "used_gb": disk.used_bytes / GIB,
        "available_gb": disk.available_bytes / GIB,
    }


def _ollama_json(report: Report) -> dict[str, object] | None:
    endpoint = next((engine for engine in report.engines if engine.kind == "ollama"), None)
    if endpoint is None:
        return None
    models = [model for model in report.models.values() if model.engine == endpoint]
    return {
        "models_loaded": [
            {
                "name": model.name,
                "size_gb": model.loaded.size_bytes / GIB,
                "requests_active": 0,
                "parameter_size": model.parameters,
                "quantization": model.quantization,
                "context_length": model.loaded.window_tokens,
                "digest": model.digest,
            }
            for model in models
            if model.loaded is not None
        ],
        "models_available": [model.name for model in models],
        "models_available_sizes": {model.name: model.size_bytes / GB for model in models},
        "models_available_meta": {
            model.name: {
                "digest": model.digest,
                "family": model.family,
                "parameter_size": model.parameters,
                "quantization_level": model.quantization,
                "capabilities": sorted(model.capabilities),
            }
            for model in models
        },
        "num_parallel": endpoint.slots,
        "max_loaded_models": endpoint.models_max,
        "requests_active": 0,
        "version": endpoint.version,
    }


def _capacity_json(capacity: Capacity) -> dict[str, object]:
    return {
        "mode": "paused" if capacity.paused and capacity.mode not in PAUSED_MODES else capacity.mode,
        "ceiling_gb": capacity.ceiling_bytes / GIB,
        "availability_score": capacity.score,
        "reason": capacity.reason,
        "override_active": capacity.override_active,
        "learning_confidence": capacity.learning_confidence,
        "days_observed": capacity.days_observed,
    }
