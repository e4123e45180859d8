"""Decodes and validates a heartbeat, and rejects values outside their range.

The public fields are those of ollama-herd, so that its agents can report here during a migration. Our own agents add an
object `herd` with exact values for the scheduler (bytes, slots, boot id, several engines), which take precedence.
Unknown fields are ignored and missing optional fields get defaults, so that agent and coordinator can have different
versions.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from urllib.parse import urlsplit

import msgspec

from herd.addresses import bracketed
from herd.agent_protocol.heartbeat_json import (
    BODY_MAX_BYTES,
    ENGINES_MAX,
    GIB,
    GPUS_MAX,
    MODELS_MAX,
    PAUSED_MODES,
    CapacityJson,
    DiskJson,
    GpuJson,
    HeartbeatJson,
    LoadedModelJson,
    MemoryJson,
    ModelJson,
    ModelMetaJson,
    OllamaJson,
    OwnJson,
)
from herd.core.state.fleet import (
    NO_ABILITIES,
    Capacity,
    Disk,
    EngineAbilities,
    EngineEndpoint,
    Gpu,
    Loaded,
    Memory,
    ModelInfo,
    ModelName,
    NodeId,
    Pressure,
    Report,
    canonical,
)
from herd.errors import HerdError

NAME_MAX = 256
BYTES_MAX = 1 << 50
"""A petabyte: more memory or disk than any node has."""
BANDWIDTH_MAX_GBPS = 100_000.0
SLOTS_MAX = 4096
OLLAMA_PORT = 11434
LOOPBACK = "127.0.0.1"
CPU_MAX_PCT = 1000.0
SHARE_SLACK = 1.02
"""How much used or available memory may exceed the total: older agents round and read the values at different times."""
HOURS_PER_WEEK = 168
CERTIFICATE_SHA256 = re.compile(r"[0-9a-f]{64}")


NO_ENGINES: Mapping[str, EngineAbilities] = MappingProxyType({})


class BadHeartbeat(HerdError):
    """The heartbeat is invalid; it is ignored completely."""

    status = 422
    code = "bad_heartbeat"


def decode(body: bytes, source_ip: str, abilities: Mapping[str, EngineAbilities] = NO_ENGINES) -> Report:
    """The report in this body, sent from `source_ip`. Raises only `BadHeartbeat`, which specifies the invalid field."""
    if len(body) > BODY_MAX_BYTES:
        raise BadHeartbeat(f"the heartbeat is larger than {BODY_MAX_BYTES} bytes")
    try:
        sent = msgspec.json.decode(body, type=HeartbeatJson)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise BadHeartbeat(f"the heartbeat cannot be read: {error}") from None
    own = sent.herd or OwnJson()
    engines, models = _engines(sent, own, source_ip, abilities)
    return Report(
        node_id=NodeId(_name(sent.node_id, "node_id")),
        # Older agents send no boot id; two cloned machines then differ by address.
        boot_id=_text(own.boot_id, "herd.boot_id") or f"at {source_ip}",
        memory=_memory(sent.memory, own.memory),
        models=models,
        engines=engines,
        arch=_text(sent.arch or "", "arch"),
        agent_version=_text(sent.agent_version or "", "agent_version"),
        os=_text(own.os, "herd.os"),
        chip=_text(sent.chip or "", "chip"),
        lan_ip=_text(sent.lan_ip or source_ip, "lan_ip"),
        cores=_integer(sent.cpu.cores_physical if sent.cpu else 0, "cpu.cores_physical", 1 << 16),
        cpu_utilization=_number(sent.cpu.utilization_pct if sent.cpu else 0.0, "cpu.utilization_pct", CPU_MAX_PCT),
        memory_bandwidth_gbps=_bandwidth(sent.memory_bandwidth_gbps),
        disk=_disk(sent.disk) if sent.disk else None,
        gpus=_gpus(own.gpus),
        thermal_state=_text(sent.thermal.state if sent.thermal else "unknown", "thermal.state"),
        temperature_c=_temperature(sent.thermal.temperature_c if sent.thermal else None),
        draining=sent.draining,
        paused=own.paused,
        capacity=_capacity(sent.capacity, own.trend, own.week) if sent.capacity else None,
        connection_failures=_integer(sent.connection_failures, "connection_failures", 1 << 31),
        clock_s=sent.timestamp if sent.timestamp is not None and math.isfinite(sent.timestamp) else None,
    )


def with_node_id(report: Report, node_id: NodeId) -> Report:
    """The same report with the name that the coordinator assigned to the node."""
    return dataclasses.replace(report, node_id=node_id)


def _engines(
    sent: HeartbeatJson, own: OwnJson, source_ip: str, abilities: Mapping[str, EngineAbilities]
) -> tuple[tuple[EngineEndpoint, ...], Mapping[ModelName, ModelInfo]]:
    if sent.herd is None:
        return _ollama_herd_engine(sent, source_ip, abilities)
    _at_most(len(own.engines), ENGINES_MAX, "herd.engines")
    _at_most(sum(len(engine.models) for engine in own.engines), MODELS_MAX, "herd.engines.models")
    endpoints: list[EngineEndpoint] = []
    models: dict[ModelName, ModelInfo] = {}
    for engine in own.engines:
        endpoint = EngineEndpoint(
            _name(engine.kind, "herd.engines.kind"),
            address(engine.url, source_ip),
            _text(engine.version, "herd.engines.version"),
            max(1, _integer(engine.slots, "herd.engines.slots", SLOTS_MAX)),
            _optional(engine.models_max, "herd.engines.models_max", SLOTS_MAX),
            address(engine.library_url, source_ip) if engine.library_url else "",
            abilities.get(engine.kind, NO_ABILITIES),
        )
        endpoints.append(endpoint)
        for model in engine.models:
            # Two engines of a node can have the same model: the engine that has it in memory is used.
            model_info = _model_info(model, endpoint)
            known = models.get(canonical(model_info.name))
            if known is None or (known.loaded is None and model_info.loaded is not None):
                models[canonical(model_info.name)] = model_info
    return tuple(endpoints), models


def _model_info(model: ModelJson, endpoint: EngineEndpoint) -> ModelInfo:
    where = "herd.engines.models"
    loaded = model.loaded
    _at_most(len(model.capabilities), 64, f"{where}.capabilities")
    _at_most(len(model.lacks), 64, f"{where}.lacks")
    return ModelInfo(
        name=_name(model.name, f"{where}.name"),
        engine=endpoint,
        size_bytes=_integer(model.size_bytes, f"{where}.size_bytes"),
        digest=_text(model.digest, f"{where}.digest"),
        family=_text(model.family, f"{where}.family"),
        parameters=_text(model.parameters, f"{where}.parameters"),
        quantization=_text(model.quantization, f"{where}.quantization"),
        context_max_tokens=_optional(model.context_max_tokens, f"{where}.context_max_tokens"),
        capabilities=frozenset(_text(capability, f"{where}.capabilities") for capability in model.capabilities),
        lacks=frozenset(_text(capability, f"{where}.lacks") for capability in model.lacks),
        modified_at=_text(model.modified_at, f"{where}.modified_at"),
        kv_bytes_per_token=_optional(model.kv_bytes_per_token, f"{where}.kv_bytes_per_token"),
        loaded=Loaded(
            _integer(loaded.size_bytes, f"{where}.loaded.size_bytes"),
            _optional(loaded.context_tokens, f"{where}.loaded.context_tokens"),
            _optional(loaded.vram_bytes, f"{where}.loaded.vram_bytes"),
            loaded.context_explicit,
            _text(loaded.expires_at, f"{where}.loaded.expires_at"),
        )
        if loaded is not None
        else None,
    )


def _ollama_herd_engine(
    sent: HeartbeatJson, source_ip: str, abilities: Mapping[str, EngineAbilities]
) -> tuple[tuple[EngineEndpoint, ...], Mapping[ModelName, ModelInfo]]:
    """An agent of ollama-herd has one Ollama, sends sizes in gigabytes, and sends 0 for unknown values."""
    ollama = sent.ollama
    if ollama is None:
        return (), {}
    _at_most(len(ollama.models_available) + len(ollama.models_loaded), MODELS_MAX, "ollama.models_available")
    endpoint = EngineEndpoint(
        "ollama",
        address(sent.ollama_host or f"http://{bracketed(source_ip)}:{OLLAMA_PORT}", source_ip),
        _text(ollama.version or "", "ollama.version"),
        max(1, _integer(ollama.num_parallel or 1, "ollama.num_parallel", SLOTS_MAX)),
        _optional(ollama.max_loaded_models or None, "ollama.max_loaded_models", SLOTS_MAX),
        abilities=abilities.get("ollama", NO_ABILITIES),
    )
    loaded = {canonical(model.name): model for model in ollama.models_loaded}
    names = {canonical(name): name for name in ollama.models_available}
    names.update({key: model.name for key, model in loaded.items() if key not in names})
    return (endpoint,), {
        key: _ollama_herd_model(name, loaded.get(key), ollama, endpoint) for key, name in names.items()
    }


def _ollama_herd_model(
    name: str, loaded: LoadedModelJson | None, ollama: OllamaJson, endpoint: EngineEndpoint
) -> ModelInfo:
    meta = ollama.models_available_meta.get(name) or ModelMetaJson()
    loaded_bytes = _gigabytes(loaded.size_gb, "ollama.models_loaded.size_gb") if loaded is not None else 0
    return ModelInfo(
        name=_name(name, "ollama.models_available"),
        engine=endpoint,
        size_bytes=_gigabytes(ollama.models_available_sizes.get(name, 0.0), "ollama.models_available_sizes")
        or loaded_bytes,
        digest=_text(meta.digest or (loaded.digest if loaded else None) or "", "ollama.models_available_meta.digest"),
        family=_text(meta.family or "", "ollama.models_available_meta.family"),
        parameters=_text(
            meta.parameter_size or (loaded.parameter_size if loaded else None) or "", "ollama.parameter_size"
        ),
        quantization=_text(
            meta.quantization_level or (loaded.quantization if loaded else None) or "", "ollama.quantization"
        ),
        context_max_tokens=_optional(meta.context_length or None, "ollama.models_available_meta.context_length"),
        capabilities=frozenset(
            _text(capability, "ollama.capabilities") for capability in (meta.capabilities or [])[:64]
        ),
        loaded=Loaded(loaded_bytes, _optional(loaded.context_length or None, "ollama.models_loaded.context_length"))
        if loaded is not None
        else None,
    )


def address(url: str, source_ip: str) -> str:
    """The URL of an engine: its announced port at the address that sent the heartbeat. Raises `BadHeartbeat`.

    The announced host is ignored, so that a node cannot make the coordinator connect to another machine.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise BadHeartbeat(f"the URL of an engine is invalid: {error}") from None
    is_pinned = parts.scheme == "https" and CERTIFICATE_SHA256.fullmatch(parts.fragment) is not None
    if (
        not (is_pinned or parts.scheme == "http")
        or not parts.hostname
        or parts.username is not None
        or len(url) > NAME_MAX
    ):
        raise BadHeartbeat(
            "the URL of an engine must be http://host:port, or https://host:port#SHA256 of its certificate"
        )
    host = bracketed(source_ip or LOOPBACK)
    return f"https://{host}:{port or 443}#{parts.fragment}" if is_pinned else f"http://{host}:{port or 80}"


