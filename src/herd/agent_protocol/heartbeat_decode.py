"""What an agent reports, as JSON, and what the coordinator makes of it. Believes nothing unreasonable; knows no network.

The public fields are those of the existing product, so that its agents can report here while people migrate. Our own
agents add an object `herd` with what the scheduler needs exactly (bytes, slots, boots, several engines); where it is
present it wins. Unknown fields are ignored and missing optional ones defaulted, so that agent and coordinator may be
of different ages.
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
from herd.agent_protocol.heartbeat_encode import encode
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

__all__ = ["BODY_MAX_BYTES", "MODELS_MAX", "BadHeartbeat", "address", "decode", "encode", "renamed"]

NAME_MAX = 256
BYTES_MAX = 1 << 50
"""A petabyte: more memory or disk than any node has."""
BANDWIDTH_MAX_GBPS = 100_000.0
SLOTS_MAX = 4096
OLLAMA_PORT = 11434
LOOPBACK = "127.0.0.1"
CPU_MAX_PCT = 1000.0
SHARE_SLACK = 1.02
HOURS_OF_A_WEEK = 168
"""Older agents round and read total, used and available at different moments."""
PIN = re.compile(r"[0-9a-f]{64}")
"""The SHA-256 of a certificate."""


NO_ENGINES: Mapping[str, EngineAbilities] = MappingProxyType({})


class BadHeartbeat(HerdError):
    """A report that makes no sense; nothing of it is believed."""

    status = 422
    code = "bad_heartbeat"


def decode(body: bytes, source_ip: str, abilities: Mapping[str, EngineAbilities] = NO_ENGINES) -> Report:
    """The report in this body, sent from `source_ip`. Raises `BadHeartbeat` naming the field, and nothing else."""
    if len(body) > BODY_MAX_BYTES:
        raise BadHeartbeat(f"the heartbeat is larger than {BODY_MAX_BYTES} bytes")
    try:
        said = msgspec.json.decode(body, type=HeartbeatJson)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise BadHeartbeat(f"the heartbeat cannot be read: {error}") from None
    own = said.herd or OwnJson()
    engines, models = _engines(said, own, source_ip, abilities)
    return Report(
        node_id=NodeId(_name(said.node_id, "node_id")),
        boot_id=_text(own.boot_id, "herd.boot_id")
        or f"at {source_ip}",  # older agents have none: two clones differ by address
        memory=_memory(said.memory, own.memory),
        models=models,
        engines=engines,
        arch=_text(said.arch or "", "arch"),
        agent_version=_text(said.agent_version or "", "agent_version"),
        os=_text(own.os, "herd.os"),
        chip=_text(said.chip or "", "chip"),
        lan_ip=_text(said.lan_ip or source_ip, "lan_ip"),
        cores=_whole(said.cpu.cores_physical if said.cpu else 0, "cpu.cores_physical", 1 << 16),
        cpu_utilization=_real(said.cpu.utilization_pct if said.cpu else 0.0, "cpu.utilization_pct", CPU_MAX_PCT),
        memory_bandwidth_gbps=_bandwidth(said.memory_bandwidth_gbps),
        disk=_disk(said.disk) if said.disk else None,
        gpus=_gpus(own.gpus),
        thermal_state=_text(said.thermal.state if said.thermal else "unknown", "thermal.state"),
        temperature_c=_temperature(said.thermal.temperature_c if said.thermal else None),
        draining=said.draining,
        paused=own.paused,
        capacity=_capacity(said.capacity, own.trend, own.week) if said.capacity else None,
        connection_failures=_whole(said.connection_failures, "connection_failures", 1 << 31),
        clock_s=said.timestamp if said.timestamp is not None and math.isfinite(said.timestamp) else None,
    )


def renamed(report: Report, node_id: NodeId) -> Report:
    """The same report under the name the coordinator gave its sender."""
    return dataclasses.replace(report, node_id=node_id)


def _engines(
    said: HeartbeatJson, own: OwnJson, source_ip: str, abilities: Mapping[str, EngineAbilities]
) -> tuple[tuple[EngineEndpoint, ...], Mapping[ModelName, ModelInfo]]:
    if said.herd is None:
        return _upstream_engine(said, source_ip, abilities)
    _at_most(len(own.engines), ENGINES_MAX, "herd.engines")
    _at_most(sum(len(engine.models) for engine in own.engines), MODELS_MAX, "herd.engines.models")
    endpoints: list[EngineEndpoint] = []
    models: dict[ModelName, ModelInfo] = {}
    for engine in own.engines:
        endpoint = EngineEndpoint(
            _name(engine.kind, "herd.engines.kind"),
            address(engine.url, source_ip),
            _text(engine.version, "herd.engines.version"),
            max(1, _whole(engine.slots, "herd.engines.slots", SLOTS_MAX)),
            _optional(engine.models_max, "herd.engines.models_max", SLOTS_MAX),
            address(engine.library_url, source_ip) if engine.library_url else "",
            abilities.get(engine.kind, NO_ABILITIES),
        )
        endpoints.append(endpoint)
        for model in engine.models:
            # Two engines of a node may have the same model: the one that has it in memory answers for it.
            card = _card(model, endpoint)
            known = models.get(canonical(card.name))
            if known is None or (known.loaded is None and card.loaded is not None):
                models[canonical(card.name)] = card
    return tuple(endpoints), models


def _card(model: ModelJson, endpoint: EngineEndpoint) -> ModelInfo:
    where = "herd.engines.models"
    loaded = model.loaded
    _at_most(len(model.capabilities), 64, f"{where}.capabilities")
    return ModelInfo(
        name=_name(model.name, f"{where}.name"),
        engine=endpoint,
        size_bytes=_whole(model.size_bytes, f"{where}.size_bytes"),
        digest=_text(model.digest, f"{where}.digest"),
        family=_text(model.family, f"{where}.family"),
        parameters=_text(model.parameters, f"{where}.parameters"),
        quantization=_text(model.quantization, f"{where}.quantization"),
        context_max_tokens=_optional(model.context_max_tokens, f"{where}.context_max_tokens"),
        capabilities=frozenset(_text(word, f"{where}.capabilities") for word in model.capabilities),
        modified_at=_text(model.modified_at, f"{where}.modified_at"),
        kv_bytes_per_token=_optional(model.kv_bytes_per_token, f"{where}.kv_bytes_per_token"),
        loaded=Loaded(
            _whole(loaded.size_bytes, f"{where}.loaded.size_bytes"),
            _optional(loaded.context_tokens, f"{where}.loaded.context_tokens"),
            _optional(loaded.vram_bytes, f"{where}.loaded.vram_bytes"),
            loaded.context_explicit,
            _text(loaded.expires_at, f"{where}.loaded.expires_at"),
        )
        if loaded is not None
        else None,
    )


def _upstream_engine(
    said: HeartbeatJson, source_ip: str, abilities: Mapping[str, EngineAbilities]
) -> tuple[tuple[EngineEndpoint, ...], Mapping[ModelName, ModelInfo]]:
    """An agent of the existing product has one Ollama, says sizes in gigabytes, and says 0 for what it does not know."""
    ollama = said.ollama
    if ollama is None:
        return (), {}
    _at_most(len(ollama.models_available) + len(ollama.models_loaded), MODELS_MAX, "ollama.models_available")
    endpoint = EngineEndpoint(
        "ollama",
        address(said.ollama_host or f"http://{bracketed(source_ip)}:{OLLAMA_PORT}", source_ip),
        _text(ollama.version or "", "ollama.version"),
        max(1, _whole(ollama.num_parallel or 1, "ollama.num_parallel", SLOTS_MAX)),
        _optional(ollama.max_loaded_models or None, "ollama.max_loaded_models", SLOTS_MAX),
        abilities=abilities.get("ollama", NO_ABILITIES),
    )
    loaded = {canonical(model.name): model for model in ollama.models_loaded}
    names = {canonical(name): name for name in ollama.models_available}
    names.update({key: model.name for key, model in loaded.items() if key not in names})
    return (endpoint,), {key: _upstream_card(name, loaded.get(key), ollama, endpoint) for key, name in names.items()}


def _upstream_card(
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
        capabilities=frozenset(_text(word, "ollama.capabilities") for word in (meta.capabilities or [])[:64]),
        loaded=Loaded(loaded_bytes, _optional(loaded.context_length or None, "ollama.models_loaded.context_length"))
        if loaded is not None
        else None,
    )


def address(url: str, source_ip: str) -> str:
    """Where the coordinator reaches an engine: the announced port at the address that the heartbeat came from.

    The announced host counts for nothing, so a node cannot make the coordinator talk to a third party. Raises `BadHeartbeat`.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise BadHeartbeat(f"an engine's url is wrong: {error}") from None
    is_locked = parts.scheme == "https" and PIN.fullmatch(parts.fragment) is not None
    if (
        not (is_locked or parts.scheme == "http")
        or not parts.hostname
        or parts.username is not None
        or len(url) > NAME_MAX
    ):
        raise BadHeartbeat("an engine's url must be http://host:port, or https://host:port#SHA256 of its certificate")
    host = bracketed(source_ip or LOOPBACK)
    return f"https://{host}:{port or 443}#{parts.fragment}" if is_locked else f"http://{host}:{port or 80}"


