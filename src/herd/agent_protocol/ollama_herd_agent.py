"""Reads the engines and models in a heartbeat of an ollama-herd agent: one Ollama, and servers of mlx-lm.

Facts of its version 0.11.4: it sends 0 for unknown values, null for a description of the models that has not changed,
sizes of available models in units of 1000^3 bytes, and all other sizes in units of 1024^3 bytes. It lists the model of
each healthy server of mlx-lm among Ollama's models, as `mlx:MODEL`; the server itself knows it as `MODEL`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import msgspec

from herd.addresses import bracketed
from herd.agent_protocol import heartbeat_checks as checks
from herd.agent_protocol.heartbeat_json import (
    ENGINES_MAX,
    MODELS_MAX,
    HeartbeatJson,
    LoadedModelJson,
    MlxServerJson,
    ModelMetaJson,
    OllamaJson,
)
from herd.bounded import BoundedDict
from herd.core.state.capabilities import THINKING
from herd.core.state.fleet import (
    GB,
    NO_ABILITIES,
    EngineAbilities,
    EngineEndpoint,
    Loaded,
    ModelInfo,
    ModelName,
    canonical,
)

SLOTS_MAX = 4096
OLLAMA_PORT = 11434
PORT_MAX = 65535
NODES_MAX = 4096
"""Nodes whose descriptions of models are remembered."""
NAME_CHARACTERS_SHOWN = 80
MLX_PREFIX = "mlx:"
MLX_HEALTHY = "healthy"
MLX_KIND = "openai"
"""The engine whose protocol a server of mlx-lm has."""
ALL_ADDRESSES_HINT = "start its agent with FLEET_NODE_MLX_BIND_HOST=0.0.0.0"
_LOOPBACK = ("127.", "::1", "localhost")

_NO_THINKING = frozenset((THINKING,))

_OLLAMA: msgspec.json.Decoder[OllamaJson | None] = msgspec.json.Decoder(OllamaJson | None)

NodeEngines: TypeAlias = tuple[tuple[EngineEndpoint, ...], Mapping[ModelName, ModelInfo]]
Descriptions: TypeAlias = Mapping[str, ModelMetaJson | None]


class DescribedModels:
    """The newest description of each node's models: digests, families, capabilities. Few heartbeats repeat it."""

    def __init__(self) -> None:
        self._of_node = BoundedDict[tuple[str, str], Descriptions](NODES_MAX)

    def update(self, node_id: str, source_ip: str, sent: Descriptions | None) -> Descriptions:
        """The newest description. `sent` is None if it has not changed."""
        if sent is not None:
            self._of_node[node_id, source_ip] = sent
            return sent
        return self._of_node.get((node_id, source_ip)) or {}


def engines(
    sent: HeartbeatJson, source_ip: str, abilities: Mapping[str, EngineAbilities], described: DescribedModels
) -> NodeEngines:
    """The node's engines and their models, by canonical names. Raises `BadHeartbeat`."""
    ollama = checks.part(sent.ollama, _OLLAMA, "ollama")
    mlx = sent.mlx_servers or []
    checks.at_most(len(mlx), ENGINES_MAX - 1, "mlx_servers")
    endpoints: list[EngineEndpoint] = []
    models: dict[ModelName, ModelInfo] = {}
    if ollama is not None:
        endpoint = _ollama(sent, ollama, source_ip, abilities)
        endpoints.append(endpoint)
        models.update(_ollama_models(ollama, endpoint, sent.node_id, source_ip, described))
    for server in mlx:
        if server.model and server.status == MLX_HEALTHY:
            endpoint = _mlx(sent, server, source_ip, abilities)
            endpoints.append(endpoint)
            if not endpoint.problem:
                models.setdefault(canonical(server.model), _mlx_model(server.model, server, endpoint))
    return tuple(endpoints), models


def _ollama(
    sent: HeartbeatJson, ollama: OllamaJson, source_ip: str, abilities: Mapping[str, EngineAbilities]
) -> EngineEndpoint:
    return EngineEndpoint(
        "ollama",
        checks.address(sent.ollama_host or f"http://{bracketed(source_ip)}:{OLLAMA_PORT}", source_ip),
        checks.text(ollama.version or "", "ollama.version"),
        max(1, checks.integer(ollama.num_parallel or 1, "ollama.num_parallel", SLOTS_MAX)),
        checks.optional(ollama.max_loaded_models or None, "ollama.max_loaded_models", SLOTS_MAX),
        abilities=abilities.get("ollama", NO_ABILITIES),
    )