def _memory(sent: MemoryJson, exact: Mapping[str, int]) -> Memory:
    total = exact.get("total_bytes") or _gigabytes(sent.total_gb, "memory.total_gb")
    if total <= 0:
        raise BadHeartbeat("memory.total_gb must be greater than 0")
    available = exact.get("available_bytes")
    if available is None:
        used_gb = sent.used_gb if sent.used_gb is not None else 0.0
        available_gb = sent.available_gb if sent.available_gb is not None else sent.total_gb - used_gb
        available = _gigabytes(max(0.0, available_gb), "memory.available_gb")
    used = exact.get("used_bytes")
    if used is None:
        used = _gigabytes(sent.used_gb, "memory.used_gb") if sent.used_gb is not None else total - available
    if max(used, available) > total * SHARE_SLACK:
        raise BadHeartbeat("memory.used_gb and memory.available_gb must not exceed memory.total_gb")
    try:
        pressure = Pressure(sent.pressure)
    except ValueError:
        raise BadHeartbeat("memory.pressure must be normal, warn or critical") from None
    return Memory(
        total_bytes=_integer(total, "memory.total"),
        used_bytes=_integer(used, "memory.used"),
        available_bytes=_integer(available, "memory.available"),
        pressure=pressure,
        swap_used_bytes=_gigabytes(sent.swap_used_gb or 0.0, "memory.swap_used_gb"),
        swap_total_bytes=_gigabytes(sent.swap_total_gb or 0.0, "memory.swap_total_gb"),
        wired_bytes=_gigabytes(sent.wired_gb or 0.0, "memory.wired_gb"),
        compressed_bytes=_gigabytes(sent.compressed_gb or 0.0, "memory.compressed_gb"),
    )