def _memory(said: MemoryJson, exact: Mapping[str, int]) -> Memory:
    total = exact.get("total_bytes") or _gigabytes(said.total_gb, "memory.total_gb")
    if total <= 0:
        raise BadHeartbeat("memory.total_gb must be more than 0")
    available = exact.get("available_bytes")
    if available is None:
        used_gb = said.used_gb if said.used_gb is not None else 0.0
        available_gb = said.available_gb if said.available_gb is not None else said.total_gb - used_gb
        available = _gigabytes(max(0.0, available_gb), "memory.available_gb")
    used = exact.get("used_bytes")
    if used is None:
        used = _gigabytes(said.used_gb, "memory.used_gb") if said.used_gb is not None else total - available
    if max(used, available) > total * SHARE_SLACK:
        raise BadHeartbeat("memory.used_gb and memory.available_gb must not be more than memory.total_gb")
    try:
        pressure = Pressure(said.pressure)
    except ValueError:
        raise BadHeartbeat("memory.pressure must be normal, warn or critical") from None
    return Memory(
        _whole(total, "memory.total"),
        _whole(used, "memory.used"),
        _whole(available, "memory.available"),
        pressure,
        _gigabytes(said.swap_used_gb or 0.0, "memory.swap_used_gb"),
        _gigabytes(said.swap_total_gb or 0.0, "memory.swap_total_gb"),
        _gigabytes(said.wired_gb or 0.0, "memory.wired_gb"),
        _gigabytes(said.compressed_gb or 0.0, "memory.compressed_gb"),
    )


