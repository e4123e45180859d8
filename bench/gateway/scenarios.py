"""What is asked of every gateway: the cells of the table, and the requests in them. Runs nothing."""

from __future__ import annotations

from dataclasses import dataclass

from bench.gateway.instruments import CHUNKS, STREAM_S, Load

PATH = "/v1/chat/completions"
MODEL = "bench"
PACED_MODEL = "bench-paced"
"""The stub paces a stream whose request has this name in it: a model's name is what every gateway lets through."""
LINES_PER_EVENT = 2
STREAMS = 256
_NOTES = "Summarise the following notes for the weekly meeting and keep every number that is in them. " * 9


@dataclass(frozen=True, slots=True)
class Scenario:
    """`key` is its name on the command line and in the JSON."""

    key: str
    told: str
    load: Load
    is_stream: bool = False


def body(model: str, stream: bool) -> dict[str, object]:
    """A request of about 1 KB."""
    return {
        "model": model,
        "messages": [{"role": "system", "content": "You are brief."}, {"role": "user", "content": _NOTES}],
        "stream": stream,
        "temperature": 0.2,
    }


def _plain(connections: int) -> Scenario:
    load = Load(connections, PATH, body(MODEL, False), 0, '"whole"}')
    return Scenario(f"c{connections}", f"answers of 600 bytes, {connections} at a time", load)


def _streams(key: str, told: str, model: str, stagger_s: float) -> Scenario:
    lines = (CHUNKS + 1) * LINES_PER_EVENT
    load = Load(STREAMS, PATH, body(model, True), lines, "data: [DONE]\n\n", stagger_s)
    return Scenario(key, told, load, is_stream=True)


SCENARIOS = (
    _plain(1),
    _plain(32),
    _plain(128),
    _streams("streams", f"{STREAMS} streams, as fast as they go", MODEL, 0.0),
    _streams("paced", f"{STREAMS} streams, a chunk every 10 ms", PACED_MODEL, STREAM_S),
)
"""In this order in every round."""
