"""What an engine refuses is refused through herd too, as an error of the request, and what it accepts is accepted.

Requests have values of wrong types and sizes in every place. `HERD_FIDELITY_COUNT` sets how many are sent.
"""

from __future__ import annotations

import random
from collections.abc import Mapping

import pytest

from fakes.answer_comparison import ask
from fidelity.broken_bodies import BROKEN
from fidelity.corpus import ENDPOINTS, SEED, Endpoint
from fidelity.malformed import Malformed, malformed
from fidelity.outcomes import Outcome
from fidelity.pairs import ANSWER_MAX_S, COUNT, Pair, assert_none, shown_body, skip_if_hung

SENT_PER_COUNT = 4
"""Malformed requests for each endpoint and engine, as a multiple of the number of combinations."""
ANSWER_MAX_BYTES = 40_000
ACCEPTED = ("ok", "no complete answer")
"""An answer without a limit is cut by the test, so it is not complete."""

REQUIRED: Mapping[str, tuple[str, ...]] = {
    "/v1/messages": ("messages", "max_tokens"),
    "/v1/chat/completions": ("messages",),
}
"""Fields without which herd refuses a request, as the API demands; some engines answer it."""
LENIENT: Mapping[str, tuple[str, ...]] = {
    "/v1/completions": ("logprobs",),  # true, as in chats
    "/v1/responses": (
        "tools",  # llama.cpp refuses null, which is as good as no tools
        "top_logprobs",  # llama.cpp demands a field for it that this API does not have
        "input.arguments",  # an object instead of its JSON, and JSON of another type
        "input.output",  # a result of any type becomes its JSON
        "instructions",  # OpenAI's own schema permits a list
    ),
}
"""Values that herd accepts although an engine refuses them, because nothing of their meaning is lost."""


def judged(pair: Pair, sample: Malformed, direct: Outcome, through: Outcome) -> str:
    """What is wrong with the answer through herd; empty if nothing is."""
    if through.status_class not in (*ACCEPTED, "client error"):
        return f"{through.status_class}: {through.error[:300]}"
    was_accepted, is_accepted = direct.status_class in ACCEPTED, through.status_class in ACCEPTED
    if was_accepted and not is_accepted and not may_refuse(pair, sample, through):
        return f"refused, although the engine accepts it: {through.error[:300]}"
    if direct.status_class == "client error" and is_accepted and not may_accept(sample, through):
        return f"accepted, although the engine refuses it: {direct.error[:300]}"
    return ""


def may_refuse(pair: Pair, sample: Malformed, through: Outcome) -> bool:
    """A translation cannot keep what it cannot read, and names it. The engine's own path may refuse it only."""
    name = str(sample.path[0])
    is_named = sample.endpoint.path not in pair.native and name in through.error
    return is_named or name in REQUIRED.get(sample.endpoint.path, ())


def may_accept(sample: Malformed, through: Outcome) -> bool:
    """Also a value that is left out and named, or a part of a field: a translation does not check every part."""
    if len(sample.path) > 1:
        return True
    place = ".".join(str(part) for part in sample.path if isinstance(part, str))
    return place in LENIENT.get(sample.endpoint.path, ()) or str(sample.path[0]) in through.ignored


def assert_judged(pair: Pair, endpoint: Endpoint) -> None:
    found = []
    for sample in malformed(endpoint, random.Random(f"malformed {SEED} {endpoint.path}"))[: SENT_PER_COUNT * COUNT]:
        direct, through = pair.both(sample, ANSWER_MAX_BYTES)
        if direct.status_class == "no complete answer":
            assert_none(found)
            skip_if_hung(pair, endpoint)
        if problem := judged(pair, sample, direct, through):
            found.append(f"{sample.fields[0]}: {problem}\n    {shown_body(sample)}")
    assert_none(found)


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda endpoint: endpoint.path)
def test_ollama_judges_malformed_values_the_same_through_herd(ollama_pair: Pair, endpoint: Endpoint) -> None:
    assert_judged(ollama_pair, endpoint)


@pytest.mark.parametrize(
    "endpoint", [one for one in ENDPOINTS if one.path.startswith("/v1/")], ids=lambda endpoint: endpoint.path
)
def test_llamacpp_judges_malformed_values_the_same_through_herd(llama_pair: Pair, endpoint: Endpoint) -> None:
    assert_judged(llama_pair, endpoint)


# --- bodies that are broken as a whole ---

TEXT_REPAIRED = frozenset(("half of a pair", "invalid UTF-8", "a byte order mark"))
"""herd repairs the text for the engine, as Ollama's JSON reader does."""
MODEL_NEEDED = frozenset(("without a model", "a model that is a list", "an empty model", "an unknown model"))
"""A llama.cpp with a single model answers for any name."""
NUMBERS = frozenset(("a number out of range", "a long number"))
"""Numbers in unknown fields, which are not translated."""


def assert_broken_bodies_are_judged(pair: Pair, endpoint: Endpoint) -> None:
    skip_if_hung(pair, endpoint)
    found = []
    rng = random.Random(f"broken {SEED} {endpoint.path}")
    for name in rng.sample(sorted(BROKEN), min(len(BROKEN), COUNT)):
        body = BROKEN[name]({"model": pair.models[endpoint.model], **endpoint.base})
        direct, through = (
            ask(port, "POST", endpoint.path, body, limit_s=ANSWER_MAX_S)
            for port in (pair.direct_port[endpoint.model], pair.herd_port)
        )
        lenient = TEXT_REPAIRED if endpoint.path in pair.native else TEXT_REPAIRED | NUMBERS
        is_same = (direct.status < 400) == (through.status < 400)
        is_better = name in (MODEL_NEEDED if direct.status < 400 else lenient)
        if through.status >= 500 or not (is_same or is_better):
            found.append(f"{name}: {direct.status} != {through.status} {through.body[:300]!r}")
    assert_none(found)


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda endpoint: endpoint.path)
def test_ollama_judges_broken_bodies_the_same_through_herd(ollama_pair: Pair, endpoint: Endpoint) -> None:
    assert_broken_bodies_are_judged(ollama_pair, endpoint)


@pytest.mark.parametrize(
    "endpoint", [one for one in ENDPOINTS if one.path.startswith("/v1/")], ids=lambda endpoint: endpoint.path
)
def test_llamacpp_judges_broken_bodies_the_same_through_herd(llama_pair: Pair, endpoint: Endpoint) -> None:
    assert_broken_bodies_are_judged(llama_pair, endpoint)