def _disk(said: DiskJson) -> Disk:
    return Disk(
        _gigabytes(said.total_gb, "disk.total_gb"),
        _gigabytes(said.used_gb, "disk.used_gb"),
        _gigabytes(said.available_gb, "disk.available_gb"),
    )


def _gpus(said: list[GpuJson]) -> tuple[Gpu, ...]:
    _at_most(len(said), GPUS_MAX, "herd.gpus")
    return tuple(
        Gpu(
            _text(gpu.name, "herd.gpus.name"),
            _whole(gpu.memory_total_bytes, "herd.gpus.memory_total_bytes"),
            _whole(gpu.memory_used_bytes, "herd.gpus.memory_used_bytes"),
            None if gpu.utilization is None else _real(gpu.utilization, "herd.gpus.utilization", CPU_MAX_PCT),
            _temperature(gpu.temperature_c),
        )
        for gpu in said
    )


def _capacity(said: CapacityJson, trend: str, week: Sequence[float | None]) -> Capacity:
    return Capacity(
        _text(said.mode, "capacity.mode"),
        _gigabytes(said.ceiling_gb, "capacity.ceiling_gb"),
        _real(said.availability_score, "capacity.availability_score", 1.0),
        trend if trend in ("rising", "stable", "falling") else "stable",
        _text(said.reason, "capacity.reason"),
        said.mode in PAUSED_MODES,
        said.override_active,
        _real(said.learning_confidence, "capacity.learning_confidence", 1.0),
        _whole(said.days_observed, "capacity.days_observed", 1 << 20),
        _week(week),
    )


def _week(said: Sequence[float | None]) -> tuple[float | None, ...] | None:
    if not said:
        return None
    if len(said) != HOURS_OF_A_WEEK:
        raise BadHeartbeat(f"herd.week: must have {HOURS_OF_A_WEEK} values or none")
    return tuple(None if hour is None else _real(hour, "herd.week", 1.0) for hour in said)


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


def _whole(value: int | None, field: str, limit: int = BYTES_MAX) -> int:
    if value is None:
        return 0
    if not 0 <= value <= limit:
        raise BadHeartbeat(f"{field}: must be between 0 and {limit}")
    return value


def _optional(value: int | None, field: str, limit: int = BYTES_MAX) -> int | None:
    return None if value is None else _whole(value, field, limit)


def _real(value: float | None, field: str, limit: float) -> float:
    if value is None:
        return 0.0
    if not math.isfinite(value) or not 0.0 <= value <= limit:
        raise BadHeartbeat(f"{field}: must be between 0 and {limit:g}")
    return value


def _bandwidth(value: float | None) -> float | None:
    return _real(value, "memory_bandwidth_gbps", BANDWIDTH_MAX_GBPS) or None if value is not None else None


def _temperature(value: float | None) -> float | None:
    if value is None or (math.isfinite(value) and -100.0 <= value <= 1000.0):
        return value
    raise BadHeartbeat("temperature_c: must be between -100 and 1000")


def _gigabytes(value: float, field: str) -> int:
    return int(_real(value, field, BYTES_MAX / GIB) * GIB)
