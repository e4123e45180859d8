"""What agents send and what vendors publish is answered through herd wherever the engine itself answers it.

An engine that refuses an image is believed; another part that it refuses may be left out and named by herd.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from fidelity.corpus import SEED, Sample
from fidelity.pairs import COUNT, Pair, assert_none, shown_body
from fidelity.published import agent_bodies, images, published_parts, schemas

SENT_PER_COUNT = 5
"""Published parts for each engine, as a multiple of the number of combinations."""


def assert_answered(pair: Pair, samples: Iterator[Sample], must_agree: bool = False) -> None:
    found = []
    for sample in samples:
        direct, through = pair.both(sample)
        is_worse = direct.status_class == "ok" and through.status_class != "ok"
        is_dropped = must_agree and direct.status_class != "ok" and through.status_class == "ok"
        if is_worse or is_dropped or through.status_class not in ("ok", "client error"):
            classes = f"{direct.status_class} != {through.status_class}"
            errors = f"{direct.error[:200]!r}, {through.error[:300]!r}"
            found.append(f"{sample.endpoint.path} {sample.fields[0]}: {classes}: {errors}\n    {shown_body(sample)}")
    assert_none(found)


def some_parts() -> Iterator[Sample]:
    samples = list(published_parts())
    random.Random(f"published {SEED}").shuffle(samples)
    yield from samples[: SENT_PER_COUNT * COUNT]


def only_v1(samples: Iterator[Sample]) -> Iterator[Sample]:
    return (sample for sample in samples if sample.endpoint.path.startswith("/v1/"))


def test_requests_of_agents_are_answered_by_ollama(ollama_pair: Pair) -> None:
    assert_answered(ollama_pair, agent_bodies())


def test_requests_of_agents_are_answered_by_llamacpp(llama_pair: Pair) -> None:
    assert_answered(llama_pair, only_v1(agent_bodies()))


def test_published_parts_are_answered_by_ollama(ollama_pair: Pair) -> None:
    assert_answered(ollama_pair, some_parts())


def test_published_parts_are_answered_by_llamacpp(llama_pair: Pair) -> None:
    assert_answered(llama_pair, some_parts())


def test_images_for_a_model_without_vision_are_refused_as_by_ollama(ollama_pair: Pair) -> None:
    assert_answered(ollama_pair, images(), must_agree=True)


def test_images_for_a_model_without_vision_are_refused_as_by_llamacpp(llama_pair: Pair) -> None:
    assert_answered(llama_pair, only_v1(images()), must_agree=True)


def assert_bound(pair: Pair, samples: Iterator[Sample]) -> None:
    answers = ((sample, pair.both(sample)[1]) for sample in samples)
    assert_none(
        [
            f"{sample.endpoint.path} {sample.fields[0]}: {through.text!r} {through.error[:200]}"
            for sample, through in answers
            if not through.text.lstrip().startswith("{")
        ]
    )


def test_a_schema_binds_the_answers_of_ollama_in_every_form(ollama_pair: Pair) -> None:
    assert_bound(ollama_pair, schemas())


def test_a_schema_binds_the_answers_of_llamacpp_in_every_form(llama_pair: Pair) -> None:
    assert_bound(llama_pair, only_v1(schemas()))
