"""Decodes and validates a heartbeat, and rejects values outside their range.

The public fields are those of ollama-herd, so that its agents can report here during a migration. Our own agents add an
object `herd` with exact values for the scheduler (bytes, slots, boot id, several engines), which take precedence.
Unknown fields are ignored and missing optional fields get defaults, so that agent and coordinator can have different
versions.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import msgspec

from herd.agent_protocol import heartbeat_checks as checks
from herd.agent_protocol import ollama_herd_agent
from herd.agent_protocol.heartbeat_checks import BadHeartbeat
from herd.agent_protocol.heartbeat_json import (
    BODY_MAX_BYTES,
    ENGINES_MAX,
    GPUS_MAX,
    MODELS_MAX,
    NOT_SENT,
    PAUSED_MODES,
    CapacityJson,
    DiskJson,
    DrainSignalJson,
    EngineJson,
    GpuJson,
    HeartbeatJson,
    MemoryJson,
    ModelJson,
    OriginJson,
    OwnJson,
)
from herd.bounded import BoundedDict
from herd.core.lifecycle.node_names import boot_id_at
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
from herd.core.state.nodes.budget import NO_BUDGET, Budget
from herd.core.state.nodes.labels import parse_labels

CPU_MAX_PCT = 1000.0
SHARE_SLACK = 1.02
"""How much used or available memory may exceed the total: older agents round and read the values at different times."""
HOURS_PER_WEEK = 168
NO_LABELS: frozenset[str] = frozenset()
SILENT_MAX_S = 1e9
NO_MACHINE = NodeId("")
DRAIN_SIGNAL_MAX_BYTES = 2048

NO_ENGINES: Mapping[str, EngineAbilities] = MappingProxyType({})
EngineParts = dict[str, ollama_herd_agent.NodeEngines]
"""The engines with their models by `EngineEndpoint.instance`; the node's own have the key ""."""


_ENGINES: msgspec.json.Decoder[list[EngineJson]] = msgspec.json.Decoder(list[EngineJson])
_ORIGIN = msgspec.json.Decoder(OriginJson)
_DRAIN_SIGNAL = msgspec.json.Decoder(DrainSignalJson)


@dataclass(frozen=True, slots=True)
class _Known:
    raw: bytes
    source_ip: str
    engines: EngineParts


class KnownEngines:
    """The engines of each node in its last heartbeat. Most heartbeats repeat them: then the same objects are used, so
    that nothing is decoded, and values that were computed from them stay valid."""

    def __init__(self) -> None:
        self._of_node = BoundedDict[str, _Known](ollama_herd_agent.NODES_MAX)
        self.described = ollama_herd_agent.DescribedModels()

    def find(self, node_id: str, raw: msgspec.Raw, source_ip: str) -> EngineParts | None:
        known = self._of_node.get(node_id)
        return known.engines if known is not None and known.raw == bytes(raw) and known.source_ip == source_ip else None

    def add(self, node_id: str, raw: msgspec.Raw, source_ip: str, engines: EngineParts) -> None:
        self._of_node[node_id] = _Known(bytes(raw), source_ip, engines)


def decode(
    body: bytes,
    source_ip: str,
    abilities: Mapping[str, EngineAbilities] = NO_ENGINES,
    known: KnownEngines | None = None,
) -> Report:
    """The report of the node itself, as `decode_all` reads it."""
    return decode_all(body, source_ip, abilities, known)[0]


