"""Heartbeats are encoded and decoded without loss, and invalid values are rejected."""

from __future__ import annotations

import json
from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builders import a_report
from herd.agent_protocol.heartbeat_checks import BadHeartbeat
from herd.agent_protocol.heartbeat_decode import KnownEngines, decode, with_node_id
from herd.agent_protocol.heartbeat_encode import encode
from herd.agent_protocol.heartbeat_json import BODY_MAX_BYTES, MODELS_MAX
from herd.core.state.fleet import (
    Capacity,
    Disk,
    EngineEndpoint,
    Gpu,
    Loaded,
    Memory,
    ModelInfo,
    NodeId,
    Pressure,
    Report,
    canonical,
)

GIB = 1 << 30
NODE_IP = "192.168.1.20"

OLLAMA_HERD: dict[str, Any] = {
    "node_id": "studio",
    "arch": "apple_silicon",
    "timestamp": 1777000000.25,
    "agent_version": "0.11.2",
    "ollama_host": "http://localhost:11434",
    "lan_ip": "192.168.1.20",
    "draining": False,
    "chip": "Apple M3 Ultra",
    "memory_bandwidth_gbps": 819.0,
    "connection_failures": 1,
    "connection_failures_total": 4,
    "cpu": {"cores_physical": 28, "utilization_pct": 12.5},
    "memory": {
        "total_gb": 96.0,
        "used_gb": 40.5,
        "available_gb": 55.5,
        "pressure": "warn",
        "wired_gb": 6.0,
        "compressed_gb": 0.0,
    },
    "thermal": {"state": "nominal", "temperature_c": None, "source": ""},
    "disk": {"total_gb": 1000.0, "used_gb": 600.0, "available_gb": 400.0},
    "ollama": {
        "models_loaded": [
            {
                "name": "qwen3:30b",
                "size_gb": 18.5,
                "requests_active": 1,
                "parameter_size": "30.5B",
                "quantization": "Q4_K_M",
                "context_length": 32768,
                "runner": "llama",
                "digest": "ab" * 32,
            },
            {"name": "odd:latest", "size_gb": 1.0, "requests_active": 0, "context_length": 0},
        ],
        "models_available": ["qwen3:30b", "nomic-embed-text:latest"],
        "models_available_sizes": {"qwen3:30b": 17.25, "nomic-embed-text:latest": 0.25},
        "models_available_meta": {
            "nomic-embed-text:latest": {
                "digest": "cd" * 32,
                "family": "nomic-bert",
                "parameter_size": "137M",
                "quantization_level": "F16",
                "capabilities": ["embedding"],
                "more": 1,
            }
        },
        "num_parallel": 0,
        "max_loaded_models": 0,
        "requests_active": 1,
        "version": "0.32.1",
    },
    "capacity": {
        "mode": "learned_high",
        "ceiling_gb": 48.0,
        "availability_score": 0.7,
        "reason": "good_availability",
        "override_active": False,
        "learning_confidence": 0.5,
        "days_observed": 12,
    },
    "image": {"models_available": [], "generating": False},
    "image_port": 11436,
    "text_embedding_status": {},
    "mlx_servers": [],
    "mlx_bind_host": "127.0.0.1",
    "vision_embedding": None,
}
"""A heartbeat of ollama-herd 0.11."""

MINIMAL: dict[str, Any] = {"node_id": "n", "memory": {"total_gb": 8}}

OWN: dict[str, Any] = {
    **MINIMAL,
    "herd": {
        "v": 1,
        "boot_id": "b1",
        "os": "linux",
        "memory": {"total_bytes": 1000, "used_bytes": 400, "available_bytes": 600},
        "engines": [
            {"kind": "ollama", "url": "http://127.0.0.1:40000", "slots": 2, "models": [{"name": "m", "size_bytes": 5}]}
        ],
        "gpus": [{"name": "g", "memory_total_bytes": 10, "memory_used_bytes": 1}],
    },
}


def body(heartbeat: dict[str, Any]) -> bytes:
    return json.dumps(heartbeat).encode()


def changed(heartbeat: dict[str, Any], path: str, value: object) -> dict[str, Any]:
    """A copy in which the field at the path "a.b.0.c" has another value."""
    copy = deepcopy(heartbeat)
    at: Any = copy
    *parents, last = path.split(".")
    for step in parents:
        at = at[int(step)] if isinstance(at, list) else at[step]
    at[int(last) if isinstance(at, list) else last] = value
    return copy


