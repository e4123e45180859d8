"""The heartbeats of the agent of ollama-herd 0.11.4 are decoded, whatever is null or missing in them."""

from __future__ import annotations

import json
from copy import deepcopy
from typing import Any

import pytest

from herd.agent_protocol.heartbeat_checks import BadHeartbeat
from herd.agent_protocol.heartbeat_decode import KnownEngines, decode, drain_signal
from herd.core.state.fleet import GB, Loaded, ModelInfo, Report, canonical

GIB = 1 << 30
NODE_IP = "192.168.1.20"
MLX_MODEL = "mlx-community/Qwen3-Coder-4bit"
REQUIRED = {("node_id",), ("memory",), ("memory", "total_gb")}
"""What a report cannot be without."""

META: dict[str, Any] = {
    "modified_at": "2026-11-27T20:34:02.447925819Z",
    "digest": "39" * 32,
    "format": "gguf",
    "family": "llama",
    "families": ["llama"],
    "parameter_size": "3.2B",
    "quantization_level": "Q4_K_M",
    "parent_model": "",
    "capabilities": ["completion", "tools"],
}
SENT: dict[str, Any] = {
    "node_id": "studio",
    "arch": "apple_silicon",
    "timestamp": 1795811643.5,
    "cpu": {"cores_physical": 12, "utilization_pct": 100.0},
    "memory": {
        "total_gb": 63.54,
        "used_gb": 12.24,
        "available_gb": 51.3,
        "pressure": "normal",
        "wired_gb": 0.0,
        "compressed_gb": 0.0,
        "swap_used_gb": 0.0,
        "swap_total_gb": 0.0,
    },
    "thermal": {"state": "unknown", "temperature_c": None, "source": ""},
    "disk": {"total_gb": 251.97, "used_gb": 25.7, "available_gb": 65.38},
    "ollama": {
        "models_loaded": [
            {
                "name": "llama3.2:3b",
                "size_gb": 3.5,
                "requests_active": 0,
                "parameter_size": "3.2B",
                "quantization": "Q4_K_M",
                "context_length": 8192,
                "runner": "",
                "digest": "39" * 32,
            }
        ],
        "models_available": ["llama3.2:3b", f"mlx:{MLX_MODEL}"],
        "models_available_meta": {"llama3.2:3b": META},
        "models_available_sizes": {"llama3.2:3b": 2.019393189, f"mlx:{MLX_MODEL}": 17.2},
        "max_loaded_models": 0,
        "num_parallel": 0,
        "requests_active": 0,
        "version": "0.32.15",
        "backend_clients": [
            {"pid": 4, "process": "python", "cmdline": "", "peer": "127.0.0.1", "connections": 1, "loopback": True}
        ],
    },
    "ollama_host": f"http://{NODE_IP}:11434",
    "lan_ip": NODE_IP,
    "draining": False,
    "capacity": {
        "mode": "full",
        "ceiling_gb": 48.0,
        "availability_score": 1.0,
        "reason": "",
        "override_active": False,
        "learning_confidence": 0.0,
        "days_observed": 0,
    },
    "agent_version": "0.11.4",
    "process_memory": {"footprint_gb": 0.0, "peak_gb": 0.0, "rss_gb": 0.055, "children": []},
    "mlx_version": "0.28.1",
    "image": {"models_available": [{"name": "flux-dev", "binary": "mflux-generate"}], "generating": False},
    "image_port": 11436,
    "transcription": None,
    "transcription_port": 0,
    "vision_embedding": None,
    "vision_embedding_port": 0,
    "vision_embedding_status": {"backend_available": False, "cached_model_count": 0},
    "text_embedding": None,
    "text_embedding_port": 0,
    "text_embedding_status": {"backend_available": False, "cached_model_count": 0},
    "connection_failures": 0,
    "connection_failures_total": 0,
    "chip": "Apple M3 Max",
    "memory_bandwidth_gbps": 400.0,
    "mlx_servers": [
        {
            "port": 11440,
            "model": MLX_MODEL,
            "status": "healthy",
            "status_reason": "",
            "kv_bits": 0,
            "context_length": 32768,
            "model_size_gb": 16.0,
            "last_ok_ts": 1795811640.0,
            "distributed": False,
            "backend": "",
            "node_count": 1,
        }
    ],
    "mlx_bind_host": "0.0.0.0",
}
"""A heartbeat that the agent of version 0.11.4 sent on Linux, with the values of a Mac that runs mlx-lm."""


def paths_of(value: object, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(found for key, one in inner for found in paths_of(one, (*path, key)))]


FIELDS = [path for path in paths_of(SENT) if path and isinstance(path[-1], str) and path not in REQUIRED]
NAMES = {("ollama", "models_loaded", 0, "name")}
"""A name cannot be null inside a list of names."""


def sent(**changes: Any) -> Report:
    return decode(json.dumps({**SENT, **changes}).encode(), NODE_IP)


def without_meta(**changes: Any) -> bytes:
    return json.dumps({**SENT, **changes, "ollama": {**SENT["ollama"], "models_available_meta": None}}).encode()


def ollama_model(report: Report) -> ModelInfo:
    return report.models[canonical("llama3.2:3b")]


def test_report_has_the_values_that_the_agent_sent() -> None:
    model_info = ollama_model(sent())
    assert (model_info.size_bytes, model_info.digest, model_info.family) == (2_019_393_189, "39" * 32, "llama")
    assert model_info.loaded == Loaded(int(3.5 * GIB), 8192)
    assert model_info.modified_at == META["modified_at"] and model_info.capabilities == {"completion", "tools"}


