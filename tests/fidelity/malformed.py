"""Builds requests with malformed values: every field, and every part of a field, with values of wrong types and sizes.

A value is wrong for some fields only; the engine decides.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from fidelity.corpus import Endpoint, Json, Sample
from fidelity.field_values import OPTIONS

Path = tuple[str | int, ...]
HUGE = 2**63
WRONG: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 1.5, -0.5, 1e30, HUGE, -HUGE),
    *("", "words", "7", "x" * 300, "\0"),
    *([], [None], [1], ["words"], [[]], [{}], {}, {"x": 1}, {"type": "words"}, {"type": None}, {"": ""}),
)
TIMES = frozenset(("keep_alive",))
"""Fields whose number would make an engine load its models again and again, or never again; other values are sent.

A real Ollama was asked with numbers of every size in a run of its own: it refused or answered each, and none hung it.
"""
LIMITS = frozenset(("max_tokens", "max_completion_tokens", "max_output_tokens", "options"))
"""Fields whose wrong value may mean that the answer never ends: such an answer is streamed, so that it can be cut."""
RUNNER_OPTIONS = ("num_ctx", "num_batch", "num_gpu", "num_thread", "num_predict")
"""Options whose number would load the model again, or costs much memory; their other values are sent."""


@dataclass(frozen=True)
class Malformed(Sample):
    """A request with a value that is wrong at `path`, or may be."""

    path: Path = ()


def malformed(endpoint: Endpoint, rng: random.Random) -> list[Malformed]:
    """Every field with every wrong value, and every part of every field with one wrong value, in random order."""
    samples = [*_wrong_fields(endpoint, rng), *_wrong_parts(endpoint, rng)]
    if "options" in endpoint.values:
        samples += _wrong_options(endpoint, rng)
    rng.shuffle(samples)
    return samples


def _wrong_fields(endpoint: Endpoint, rng: random.Random) -> Iterator[Malformed]:
    for name in sorted({*endpoint.base, *endpoint.values, "stream"}):
        for value in WRONG:
            if name in TIMES and isinstance(value, int | float) and not isinstance(value, bool):
                continue
            yield _sample(endpoint, rng, name, value, (name,), value)


def _wrong_parts(endpoint: Endpoint, rng: random.Random) -> Iterator[Malformed]:
    for name, values in endpoint.values.items():
        for value in values:
            for path in _paths(value):
                if path[0] in RUNNER_OPTIONS:
                    continue
                wrong = rng.choice(WRONG)
                yield _sample(endpoint, rng, name, _replaced(value, path, wrong), (name, *path), wrong)


def _wrong_options(endpoint: Endpoint, rng: random.Random) -> Iterator[Malformed]:
    base = endpoint.base.get("options", {})
    for name in (*OPTIONS, *RUNNER_OPTIONS):
        for value in WRONG:
            if not (name in RUNNER_OPTIONS and isinstance(value, int | float)):
                yield _sample(endpoint, rng, "options", {**base, name: value}, ("options", name), value)


def _paths(value: Any) -> Iterator[Path]:
    """The path of every part inside of a value."""
    keys: Any = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield (key,)
        yield from ((key, *path) for path in _paths(value[key]))


def _replaced(value: Any, path: Path, part: Any) -> Any:
    """A copy of the value with another part at this path."""
    copied = copy.deepcopy(value)
    place = copied
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = part
    return copied


def _sample(endpoint: Endpoint, rng: random.Random, name: str, value: Any, path: Path, wrong: Any) -> Malformed:
    body: Json = {**endpoint.base, name: value}
    if endpoint.can_stream and name != "stream":
        body["stream"] = name in LIMITS or rng.random() < 0.5
    return Malformed(endpoint, body, (f"{'.'.join(map(str, path))} = {json.dumps(wrong)[:40]}",), path)
