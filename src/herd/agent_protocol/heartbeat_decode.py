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
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias
from urllib.parse import urlsplit

import msgspec

from herd.addresses import bracketed
from herd.agent_protocol import heartbeat_checks as checks
from herd.agent_protocol.heartbeat_checks import NAME_MAX, BadHeartbeat
from herd.agent_protocol.heartbeat_json import (
    BODY_MAX_BYTES,
    ENGINES_MAX,
    GPUS_MAX,
    MODELS_MAX,
    PAUSED_MODES,
    CapacityJson,
    DiskJson,
    EngineJson,
    GpuJson,
    HeartbeatJson,
    LoadedModelJson,
    MemoryJson,
    ModelJson,
    ModelMetaJson,
    OllamaJson,
    OwnJson,
)
from herd.bounded import BoundedDict
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

SLOTS_MAX = 4096
OLLAMA_PORT = 11434
LOOPBACK = "127.0.0.1"
CPU_MAX_PCT = 1000.0
SHARE_SLACK = 1.02
"""How much used or available memory may exceed the total: older agents round and read the values at different times."""
HOURS_PER_WEEK = 168
SILENT_MAX_S = 1e9
CERTIFICATE_SHA256 = re.compile(r"[0-9a-f]{64}")


NO_ENGINES: Mapping[str, EngineAbilities] = MappingProxyType({})


NODES_MAX = 4096
"""Nodes whose engines are remembered for `decode`."""

_ENGINES: msgspec.json.Decoder[list[EngineJson]] = msgspec.json.Decoder(list[EngineJson])
_OLLAMA: msgspec.json.Decoder[OllamaJson | None] = msgspec.json.Decoder(OllamaJson | None)

NodeEngines: TypeAlias = tuple[tuple[EngineEndpoint, ...], Mapping[ModelName, ModelInfo]]


@dataclass(frozen=True, slots=True)
class _Known:
    raw: bytes
    source_ip: str
    engines: NodeEngines


class KnownEngines:
    """The engines of each node in its last heartbeat. Most heartbeats repeat them: then the same objects are used, so
    that nothing is decoded, and values that were computed from them stay valid."""

    def __init__(self) -> None:
        self._of_node = BoundedDict[str, _Known](NODES_MAX)

    def find(self, node_id: str, raw: msgspec.Raw, source_ip: str) -> NodeEngines | None:
        known = self._of_node.get(node_id)
        return known.engines if known is not None and known.raw == bytes(raw) and known.source_ip == source_ip else None

    def add(self, node_id: str, raw: msgspec.Raw, source_ip: str, engines: NodeEngines) -> None:
        self._of_node[node_id] = _Known(bytes(raw), source_ip, engines)


def decode(
    body: bytes,
    source_ip: str,
    abilities: Mapping[str, EngineAbilities] = NO_ENGINES,
    known: KnownEngines | None = None,
) -> Report:
    """The report in this body, sent from `source_ip`. Raises only `BadHeartbeat`, which specifies the invalid field."""
    if len(body) > BODY_MAX_BYTES:
        raise BadHeartbeat(f"the heartbeat is larger than {BODY_MAX_BYTES} bytes")
    try:
        sent = msgspec.json.decode(body, type=HeartbeatJson)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise BadHeartbeat(f"the heartbeat cannot be read: {error}") from None
    own = sent.herd or OwnJson()
    found = known.find(sent.node_id, own.engines, source_ip) if known is not None and sent.herd is not None else None
    engines, models = found or _engines(sent, own, source_ip, abilities)
    if known is not None and found is None and sent.herd is not None:
        known.add(sent.node_id, own.engines, source_ip, (engines, models))
    return Report(
        node_id=NodeId(checks.name(sent.node_id, "node_id")),
        # Older agents send no boot id; two cloned machines then differ by address.
        boot_id=checks.text(own.boot_id, "herd.boot_id") or f"at {source_ip}",
        memory=_memory(sent.memory, own.memory),
        models=models,
        engines=engines,
        arch=checks.text(sent.arch or "", "arch"),
        agent_version=checks.text(sent.agent_version or "", "agent_version"),
        os=checks.text(own.os, "herd.os"),
        chip=checks.text(sent.chip or "", "chip"),
        lan_ip=checks.text(sent.lan_ip or source_ip, "lan_ip"),
        cores=checks.integer(sent.cpu.cores_physical if sent.cpu else 0, "cpu.cores_physical", 1 << 16),
        cpu_utilization=checks.number(
            sent.cpu.utilization_pct if sent.cpu else 0.0, "cpu.utilization_pct", CPU_MAX_PCT
        ),
        memory_bandwidth_gbps=checks.bandwidth(sent.memory_bandwidth_gbps),
        disk=_disk(sent.disk) if sent.disk else None,
        gpus=_gpus(own.gpus),
        thermal_state=checks.text(sent.thermal.state if sent.thermal else "unknown", "thermal.state"),
        temperature_c=checks.temperature(sent.thermal.temperature_c if sent.thermal else None),
        draining=sent.draining,
        paused=own.paused,
        capacity=_capacity(sent.capacity, own.trend, own.week) if sent.capacity else None,
        connection_failures=checks.integer(sent.connection_failures, "connection_failures", 1 << 31),
        clock_s=sent.timestamp if sent.timestamp is not None and math.isfinite(sent.timestamp) else None,
    )