def a_full_report() -> Report:
    ollama = EngineEndpoint("ollama", f"http://{NODE_IP}:11434", "0.32.15", 4, 3)
    llama = EngineEndpoint("llamacpp", f"http://{NODE_IP}:40001", "b11549", 2)
    loaded = Loaded(3_000_000_001, 8192, 2_999_999_999, True, "2026-11-23T12:00:00Z")
    models = [
        ModelInfo(
            name="Qwen3:8B",
            engine=ollama,
            size_bytes=5_000_000_003,
            digest="ab" * 32,
            family="qwen3",
            parameters="8.2B",
            quantization="Q4_K_M",
            context_max_tokens=40960,
            capabilities=frozenset({"tools", "completion"}),
            lacks=frozenset({"vision", "insert"}),
            modified_at="2026-01-02T03:04:05Z",
            loaded=loaded,
            kv_bytes_per_token=147_456,
        ),
        ModelInfo(name="tiny", engine=llama),
    ]
    return Report(
        node_id=NodeId("alpha"),
        boot_id="boot-1",
        memory=Memory(
            total_bytes=68_719_476_735,
            used_bytes=20_000_000_001,
            available_bytes=48_719_476_734,
            pressure=Pressure.WARN,
            swap_used_bytes=1,
            swap_total_bytes=2_147_483_649,
            wired_bytes=3,
            compressed_bytes=4,
        ),
        models={canonical(model.name): model for model in models},
        engines=(ollama, llama),
        arch="x86_64",
        agent_version="1.0.0",
        os="linux",
        chip="Ryzen AI Max",
        lan_ip=NODE_IP,
        cores=16,
        cpu_utilization=37.5,
        memory_bandwidth_gbps=256.0,
        disk=Disk(10**12 + 1, 10**11, 9 * 10**11),
        gpus=(Gpu("RTX 4090", 24 * GIB, GIB, 12.0, 61.0),),
        thermal_state="warning",
        temperature_c=91.5,
        draining=True,
        paused=True,
        capacity=Capacity(
            mode="learned_low",
            ceiling_bytes=16 * 10**9,
            score=0.25,
            trend="falling",
            reason="low_availability",
            paused=False,
            override_active=True,
            learning_confidence=0.5,
            days_observed=20,
            week=(0.25, None) * 84,
        ),
        connection_failures=7,
    )


def test_encode_and_decode_preserve_every_value() -> None:
    report = a_full_report()
    assert decode(encode(report, 1777000000.0), NODE_IP) == report


def test_nodes_in_bootstrap_and_paused_nodes_are_decoded_as_paused() -> None:
    for mode in ("bootstrap", "paused", "learned_low"):
        sent = a_report(capacity=Capacity(mode=mode, ceiling_bytes=0, score=0.0, paused=True))
        capacity = decode(encode(sent, 0.0), NODE_IP).capacity
        assert capacity is not None and capacity.paused


@pytest.mark.parametrize("week", [[0.5] * 167, [1.5] * 168])
def test_week_must_have_168_values_between_0_and_1(week: list[float]) -> None:
    sent = json.loads(encode(a_report(capacity=Capacity(mode="full", ceiling_bytes=0, score=0.5)), 0.0))
    sent["herd"]["week"] = week
    with pytest.raises(BadHeartbeat, match=r"herd\.week"):
        decode(json.dumps(sent).encode(), NODE_IP)


def test_heartbeat_of_an_ollama_herd_agent_is_decoded() -> None:
    report = decode(body(OLLAMA_HERD), NODE_IP)
    endpoint = EngineEndpoint("ollama", f"http://{NODE_IP}:11434", "0.32.1", 1, None)
    assert report.engines == (endpoint,) and set(report.models) == {
        "qwen3:30b",
        "nomic-embed-text:latest",
        "odd:latest",
    }
    qwen, nomic = report.models[canonical("qwen3:30b")], report.models[canonical("nomic-embed-text")]
    assert (
        qwen.loaded == Loaded(int(18.5 * GIB), 32768)
        and qwen.size_bytes == 17_250_000_000
        and qwen.parameters == "30.5B"
    )
    assert nomic.loaded is None and nomic.capabilities == {"embedding"} and nomic.family == "nomic-bert"
    assert report.memory == Memory(
        total_bytes=96 * GIB,
        used_bytes=int(40.5 * GIB),
        available_bytes=int(55.5 * GIB),
        pressure=Pressure.WARN,
        wired_bytes=6 * GIB,
    )
    assert (report.cores, report.chip, report.memory_bandwidth_gbps) == (28, "Apple M3 Ultra", 819.0)
    assert report.capacity is not None and (report.capacity.ceiling_bytes, report.capacity.paused) == (48 * GIB, False)


