"""A request through herd has the outcome that it has at the engine's own endpoint, whatever fields it has.

The engines are real: Ollama with and without an explicitly set context window, and llama.cpp, which also plays the
engines whose protocol it speaks. Requests are all fields of the published schemas, alone and combined at random. A
failure prints the seed; `HERD_FIDELITY_SEED` repeats it, `HERD_FIDELITY_COUNT` sets the number of combinations.

One difference is intended: Ollama silently leaves out the start of a prompt that is longer than the request's own
`num_ctx`. herd enlarges the window, so its answer is compared with that of an engine that reads the whole prompt.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from fidelity.corpus import ENDPOINTS, SEED, Endpoint, Sample, combinations, lengthened, single_fields, without_window
from fidelity.pairs import COUNT, Pair, assert_none, shown_body

STREAMING = [one for one in ENDPOINTS if one.can_stream]


def assert_same(pair: Pair, samples: Iterator[Sample]) -> None:
    found = []
    for sample in samples:
        direct, through = pair.both(sample)
        if difference := direct.difference(through):
            found.append(f"{', '.join(sample.fields)}: {difference}\n    {shown_body(sample)}")
    assert_none(found)


def samples_of(endpoint: Endpoint) -> Iterator[Sample]:
    yield from single_fields(endpoint)
    yield from combinations(endpoint, random.Random(f"{SEED} {endpoint.path}"), COUNT)


def long_samples_of(endpoint: Endpoint) -> Iterator[Sample]:
    rng = random.Random(f"long {SEED} {endpoint.path}")
    singles = list(single_fields(endpoint))
    for sample in rng.sample(singles, min(len(singles), COUNT)):
        yield lengthened(sample)


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda endpoint: endpoint.path)
def test_ollama_answers_the_same_through_herd(ollama_pair: Pair, endpoint: Endpoint) -> None:
    assert_same(ollama_pair, samples_of(endpoint))


@pytest.mark.parametrize("endpoint", STREAMING, ids=lambda endpoint: endpoint.path)
def test_ollama_answers_a_long_prompt_the_same_through_herd(ollama_pair: Pair, endpoint: Endpoint) -> None:
    found = []
    for sample in long_samples_of(endpoint):
        # A window that is too small for the prompt is enlarged, so the whole prompt is answered.
        if difference := ollama_pair.direct(without_window(sample)).difference(ollama_pair.through(sample)):
            found.append(f"{', '.join(sample.fields)}: {difference}\n    {shown_body(sample)}")
    assert_none(found)


@pytest.mark.parametrize(
    "endpoint", [one for one in ENDPOINTS if one.path.startswith("/v1/")], ids=lambda endpoint: endpoint.path
)
def test_llamacpp_answers_the_same_through_herd(llama_pair: Pair, endpoint: Endpoint) -> None:
    assert_same(llama_pair, samples_of(endpoint))
