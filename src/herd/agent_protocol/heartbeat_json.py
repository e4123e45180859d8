"""Defines the JSON of a heartbeat: the public fields of ollama-herd, and the object `herd` of our own agents."""

from __future__ import annotations

import msgspec

VERSION = 1
GIB = 1 << 30
"""The public `_gb` fields are in units of 1024^3 bytes, as in ollama-herd."""
BODY_MAX_BYTES = 256 * 1024
MODELS_MAX = 512
ENGINES_MAX = 16
GPUS_MAX = 32
PAUSED_MODES = frozenset({"paused", "bootstrap"})
"""Modes of capacity learning in which a node accepts no requests: paused for local use, or in its first week."""


class _Struct(msgspec.Struct, omit_defaults=True):
    pass


class LoadedJson(_Struct):
    size_bytes: int = 0
    context_tokens: int | None = None
    vram_bytes: int | None = None
    context_explicit: bool | None = None
    expires_at: str = ""


class ModelJson(_Struct, kw_only=True):
    name: str
    size_bytes: int = 0
    digest: str = ""
    family: str = ""
    parameters: str = ""
    quantization: str = ""
    context_max_tokens: int | None = None
    capabilities: list[str] = []
    lacks: list[str] = []
    modified_at: str = ""
    kv_bytes_per_token: int | None = None
    loaded: LoadedJson | None = None


class EngineJson(_Struct, kw_only=True):
    kind: str
    url: str
    version: str = ""
    slots: int = 1
    models_max: int | None = None
    models: list[ModelJson] = []
    library_url: str = ""
    silent_s: float = 0.0
    problem: str = ""
    remedy: str = ""
    instance: str = ""
    gpus: list[int] | None = None


class GpuJson(_Struct):
    name: str = ""
    memory_total_bytes: int = 0
    memory_used_bytes: int = 0
    utilization: float | None = None
    temperature_c: float | None = None


NO_ENGINES = msgspec.Raw(b"[]")


class OwnJson(_Struct, kw_only=True):
    """The object `herd`, which only our own agents send; `v` is its version."""

    v: int = VERSION
    boot_id: str = ""
    os: str = ""
    paused: bool = False
    trend: str = "stable"
    engines: msgspec.Raw = NO_ENGINES
    """A list of `EngineJson`. It is decoded only if it differs from the node's previous one: it is the largest part."""
    gpus: list[GpuJson] = []
    memory: dict[str, int] = {}
    week: list[float | None] = []
    labels: list[str] = []
    budget: dict[str, int] = {}


class CpuJson(_Struct):
    cores_physical: int | None = None
    utilization_pct: float | None = None


class MemoryJson(_Struct, kw_only=True):
    total_gb: float
    used_gb: float | None = None
    available_gb: float | None = None
    pressure: str | None = None
    wired_gb: float | None = None
    compressed_gb: float | None = None
    swap_used_gb: float | None = None
    swap_total_gb: float | None = None


class ThermalJson(_Struct):
    state: str | None = None
    temperature_c: float | None = None
    source: str | None = None


class DiskJson(_Struct):
    total_gb: float | None = None
    used_gb: float | None = None
    available_gb: float | None = None


class LoadedModelJson(_Struct, kw_only=True):
    name: str
    size_gb: float | None = None
    requests_active: int | None = None
    parameter_size: str | None = None
    quantization: str | None = None
    context_length: int | None = None
    runner: str | None = None
    digest: str | None = None


class ModelMetaJson(_Struct):
    digest: str | None = None
    family: str | None = None
    parameter_size: str | None = None
    quantization_level: str | None = None
    capabilities: list[str] | None = None
    context_length: int | None = None
    modified_at: str | None = None


class OllamaJson(_Struct, kw_only=True):
    models_loaded: list[LoadedModelJson] | None = None
    models_available: list[str] | None = None
    models_available_sizes: dict[str, float | None] | None = None
    """In units of 1000^3 bytes, unlike every other `_gb` field."""
    models_available_meta: dict[str, ModelMetaJson | None] | None = None
    """None: unchanged since the heartbeat that had it."""
    num_parallel: int | None = None
    max_loaded_models: int | None = None
    requests_active: int | None = None
    version: str | None = None


class MlxServerJson(_Struct, kw_only=True):
    """A server of mlx-lm that the agent supervises; its model is listed as `mlx:MODEL` while it is healthy."""

    port: int | None = None
    model: str | None = None
    status: str | None = None
    status_reason: str | None = None
    context_length: int | None = None
    model_size_gb: float | None = None


class CapacityJson(_Struct):
    mode: str | None = None
    ceiling_gb: float | None = None
    availability_score: float | None = None
    reason: str | None = None
    override_active: bool | None = None
    learning_confidence: float | None = None
    days_observed: int | None = None


NO_OLLAMA = msgspec.Raw(b"null")


class HeartbeatJson(_Struct, kw_only=True):
    """Every field but two may be missing or null: agents of other versions send less, and null for "unknown"."""

    node_id: str
    memory: MemoryJson
    arch: str | None = None
    timestamp: float | None = None
    agent_version: str | None = None
    ollama_host: str | None = None
    lan_ip: str | None = None
    draining: bool | None = None
    chip: str | None = None
    memory_bandwidth_gbps: float | None = None
    connection_failures: int | None = None
    cpu: CpuJson | None = None
    thermal: ThermalJson | None = None
    disk: DiskJson | None = None
    ollama: msgspec.Raw = NO_OLLAMA
    """An `OllamaJson` or null, decoded only if there is no object `herd`."""
    mlx_servers: list[MlxServerJson] | None = None
    mlx_bind_host: str | None = None
    mlx_version: str | None = None
    capacity: CapacityJson | None = None
    herd: OwnJson | None = None


NOT_SENT = msgspec.Raw()
"""A field that the heartbeat does not have."""


class OriginJson(_Struct, kw_only=True):
    """The parts of a heartbeat that show which program sent it."""

    node_id: str
    draining: bool | None = None
    ollama: msgspec.Raw = NOT_SENT
    herd: msgspec.Raw = NOT_SENT


class DrainSignalJson(_Struct, kw_only=True):
    """What an agent of ollama-herd sends to `/heartbeat` when it stops: no report, only that it takes no requests."""

    node_id: str
    draining: bool | None = None
    memory: msgspec.Raw = NOT_SENT