def _disk(sent: DiskJson) -> Disk:
    return Disk(
        _gigabytes(sent.total_gb, "disk.total_gb"),
        _gigabytes(sent.used_gb, "disk.used_gb"),
        _gigabytes(sent.available_gb, "disk.available_gb"),
    )


def _gpus(sent: list[GpuJson]) -> tuple[Gpu, ...]:
    _at_most(len(sent), GPUS_MAX, "herd.gpus")
    return tuple(
        Gpu(
            _text(gpu.name, "herd.gpus.name"),
            _integer(gpu.memory_total_bytes, "herd.gpus.memory_total_bytes"),
            _integer(gpu.memory_used_bytes, "herd.gpus.memory_used_bytes"),
            None if gpu.utilization is None else _number(gpu.utilization, "herd.gpus.utilization", CPU_MAX_PCT),
            _temperature(gpu.temperature_c),
        )
        for gpu in sent
    )


def _capacity(sent: CapacityJson, trend: str, week: Sequence[float | None]) -> Capacity:
    return Capacity(
        mode=_text(sent.mode, "capacity.mode"),
        ceiling_bytes=_gigabytes(sent.ceiling_gb, "capacity.ceiling_gb"),
        score=_number(sent.availability_score, "capacity.availability_score", 1.0),
        trend=trend if trend in ("rising", "stable", "falling") else "stable",
        reason=_text(sent.reason, "capacity.reason"),
        paused=sent.mode in PAUSED_MODES,
        override_active=sent.override_active,
        learning_confidence=_number(sent.learning_confidence, "capacity.learning_confidence", 1.0),
        days_observed=_integer(sent.days_observed, "capacity.days_observed", 1 << 20),
        week=_week(week),
    )