def decode_all(
    body: bytes,
    source_ip: str,
    abilities: Mapping[str, EngineAbilities] = NO_ENGINES,
    known: KnownEngines | None = None,
) -> tuple[Report, ...]:
    """The reports in this body, sent from `source_ip`: of the node itself, then of each further engine of its machine.

    Raises only `BadHeartbeat`, which specifies the invalid field.
    """
    if len(body) > BODY_MAX_BYTES:
        raise BadHeartbeat(f"the heartbeat is larger than {BODY_MAX_BYTES} bytes")
    try:
        sent = msgspec.json.decode(body, type=HeartbeatJson)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise BadHeartbeat(f"the heartbeat cannot be read: {error}") from None
    own = sent.herd or OwnJson()
    if sent.herd is None:
        described = (known or KnownEngines()).described
        parts = {"": ollama_herd_agent.engines(sent, source_ip, abilities, described)}
    else:
        found = known.find(sent.node_id, own.engines, source_ip) if known is not None else None
        parts = found or _engines(own, source_ip, abilities)
        if known is not None and found is None:
            known.add(sent.node_id, own.engines, source_ip, parts)
    engines, models = parts[""]
    report = Report(
        node_id=NodeId(checks.name(sent.node_id, "node_id")),
        boot_id=checks.text(own.boot_id, "herd.boot_id") or boot_id_at(source_ip),
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
        thermal_state=checks.text((sent.thermal.state if sent.thermal else None) or "unknown", "thermal.state"),
        temperature_c=checks.temperature(sent.thermal.temperature_c if sent.thermal else None),
        draining=bool(sent.draining),
        paused=own.paused,
        capacity=_capacity(sent.capacity, own.trend, own.week) if sent.capacity else None,
        labels=_labels(own.labels),
        own_budget=_budget(own.budget) if own.budget else NO_BUDGET,
        connection_failures=checks.integer(sent.connection_failures, "connection_failures", 1 << 31),
        clock_s=sent.timestamp if sent.timestamp is not None and math.isfinite(sent.timestamp) else None,
    )
    if len(parts) == 1:
        return (report,)
    further = [_further(report, instance, *part) for instance, part in parts.items() if instance]
    return (dataclasses.replace(report, gpus=_gpus_of(engines, report.gpus)), *further)


def further_id(machine: NodeId, instance: str) -> NodeId:
    """The name of a further engine's node: `box:11436`."""
    return NodeId(f"{machine}:{instance}")


def _further(
    report: Report, instance: str, engines: tuple[EngineEndpoint, ...], models: Mapping[ModelName, ModelInfo]
) -> Report:
    return dataclasses.replace(
        report,
        node_id=further_id(report.node_id, instance),
        machine=report.node_id,
        engines=engines,
        models=models,
        gpus=_gpus_of(engines, report.gpus),
    )


def _gpus_of(engines: tuple[EngineEndpoint, ...], gpus: tuple[Gpu, ...]) -> tuple[Gpu, ...]:
    """The graphics cards that these engines may use; all if one of them does not say which."""
    limits = [endpoint.gpus for endpoint in engines]
    if not limits or any(limit is None for limit in limits):
        return gpus
    allowed = {index for limit in limits if limit is not None for index in limit}
    return tuple(gpu for index, gpu in enumerate(gpus) if index in allowed)


def ollama_herd_node(body: bytes) -> str:
    """The node's name if an agent of ollama-herd sent this: a report without our object `herd`, or the signal of its
    end; else empty."""
    try:
        sent = _ORIGIN.decode(body)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return ""
    is_theirs = sent.herd == NOT_SENT and (sent.ollama != NOT_SENT or bool(sent.draining))
    return sent.node_id if is_theirs else ""


def drain_signal(body: bytes) -> NodeId | None:
    """The node that an agent of ollama-herd stops, if this body is only that signal and no report."""
    if len(body) > DRAIN_SIGNAL_MAX_BYTES:
        return None
    try:
        sent = _DRAIN_SIGNAL.decode(body)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return None
    return NodeId(checks.name(sent.node_id, "node_id")) if sent.draining and sent.memory == NOT_SENT else None


def with_node_id(report: Report, node_id: NodeId, machine: NodeId = NO_MACHINE) -> Report:
    """The same report with the name that the coordinator assigned to the node, and to its machine's own node."""
    return dataclasses.replace(report, node_id=node_id, machine=machine)