def test_zero_from_an_ollama_herd_agent_means_unknown() -> None:
    odd = decode(body(OLLAMA_HERD), NODE_IP).models[canonical("odd")]
    assert odd.loaded is not None and odd.loaded.window_tokens is None
    assert odd.engine.models_max is None and odd.engine.slots == 1


def test_agents_without_boot_id_get_one_from_their_address() -> None:
    assert decode(body(OLLAMA_HERD), "10.0.0.2").boot_id != decode(body(OLLAMA_HERD), "10.0.0.3").boot_id


def test_optional_fields_may_be_missing_and_unknown_fields_are_ignored() -> None:
    report = decode(
        body({**MINIMAL, "from_the_future": {"x": [1]}, "herd": {"v": 9, "boot_id": "b", "new": 1}}), NODE_IP
    )
    assert (report.node_id, report.boot_id, report.memory.total_bytes, report.models) == ("n", "b", 8 * GIB, {})
    assert report.lan_ip == NODE_IP and report.thermal_state == "unknown" and report.disk is None


def test_herd_object_takes_precedence_over_public_fields() -> None:
    report = decode(body({**OLLAMA_HERD, "herd": OWN["herd"]}), NODE_IP)
    assert list(report.models) == ["m:latest"] and report.engines[0].url == f"http://{NODE_IP}:40000"
    assert (report.memory.total_bytes, report.memory.pressure) == (1000, Pressure.WARN)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:8000",
        "http://0.0.0.0:8000",
        "http://localhost:8000",
        "http://169.254.169.254:8000",
        "http://[::1]:8000",
        "http://evil.example:8000",
        "http://2130706433:8000",
        "http://[::ffff:127.0.0.1]:8000",
        "http://192.168.1.20:8000/a?b#c",
    ],
)
def test_engine_url_always_uses_the_senders_address(url: str) -> None:
    report = decode(body(changed(OWN, "herd.engines.0.url", url)), NODE_IP)
    assert report.engines[0].url == f"http://{NODE_IP}:8000" == report.models[canonical("m")].engine.url
    assert decode(body({**OLLAMA_HERD, "ollama_host": url}), "fe80::1").engines[0].url == "http://[fe80::1]:8000"


def test_tls_engine_url_keeps_the_certificate_hash_and_uses_the_senders_address() -> None:
    report = decode(body(changed(OWN, "herd.engines.0.url", f"https://10.9.9.9:8000/x#{'ab' * 32}")), NODE_IP)
    assert report.engines[0].url == f"https://{NODE_IP}:8000#{'ab' * 32}"
    assert decode(encode(report, 0.0), NODE_IP).engines == report.engines