def _week(sent: Sequence[float | None]) -> tuple[float | None, ...] | None:
    if not sent:
        return None
    if len(sent) != HOURS_PER_WEEK:
        raise BadHeartbeat(f"herd.week: must have {HOURS_PER_WEEK} values or none")
    return tuple(None if hour is None else _number(hour, "herd.week", 1.0) for hour in sent)


# --- limits ---


def _at_most(count: int, limit: int, field: str) -> None:
    if count > limit:
        raise BadHeartbeat(f"{field}: at most {limit}, not {count}")


def _text(value: str, field: str) -> str:
    if len(value) > NAME_MAX:
        raise BadHeartbeat(f"{field}: longer than {NAME_MAX} characters")
    return "".join(c for c in value if c.isprintable())


def _name(value: str, field: str) -> str:
    if not value or not value.isprintable() or len(value) > NAME_MAX:
        raise BadHeartbeat(f"{field}: must be 1 to {NAME_MAX} printable characters")
    return value


def _integer(value: int | None, field: str, limit: int = BYTES_MAX) -> int:
    if value is None:
        return 0
    if not 0 <= value <= limit:
        raise BadHeartbeat(f"{field}: must be between 0 and {limit}")
    return value


def _optional(value: int | None, field: str, limit: int = BYTES_MAX) -> int | None:
    return None if value is None else _integer(value, field, limit)


def _number(value: float | None, field: str, limit: float) -> float:
    if value is None:
        return 0.0
    if not math.isfinite(value) or not 0.0 <= value <= limit:
        raise BadHeartbeat(f"{field}: must be between 0 and {limit:g}")
    return value


def _bandwidth(value: float | None) -> float | None:
    return _number(value, "memory_bandwidth_gbps", BANDWIDTH_MAX_GBPS) or None if value is not None else None


def _temperature(value: float | None) -> float | None:
    if value is None or (math.isfinite(value) and -100.0 <= value <= 1000.0):
        return value
    raise BadHeartbeat("temperature_c: must be between -100 and 1000")


def _gigabytes(value: float, field: str) -> int:
    return int(_number(value, field, BYTES_MAX / GIB) * GIB)