def _engines(own: OwnJson, source_ip: str, abilities: Mapping[str, EngineAbilities]) -> EngineParts:
    listed = checks.part(own.engines, _ENGINES, "herd.engines")
    checks.at_most(len(listed), ENGINES_MAX, "herd.engines")
    checks.at_most(sum(len(engine.models) for engine in listed), MODELS_MAX, "herd.engines.models")
    endpoints: dict[str, list[EngineEndpoint]] = {"": []}
    models_of: dict[str, dict[ModelName, ModelInfo]] = {"": {}}
    for engine in listed:
        instance = checks.text(engine.instance, "herd.engines.instance")
        endpoint = EngineEndpoint(
            checks.name(engine.kind, "herd.engines.kind"),
            checks.address(engine.url, source_ip),
            checks.text(engine.version, "herd.engines.version"),
            max(1, checks.integer(engine.slots, "herd.engines.slots", ollama_herd_agent.SLOTS_MAX)),
            checks.optional(engine.models_max, "herd.engines.models_max", ollama_herd_agent.SLOTS_MAX),
            checks.address(engine.library_url, source_ip) if engine.library_url else "",
            abilities=abilities.get(engine.kind, NO_ABILITIES),
            silent_s=checks.number(engine.silent_s, "herd.engines.silent_s", SILENT_MAX_S),
            problem=checks.text(engine.problem, "herd.engines.problem"),
            remedy=checks.text(engine.remedy, "herd.engines.remedy"),
            instance=instance,
            gpus=tuple(engine.gpus) if engine.gpus is not None else None,
        )
        endpoints.setdefault(instance, []).append(endpoint)
        models = models_of.setdefault(instance, {})
        for model in engine.models:
            # Two engines of a node can have the same model: the engine that has it in memory is used.
            model_info = _model_info(model, endpoint)
            known = models.get(canonical(model_info.name))
            if known is None or (known.loaded is None and model_info.loaded is not None):
                models[canonical(model_info.name)] = model_info
    return {instance: (tuple(found), models_of[instance]) for instance, found in endpoints.items()}


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
        pressure = Pressure(sent.pressure or "normal")
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
        checks.gigabytes(sent.total_gb or 0.0, "disk.total_gb"),
        checks.gigabytes(sent.used_gb or 0.0, "disk.used_gb"),
        checks.gigabytes(sent.available_gb or 0.0, "disk.available_gb"),
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
    score = 1.0 if sent.availability_score is None else sent.availability_score
    return Capacity(
        mode=checks.text(sent.mode or "full", "capacity.mode"),
        ceiling_bytes=checks.gigabytes(sent.ceiling_gb or 0.0, "capacity.ceiling_gb"),
        score=checks.number(score, "capacity.availability_score", 1.0),
        trend=trend if trend in ("rising", "stable", "falling") else "stable",
        reason=checks.text(sent.reason or "", "capacity.reason"),
        paused=sent.mode in PAUSED_MODES,
        override_active=bool(sent.override_active),
        learning_confidence=checks.number(sent.learning_confidence, "capacity.learning_confidence", 1.0),
        days_observed=checks.integer(sent.days_observed, "capacity.days_observed", 1 << 20),
        week=_week(week),
    )


def _budget(sent: Mapping[str, int]) -> Budget:
    return Budget(
        checks.optional(sent.get("memory_bytes"), "herd.budget.memory_bytes"),
        checks.optional(sent.get("disk_bytes"), "herd.budget.disk_bytes"),
    )


def _labels(sent: list[str]) -> frozenset[str]:
    try:
        return parse_labels(sent) if sent else NO_LABELS
    except ValueError as error:
        raise BadHeartbeat(f"herd.labels: {error}") from None


def _week(sent: Sequence[float | None]) -> tuple[float | None, ...] | None:
    if not sent:
        return None
    if len(sent) != HOURS_PER_WEEK:
        raise BadHeartbeat(f"herd.week: must have {HOURS_PER_WEEK} values or none")
    return tuple(None if hour is None else checks.number(hour, "herd.week", 1.0) for hour in sent)