@pytest.mark.parametrize(
    "url",
    [
        "",
        "127.0.0.1:8000",
        "https://a:1",
        "https://a:1#",
        f"https://a:1#{'AB' * 32}",
        f"https://a:1#{'ab' * 31}",
        f"https://u@a:1#{'ab' * 32}",
        "file:///etc/passwd",
        "http://",
        "http://user@host:1",
        "http://u:p@h:1",
        "http://h:99999",
        "http://h:x",
        "http://[::1:80",
        "ftp://h:21",
        "http://" + "a" * 300,
    ],
)
def test_invalid_engine_url_is_rejected(url: str) -> None:
    with pytest.raises(BadHeartbeat, match="URL"):
        decode(body(changed(OWN, "herd.engines.0.url", url)), NODE_IP)


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        ("node_id", "", "node_id"),
        ("node_id", 5, "node_id"),
        ("node_id", "a\nb", "node_id"),
        ("node_id", "n" * 300, "node_id"),
        ("memory", None, "memory"),
        ("memory.total_gb", 0, "memory.total"),
        ("memory.total_gb", -1, "memory.total"),
        ("memory.total_gb", 1e300, "memory.total"),
        ("memory.total_gb", "8", "memory.total"),
        ("memory.used_gb", -0.5, "memory.used"),
        ("memory.used_gb", 97.0 * 2, "memory.used"),
        ("memory.available_gb", 1e6, "memory"),
        ("memory.pressure", "awful", "memory.pressure"),
        ("memory_bandwidth_gbps", 1e9, "memory_bandwidth_gbps"),
        ("memory_bandwidth_gbps", -1, "memory_bandwidth_gbps"),
        ("cpu.utilization_pct", 1e9, "cpu.utilization_pct"),
        ("cpu.cores_physical", -4, "cpu.cores_physical"),
        ("thermal.temperature_c", 1e6, "temperature_c"),
        ("disk.total_gb", -1, "disk.total_gb"),
        ("connection_failures", -1, "connection_failures"),
        ("ollama.num_parallel", 10**9, "ollama.num_parallel"),
        ("ollama.models_loaded.0.size_gb", -3, "ollama.models_loaded"),
        ("ollama.models_loaded.0.context_length", -1, "context_length"),
        ("ollama.models_available", ["m"] * 600, "ollama.models_available"),
        ("ollama.models_available", [""], "ollama.models_available"),
        ("capacity.availability_score", 1.5, "capacity.availability_score"),
        ("capacity.ceiling_gb", -1, "capacity.ceiling_gb"),
        ("capacity.days_observed", -1, "capacity.days_observed"),
        ("draining", "no", "draining"),
    ],
)
def test_invalid_public_value_is_rejected_with_its_field_name(path: str, value: object, named: str) -> None:
    with pytest.raises(BadHeartbeat, match=named.replace(".", r"\.")) as rejected:
        decode(body(changed(OLLAMA_HERD, path, value)), NODE_IP)
    assert rejected.value.refusal.status == 422


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        ("herd.memory.total_bytes", -1, "memory"),
        ("herd.memory.total_bytes", 1 << 60, "memory"),
        ("herd.engines.0.kind", "", "kind"),
        ("herd.engines.0.slots", -1, "slots"),
        ("herd.engines.0.slots", 10**6, "slots"),
        ("herd.engines", [OWN["herd"]["engines"][0]] * 17, "engines"),
        ("herd.engines.0.models", [{"name": f"m{n}"} for n in range(513)], "models"),
        ("herd.engines.0.models.0.name", "", "name"),
        ("herd.engines.0.models.0.size_bytes", -1, "size_bytes"),
        ("herd.engines.0.models.0.loaded", {"size_bytes": -1}, "loaded.size_bytes"),
        ("herd.engines.0.models.0.capabilities", ["c"] * 65, "capabilities"),
        ("herd.gpus", [{}] * 33, "gpus"),
        ("herd.gpus.0.memory_total_bytes", 1 << 60, "memory_total_bytes"),
        ("herd.boot_id", "b" * 257, "boot_id"),
    ],
)
def test_invalid_value_in_herd_object_is_rejected_with_its_field_name(path: str, value: object, named: str) -> None:
    with pytest.raises(BadHeartbeat, match=named):
        decode(body(changed(OWN, path, value)), NODE_IP)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b"\xff\xfe",
        b'{"node_id":"n","memory":{"total_gb":NaN}}',
        b'{"node_id":"n","memory":{"total_gb":1e999}}',
        b'{"node_id":"n","memory":{"total_gb":8}} x',
        b"[" * 50_000,
        b'{"node_id":"\\ud800","memory":{"total_gb":8}}',
        b'{"node_id":"n","memory":{"total_gb":8},"x":' + b"[" * 20_000 + b"]" * 20_000 + b"}",
    ],
)
def test_invalid_body_raises_only_bad_heartbeat(raw: bytes) -> None:
    with pytest.raises(BadHeartbeat):
        decode(raw, NODE_IP)


def test_body_over_the_size_limit_is_rejected() -> None:
    padded = body(MINIMAL) + b" " * BODY_MAX_BYTES
    with pytest.raises(BadHeartbeat, match=str(BODY_MAX_BYTES)):
        decode(padded, NODE_IP)