def _ollama_models(
    ollama: OllamaJson, endpoint: EngineEndpoint, node_id: str, source_ip: str, described: DescribedModels
) -> dict[ModelName, ModelInfo]:
    available, loaded_models = ollama.models_available or [], ollama.models_loaded or []
    checks.at_most(len(available) + len(loaded_models), MODELS_MAX, "ollama.models_available")
    if ollama.models_available_meta is not None:
        checks.at_most(len(ollama.models_available_meta), MODELS_MAX, "ollama.models_available_meta")
    descriptions = described.update(node_id, source_ip, ollama.models_available_meta)
    loaded = {canonical(model.name): model for model in loaded_models if not _is_mlx(model.name)}
    names = {canonical(name): name for name in available if not _is_mlx(name)}
    names.update({key: model.name for key, model in loaded.items() if key not in names})
    sizes = ollama.models_available_sizes or {}
    return {
        key: _ollama_model(
            checks.name(name, "ollama.models_available"),
            loaded.get(key),
            descriptions.get(name) or ModelMetaJson(),
            _decimal_gigabytes(sizes.get(name) or 0.0),
            endpoint,
        )
        for key, name in names.items()
    }


def _is_mlx(name: str) -> bool:
    return name.startswith(MLX_PREFIX)


def _decimal_gigabytes(value: float) -> int:
    return round(checks.number(value, "ollama.models_available_sizes", checks.BYTES_MAX / GB) * GB)


def _ollama_model(
    name: str, loaded: LoadedModelJson | None, meta: ModelMetaJson, size_bytes: int, endpoint: EngineEndpoint
) -> ModelInfo:
    loaded_bytes = checks.gigabytes(loaded.size_gb or 0.0, "ollama.models_loaded.size_gb") if loaded is not None else 0
    window_tokens = loaded.context_length or None if loaded is not None else None
    capabilities = frozenset(
        checks.text(capability, "ollama.capabilities") for capability in (meta.capabilities or [])[:64]
    )
    return ModelInfo(
        name=name,
        engine=endpoint,
        size_bytes=size_bytes or loaded_bytes,
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
        capabilities=capabilities,
        lacks=_lacks(capabilities),
        modified_at=checks.text(meta.modified_at or "", "ollama.models_available_meta.modified_at"),
        loaded=Loaded(loaded_bytes, checks.optional(window_tokens, "ollama.models_loaded.context_length"))
        if loaded is not None
        else None,
    )


def _lacks(capabilities: frozenset[str]) -> frozenset[str]:
    """What Ollama would refuse. The list of /api/tags, which this agent passes on, may have too few: therefore only
    thinking, which a model that can think does by default, also if the request no longer asks for it."""
    return _NO_THINKING if capabilities and THINKING not in capabilities else frozenset()


def _mlx(
    sent: HeartbeatJson, server: MlxServerJson, source_ip: str, abilities: Mapping[str, EngineAbilities]
) -> EngineEndpoint:
    """The server as the coordinator reaches it, with its problem if the coordinator cannot reach it."""
    port = checks.integer(server.port, "mlx_servers.port", PORT_MAX)
    listens_at = (sent.mlx_bind_host or checks.LOOPBACK)[:NAME_CHARACTERS_SHOWN]
    model = (server.model or "")[:NAME_CHARACTERS_SHOWN]
    problem = ""
    if not port:
        problem = f"the server of {model} has no port"
    elif listens_at.startswith(_LOOPBACK) and not source_ip.startswith(_LOOPBACK):
        problem = f"the server of {model} listens on {listens_at} only; {ALL_ADDRESSES_HINT}"
    return EngineEndpoint(
        MLX_KIND,
        checks.address(f"http://{checks.LOOPBACK}:{port or 1}", source_ip),
        checks.text(f"mlx-lm {sent.mlx_version}" if sent.mlx_version else "", "mlx_version"),
        abilities=abilities.get(MLX_KIND, NO_ABILITIES),
        problem=checks.text(problem, "mlx_servers.model"),
    )


def _mlx_model(name: str, server: MlxServerJson, endpoint: EngineEndpoint) -> ModelInfo:
    window_tokens = checks.optional(server.context_length or None, "mlx_servers.context_length")
    size_bytes = checks.gigabytes(server.model_size_gb or 0.0, "mlx_servers.model_size_gb")
    return ModelInfo(
        name=checks.name(name, "mlx_servers.model"),
        engine=endpoint,
        size_bytes=size_bytes,
        context_max_tokens=window_tokens,
        loaded=Loaded(size_bytes, window_tokens),
    )