def test_a_model_that_lists_no_thinking_lacks_it_and_nothing_else() -> None:
    """Ollama refuses thinking with 400; of the other capabilities its list, which the agent passes on, has too few."""
    assert ollama_model(sent()).lacks == {"thinking"}
    described = deepcopy(SENT)
    for capabilities, lacks in (([], set()), (None, set()), (["completion", "thinking"], set())):
        described["ollama"]["models_available_meta"] = {"llama3.2:3b": {**META, "capabilities": capabilities}}
        assert ollama_model(decode(json.dumps(described).encode(), NODE_IP)).lacks == lacks


@pytest.mark.parametrize("path", [path for path in FIELDS if path not in NAMES], ids=str)
@pytest.mark.parametrize("is_null", [True, False], ids=["null", "missing"])
def test_every_optional_value_may_be_null_or_missing(path: tuple[str | int, ...], is_null: bool) -> None:
    changed = deepcopy(SENT)
    inner: Any = changed
    for step in path[:-1]:
        inner = inner[step]
    if is_null:
        inner[path[-1]] = None
    else:
        del inner[path[-1]]
    assert decode(json.dumps(changed).encode(), NODE_IP).node_id == "studio"


def test_unknown_fields_at_every_level_are_ignored() -> None:
    changed = deepcopy(SENT)
    for path in [(), *(path for path in paths_of(SENT) if path)]:
        inner: Any = changed
        for step in path:
            inner = inner[step]
        if isinstance(inner, dict) and path[-1:] not in (("models_available_sizes",), ("models_available_meta",)):
            inner["from_the_future"] = {"x": [1]}
    assert decode(json.dumps(changed).encode(), NODE_IP) == sent()


def test_null_description_keeps_the_previous_one_of_the_same_node() -> None:
    known = KnownEngines()
    first = decode(json.dumps(SENT).encode(), NODE_IP, known=known)
    assert decode(without_meta(), NODE_IP, known=known).models == first.models
    for stranger in (decode(without_meta(node_id="other"), NODE_IP, known=known), decode(without_meta(), "10.0.0.9")):
        assert ollama_model(stranger).family == ""


def test_loaded_model_keeps_its_digest_when_the_description_is_unknown() -> None:
    assert ollama_model(decode(without_meta(), NODE_IP)).digest == "39" * 32


def test_model_of_mlx_is_served_by_its_own_server_and_never_by_ollama() -> None:
    report = sent()
    assert [(engine.kind, engine.url) for engine in report.engines] == [
        ("ollama", f"http://{NODE_IP}:11434"),
        ("openai", f"http://{NODE_IP}:11440"),
    ]
    assert set(report.models) == {"llama3.2:3b", canonical(MLX_MODEL)}
    model_info = report.models[canonical(MLX_MODEL)]
    assert model_info.name == MLX_MODEL and model_info.engine.url == f"http://{NODE_IP}:11440"
    assert model_info.loaded == Loaded(16 * GIB, 32768)


@pytest.mark.parametrize("status", ["starting", "unhealthy", "memory_blocked", "quarantined", "stopped", "", None])
def test_model_of_a_server_that_is_not_healthy_is_not_listed(status: str | None) -> None:
    report = sent(mlx_servers=[{**SENT["mlx_servers"][0], "status": status}])
    assert list(report.models) == ["llama3.2:3b"] and len(report.engines) == 1


@pytest.mark.parametrize("bind_host", ["127.0.0.1", "localhost", "::1", "", None])
def test_server_on_the_loopback_address_of_another_machine_is_marked_unusable(bind_host: str | None) -> None:
    report = sent(mlx_bind_host=bind_host)
    assert list(report.models) == ["llama3.2:3b"]
    assert MLX_MODEL in report.engines[1].problem and "FLEET_NODE_MLX_BIND_HOST=0.0.0.0" in report.engines[1].problem
    same_machine = decode(json.dumps({**SENT, "mlx_bind_host": bind_host}).encode(), "127.0.0.1")
    assert canonical(MLX_MODEL) in same_machine.models and not same_machine.engines[1].problem


@pytest.mark.parametrize(
    ("servers", "named"),
    [
        ([{**SENT["mlx_servers"][0], "port": 70_000}], "port"),
        ([{**SENT["mlx_servers"][0], "model": "m" * 300}], "model"),
        ([SENT["mlx_servers"][0]] * 16, "mlx_servers"),
    ],
)
def test_invalid_servers_are_rejected(servers: list[Any], named: str) -> None:
    with pytest.raises(BadHeartbeat, match=named):
        sent(mlx_servers=servers)


def test_sizes_of_available_models_have_a_limit() -> None:
    ollama = {**SENT["ollama"], "models_available_sizes": {"llama3.2:3b": 2 * (1 << 50) / GB}}
    with pytest.raises(BadHeartbeat, match="models_available_sizes"):
        sent(ollama=ollama)


@pytest.mark.parametrize(
    ("body", "node_id"),
    [
        ({"node_id": "studio", "draining": True}, "studio"),
        ({"node_id": "studio", "draining": False}, None),
        ({"node_id": "studio"}, None),
        ({"draining": True}, None),
        ({**SENT, "draining": True}, None),
    ],
)
def test_only_a_body_without_a_report_is_the_signal_of_a_stopping_agent(body: Any, node_id: str | None) -> None:
    assert drain_signal(json.dumps(body).encode()) == node_id


def test_signal_with_an_invalid_name_is_rejected() -> None:
    with pytest.raises(BadHeartbeat, match="node_id"):
        drain_signal(b'{"node_id":"a\\nb","draining":true}')