def with_node_id(report: Report, node_id: NodeId) -> Report:
    """The same report with the name that the coordinator assigned to the node."""
    return dataclasses.replace(report, node_id=node_id)


def _engines(
    sent: HeartbeatJson, own: OwnJson, source_ip: str, abilities: Mapping[str, EngineAbilities]
) -> NodeEngines:
    if sent.herd is None:
        return _ollama_herd_engine(sent, source_ip, abilities)
    listed = checks.part(own.engines, _ENGINES, "herd.engines")
    checks.at_most(len(listed), ENGINES_MAX, "herd.engines")
    checks.at_most(sum(len(engine.models) for engine in listed), MODELS_MAX, "herd.engines.models")
    endpoints: list[EngineEndpoint] = []
    models: dict[ModelName, ModelInfo] = {}
    for engine in listed:
        endpoint = EngineEndpoint(
            checks.name(engine.kind, "herd.engines.kind"),
            address(engine.url, source_ip),
            checks.text(engine.version, "herd.engines.version"),
            max(1, checks.integer(engine.slots, "herd.engines.slots", SLOTS_MAX)),
            checks.optional(engine.models_max, "herd.engines.models_max", SLOTS_MAX),
            address(engine.library_url, source_ip) if engine.library_url else "",
            abilities=abilities.get(engine.kind, NO_ABILITIES),
            silent_s=checks.number(engine.silent_s, "herd.engines.silent_s", SILENT_MAX_S),
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
    checks.at_most(len(model.capabilities), 64, f"{where}.capabilities")
    checks.at_most(len(model.lacks), 64, f"{where}.lacks")
    return ModelInfo(
        name=checks.name(model.name, f"{where}.name"),
        engine=endpoint,
        size_bytes=checks.integer(model.size_bytes, f"{where}.size_bytes"),
        digest=checks.text(model.digest, f"{where}.digest"),
        family=checks.text(model.family, f"{where}.family"),
        parameters=checks.text(model.parameters, f"{where}.parameters"),
        quantization=checks.text(model.quantization, f"{where}.quantization"),
        context_max_tokens=checks.optional(model.context_max_tokens, f"{where}.context_max_tokens"),
        capabilities=frozenset(checks.text(capability, f"{where}.capabilities") for capability in model.capabilities),
        lacks=frozenset(checks.text(capability, f"{where}.lacks") for capability in model.lacks),
        modified_at=checks.text(model.modified_at, f"{where}.modified_at"),
        kv_bytes_per_token=checks.optional(model.kv_bytes_per_token, f"{where}.kv_bytes_per_token"),
        loaded=Loaded(
            checks.integer(loaded.size_bytes, f"{where}.loaded.size_bytes"),
            checks.optional(loaded.context_tokens, f"{where}.loaded.context_tokens"),
            checks.optional(loaded.vram_bytes, f"{where}.loaded.vram_bytes"),
            loaded.context_explicit,
            checks.text(loaded.expires_at, f"{where}.loaded.expires_at"),
        )
        if loaded is not None
        else None,
    )


def _ollama_herd_engine(sent: HeartbeatJson, source_ip: str, abilities: Mapping[str, EngineAbilities]) -> NodeEngines:
    """An agent of ollama-herd has one Ollama, sends sizes in gigabytes, and sends 0 for unknown values."""
    ollama = checks.part(sent.ollama, _OLLAMA, "ollama")
    if ollama is None:
        return (), {}
    checks.at_most(len(ollama.models_available) + len(ollama.models_loaded), MODELS_MAX, "ollama.models_available")
    endpoint = EngineEndpoint(
        "ollama",
        address(sent.ollama_host or f"http://{bracketed(source_ip)}:{OLLAMA_PORT}", source_ip),
        checks.text(ollama.version or "", "ollama.version"),
        max(1, checks.integer(ollama.num_parallel or 1, "ollama.num_parallel", SLOTS_MAX)),
        checks.optional(ollama.max_loaded_models or None, "ollama.max_loaded_models", SLOTS_MAX),
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
    loaded_bytes = checks.gigabytes(loaded.size_gb, "ollama.models_loaded.size_gb") if loaded is not None else 0
    return ModelInfo(
        name=checks.name(name, "ollama.models_available"),
        engine=endpoint,
        size_bytes=checks.gigabytes(ollama.models_available_sizes.get(name, 0.0), "ollama.models_available_sizes")
        or loaded_bytes,
        digest=checks.text(
            meta.digest or (loaded.digest if loaded else None) or "", "ollama.models_available_meta.digest"
        ),
        family=checks.text(meta.family or "", "ollama.models_available_meta.family"),
        parameters=checks.text(
            meta.parameter_size or (loaded.parameter_size if loaded else None) or "", "ollama.parameter_size"
        ),
        quantization=checks.text(
            meta.quantization_level or (loaded.quantization if loaded else None) or "", "ollama.quantization"
        ),
        context_max_tokens=checks.optional(meta.context_length or None, "ollama.models_available_meta.context_length"),
        capabilities=frozenset(
            checks.text(capability, "ollama.capabilities") for capability in (meta.capabilities or [])[:64]
        ),
        loaded=Loaded(
            loaded_bytes, checks.optional(loaded.context_length or None, "ollama.models_loaded.context_length")
        )
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
    total = exact.get("total_bytes") or checks.gigabytes(sent.total_gb, "memory.total_gb")
    if total <= 0:
        raise BadHeartbeat("memory.total_gb must be greater than 0")
    available = exact.get("available_bytes")
    if available is None:
        used_gb = sent.used_gb if sent.used_gb is not None else 0.0
        available_gb = sent.available_gb if sent.available_gb is not None else sent.total_gb - used_gb
        available = checks.gigabytes(max(0.0, available_gb), "memory.available_gb")
    used = exact.get("used_bytes")
    if used is None:
        used = checks.gigabytes(sent.used_gb, "memory.used_gb") if sent.used_gb is not None else total - available
    if max(used, available) > total * SHARE_SLACK:
        raise BadHeartbeat("memory.used_gb and memory.available_gb must not exceed memory.total_gb")
    try:
        pressure = Pressure(sent.pressure)
    except ValueError:
        raise BadHeartbeat("memory.pressure must be normal, warn or critical") from None
    return Memory(
        total_bytes=checks.integer(total, "memory.total"),
        used_bytes=checks.integer(used, "memory.used"),
        available_bytes=checks.integer(available, "memory.available"),
        pressure=pressure,
        swap_used_bytes=checks.gigabytes(sent.swap_used_gb or 0.0, "memory.swap_used_gb"),
        swap_total_bytes=checks.gigabytes(sent.swap_total_gb or 0.0, "memory.swap_total_gb"),
        wired_bytes=checks.gigabytes(sent.wired_gb or 0.0, "memory.wired_gb"),
        compressed_bytes=checks.gigabytes(sent.compressed_gb or 0.0, "memory.compressed_gb"),
    )


def _disk(sent: DiskJson) -> Disk:
    return Disk(
        checks.gigabytes(sent.total_gb, "disk.total_gb"),
        checks.gigabytes(sent.used_gb, "disk.used_gb"),
        checks.gigabytes(sent.available_gb, "disk.available_gb"),
    )


def _gpus(sent: list[GpuJson]) -> tuple[Gpu, ...]:
    checks.at_most(len(sent), GPUS_MAX, "herd.gpus")
    return tuple(
        Gpu(
            checks.text(gpu.name, "herd.gpus.name"),
            checks.integer(gpu.memory_total_bytes, "herd.gpus.memory_total_bytes"),
            checks.integer(gpu.memory_used_bytes, "herd.gpus.memory_used_bytes"),
            None if gpu.utilization is None else checks.number(gpu.utilization, "herd.gpus.utilization", CPU_MAX_PCT),
            checks.temperature(gpu.temperature_c),
        )
        for gpu in sent
    )


def _capacity(sent: CapacityJson, trend: str, week: Sequence[float | None]) -> Capacity:
    return Capacity(
        mode=checks.text(sent.mode, "capacity.mode"),
        ceiling_bytes=checks.gigabytes(sent.ceiling_gb, "capacity.ceiling_gb"),
        score=checks.number(sent.availability_score, "capacity.availability_score", 1.0),
        trend=trend if trend in ("rising", "stable", "falling") else "stable",
        reason=checks.text(sent.reason, "capacity.reason"),
        paused=sent.mode in PAUSED_MODES,
        override_active=sent.override_active,
        learning_confidence=checks.number(sent.learning_confidence, "capacity.learning_confidence", 1.0),
        days_observed=checks.integer(sent.days_observed, "capacity.days_observed", 1 << 20),
        week=_week(week),
    )


def _week(sent: Sequence[float | None]) -> tuple[float | None, ...] | None:
    if not sent:
        return None
    if len(sent) != HOURS_PER_WEEK:
        raise BadHeartbeat(f"herd.week: must have {HOURS_PER_WEEK} values or none")
    return tuple(None if hour is None else checks.number(hour, "herd.week", 1.0) for hour in sent)