def test_maximum_number_of_models_fits_into_the_body_limit() -> None:
    endpoint = EngineEndpoint("ollama", f"http://{NODE_IP}:11434")
    models = [
        ModelInfo(
            name=f"registry.example/some-team/a-rather-long-model-name-{n}:32b-instruct-q4_K_M",
            engine=endpoint,
            size_bytes=20 * GIB + n,
            digest=f"{n:064x}",
            family="qwen3moe",
            parameters="30.5B",
            quantization="Q4_K_M",
            context_max_tokens=262144,
            capabilities=frozenset({"completion", "tools"}),
            modified_at="2026-01-02T03:04:05Z",
        )
        for n in range(MODELS_MAX)
    ]
    sent = encode(a_report(models=models, engines=(endpoint,)), 0.0)
    assert len(sent) <= BODY_MAX_BYTES
    assert decode(sent, NODE_IP).models == {canonical(model.name): model for model in models}


def test_model_on_two_engines_is_assigned_to_the_engine_that_has_it_loaded() -> None:
    idle = {"kind": "ollama", "url": "http://h:1", "models": [{"name": "m"}]}
    warm = {"kind": "llamacpp", "url": "http://h:2", "models": [{"name": "M:latest", "loaded": {"size_bytes": 1}}]}
    for engines in ([idle, warm], [warm, idle]):
        report = decode(body({**MINIMAL, "herd": {"engines": engines}}), NODE_IP)
        assert [model.engine.kind for model in report.models.values()] == ["llamacpp"]


def test_control_characters_are_removed_from_texts() -> None:
    report = decode(body({**OLLAMA_HERD, "chip": "M3\x1b[31m\nUltra\u202e"}), NODE_IP)
    assert report.chip == "M3[31mUltra"


def test_repeated_engines_are_the_same_objects_until_they_or_the_address_change() -> None:
    known, heartbeat = KnownEngines(), OWN
    first = decode(body(heartbeat), NODE_IP, known=known)
    again = decode(body(heartbeat | {"timestamp": 5.0}), NODE_IP, known=known)
    assert again.models is first.models and again.engines is first.engines
    elsewhere = decode(body(heartbeat), "192.168.1.99", known=known)
    assert elsewhere.engines != first.engines
    changed_model = decode(body(changed(heartbeat, "herd.engines.0.version", "0.99")), "192.168.1.99", known=known)
    assert changed_model.engines[0].version == "0.99"
    assert decode(body(heartbeat | {"node_id": "another"}), NODE_IP, known=known).models == first.models


def test_with_node_id_changes_only_the_name() -> None:
    report = a_full_report()
    assert (
        with_node_id(report, NodeId("alpha-2")).node_id == "alpha-2" and with_node_id(report, NodeId("alpha")) == report
    )


def paths_of(value: object, path: str = "") -> list[str]:
    """Every path inside a JSON value, in the format of `changed`."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    here = [path] if path else []
    return here + [found for key, one in inner for found in paths_of(one, f"{path}.{key}" if path else str(key))]


EVERY_PATH = [
    (heartbeat, path) for heartbeat in (OLLAMA_HERD, OWN) for path in paths_of(heartbeat) if "nomic" not in path
]
some_values = st.one_of(
    [
        st.none(),
        st.booleans(),
        st.integers(),
        st.integers(-(2**80), 2**80),
        st.floats(),
        st.text(max_size=5),
        st.just([]),
        st.just({}),
        st.lists(st.integers(), max_size=2),
        st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
    ]
)


@given(st.sampled_from(EVERY_PATH), some_values)
@settings(max_examples=400, deadline=None)
def test_any_value_in_any_field_is_within_its_range_or_rejected(
    place: tuple[dict[str, Any], str], value: object
) -> None:
    heartbeat, path = place
    try:
        report = decode(body(changed(heartbeat, path, value)), NODE_IP)
    except BadHeartbeat:
        return
    assert report.node_id and report.memory.total_bytes > 0
    assert min(report.memory.used_bytes, report.memory.available_bytes, report.cores, report.connection_failures) >= 0
    assert all(model.size_bytes >= 0 and model.engine.slots >= 1 for model in report.models.values())
    assert all(endpoint.url.startswith(f"http://{NODE_IP}:") for endpoint in report.engines)
    assert decode(encode(report, 0.0), NODE_IP).models.keys() == report.models.keys()


@given(st.binary(max_size=300))
def test_arbitrary_bytes_raise_only_bad_heartbeat(raw: bytes) -> None:
    try:
        decode(raw, NODE_IP)
    except BadHeartbeat:
        return
