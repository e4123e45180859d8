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


class EngineJson(_Struct):
    kind: str
    url: str
    version: str = ""
    slots: int = 1
    models_max: int | None = None
    models: list[ModelJson] = []
    library_url: str = ""
    silent_s: float = 0.0


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


class CpuJson(_Struct):
    cores_physical: int | None = None
    utilization_pct: float | None = None


class MemoryJson(_Struct, kw_only=True):
    total_gb: float
    used_gb: float | None = None
    available_gb: float | None = None
    pressure: str = "normal"
    wired_gb: float | None = None
    compressed_gb: float | None = None
    swap_used_gb: float | None = None
    swap_total_gb: float | None = None


class ThermalJson(_Struct):
    state: str = "unknown"
    temperature_c: float | None = None
    source: str = ""


class DiskJson(_Struct):
    total_gb: float = 0.0
    used_gb: float = 0.0
    available_gb: float = 0.0


class LoadedModelJson(_Struct, kw_only=True):
    name: str
    size_gb: float = 0.0
    requests_active: int = 0
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


class OllamaJson(_Struct, kw_only=True):
    models_loaded: list[LoadedModelJson] = []
    models_available: list[str] = []
    models_available_sizes: dict[str, float] = {}
    models_available_meta: dict[str, ModelMetaJson] = {}
    num_parallel: int | None = None
    max_loaded_models: int | None = None
    requests_active: int = 0
    version: str | None = None


class CapacityJson(_Struct):
    mode: str = "full"
    ceiling_gb: float = 0.0
    availability_score: float = 1.0
    reason: str = ""
    override_active: bool = False
    learning_confidence: float = 0.0
    days_observed: int = 0


NO_OLLAMA = msgspec.Raw(b"null")


class HeartbeatJson(_Struct, kw_only=True):
    node_id: str
    memory: MemoryJson
    arch: str | None = None
    timestamp: float | None = None
    agent_version: str | None = None
    ollama_host: str | None = None
    lan_ip: str | None = None
    draining: bool = False
    chip: str | None = None
    memory_bandwidth_gbps: float | None = None
    connection_failures: int = 0
    cpu: CpuJson | None = None
    thermal: ThermalJson | None = None
    disk: DiskJson | None = None
    ollama: msgspec.Raw = NO_OLLAMA
    """An `OllamaJson` or null, decoded only if there is no object `herd`."""
    capacity: CapacityJson | None = None
    herd: OwnJson | None = None
