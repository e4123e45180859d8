"""The worked examples of CONTRIBUTING.md are valid plug-ins."""

from __future__ import annotations

import re
from typing import Any

from builders import a_report
from health.fleets import a_healthy_report, a_node, a_snapshot
from herd.core.scheduling.signals import Signal, Weights
from herd.engines import Engine, EngineResponse
from herd.health import Check
from project.source import ROOT

EXAMPLE = re.compile(r"`(src/herd/[\w/]+\.py)`[^`]*```python\n(.*?)```", re.DOTALL)
MODELS = b'{"data": [{"id": "qwen3", "object": "model", "owned_by": "lmdeploy", "max_model_len": 40960}]}'


def record_of(folder: str, name: str) -> Any:
    """Executes the example for this folder and returns its record."""
    examples = dict(EXAMPLE.findall((ROOT / "CONTRIBUTING.md").read_text("utf-8")))
    [code] = [code for path, code in examples.items() if path.startswith(f"src/herd/{folder}/")]
    defined: dict[str, Any] = {}
    exec(compile(code, folder, "exec"), defined)
    return defined[name]


def test_the_signal_takes_points_from_a_busy_node() -> None:
    signal = record_of("core/scheduling/signals", "SIGNAL")
    assert isinstance(signal, Signal)

    class Busy:
        report = a_report(cpu_utilization=0.5)

    assert signal.points(None, Busy, Weights()) == -5.0  # type: ignore[arg-type]


def test_the_engine_recognizes_its_server_and_reads_its_models() -> None:
    engine = record_of("engines", "ENGINE")
    assert isinstance(engine, Engine) and engine.recognizes(EngineResponse(200, MODELS))
    assert [model.name for model in engine.inventory((EngineResponse(200, MODELS),)).models] == ["qwen3"]


def test_the_health_check_finds_a_paused_node() -> None:
    check = record_of("health/checks", "CHECK")
    assert isinstance(check, Check) and not list(check.find(a_snapshot()))
    paused = a_node("alpha", a_healthy_report("alpha", paused=True))
    assert [finding.nodes for finding in check.find(a_snapshot(paused))] == [("alpha",)]
