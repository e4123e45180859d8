"""Tests the learned lengths of answers, and how much they vary."""

from __future__ import annotations

from builders import a_request
from herd.core.estimates.output_lengths import IRREGULARITY_DEFAULT, OutputLengths
from herd.core.state.fleet import canonical
from herd.core.state.request import RequestKind

M = canonical("m")


def test_each_app_has_its_own_lengths_and_unknown_apps_use_those_of_the_model() -> None:
    outputs = OutputLengths()
    for _ in range(100):
        outputs.learn(a_request(tags=("short",)), M, 10)
        outputs.learn(a_request(tags=("long",)), M, 1000)
    assert outputs.expected_tokens(a_request(tags=("short",)), M) < 15
    assert outputs.expected_tokens(a_request(tags=("long",)), M) > 900
    assert 300 < outputs.expected_tokens(a_request(tags=("new",)), M) < 700
    assert outputs.expected_tokens(a_request(tags=("long",), output_tokens_max=64), M) == 64
    assert outputs.expected_tokens(a_request(kind=RequestKind.EMBED), M) == 0


def test_irregularity_is_low_for_equal_answers_and_high_for_heavy_tails() -> None:
    regular, heavy = OutputLengths(), OutputLengths()
    assert regular.irregularity(M) == IRREGULARITY_DEFAULT
    for number in range(200):
        regular.learn(a_request(), M, 200)
        heavy.learn(a_request(), M, 4000 if number % 8 == 0 else 50)
    assert regular.irregularity(M) < 0.1
    assert heavy.irregularity(M) > 0.9
