"""The affinity of an attempt follows from the cached part of its prompt."""

from __future__ import annotations

import pytest

from builders import a_request
from herd.core.lifecycle.affinity import MATCHED, NEW, PREFIX, affinity
from herd.core.state.fleet import NodeId, canonical
from herd.core.state.request import Attempt


@pytest.mark.parametrize(
    ("prefix", "cached_tokens", "expected"),
    [((), 0, ""), ((), 100, ""), ((1,), 0, NEW), ((1,), 49, PREFIX), ((1,), 50, MATCHED), ((1,), 100, MATCHED)],
)
def test_at_least_half_of_the_prompt_is_a_match(prefix: tuple[int, ...], cached_tokens: int, expected: str) -> None:
    attempt = Attempt(number=1, node_id=NodeId("alpha"), model=canonical("m"), started_at=0.0)
    attempt.expected_cached_tokens = cached_tokens
    assert affinity(a_request(prompt_tokens=100, prefix=prefix), attempt) == expected
