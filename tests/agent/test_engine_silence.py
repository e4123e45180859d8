"""An engine counts as frozen only if nothing was answered for five seconds in which the agent itself ran."""

from __future__ import annotations

from random import Random

from herd.agent.engine_silence import OPEN_PROBES_MAX, PROBE_EVERY_S, SILENT_AFTER_S, EngineSilence


def noticed_after_s(frozen_at: float, answer_s: float, until: float = 60.0) -> float | None:
    """When the first silence is seen, if every probe is answered after `answer_s`, and none from `frozen_at` on."""
    silence, answers, now = EngineSilence(), list[float](), 0.0
    next_probe = 0.0
    while now < until:
        while answers and answers[0] <= now:
            silence.probe_ended(has_answer=answers.pop(0) < frozen_at)
        if now >= next_probe:
            next_probe += PROBE_EVERY_S
            if silence.may_probe(now):
                silence.probe_sent(now)
                answered_at = now + answer_s
                if answered_at < frozen_at:
                    answers.append(answered_at)
        if silence.silent_s(now):
            return now - frozen_at
        now += 0.05
    return None


def test_a_frozen_engine_is_noticed_within_seven_seconds() -> None:
    rng = Random(3)
    for _ in range(200):
        after_s = noticed_after_s(10.0 + rng.random(), rng.choice([0.001, 0.05, 0.4]))
        assert after_s is not None and SILENT_AFTER_S - 1.0 <= after_s <= 7.0


def test_slow_answers_are_signs_of_life() -> None:
    for answer_s in (0.5, 1.5, 3.0, 4.9):
        assert noticed_after_s(1e9, answer_s) is None


def test_time_in_which_the_agent_did_not_run_does_not_count() -> None:
    silence = EngineSilence()
    silence.probe_sent(0.0)
    silence.agent_was_delayed(20.0)
    assert not silence.silent_s(21.0) and silence.silent_s(26.0) == 6.0


def test_a_frozen_engine_gets_one_probe_at_a_time_and_any_answer_ends_the_silence() -> None:
    silence = EngineSilence()
    for number in range(OPEN_PROBES_MAX):
        assert silence.may_probe(number * 0.5)
        silence.probe_sent(number * 0.5)
    assert not silence.may_probe(7.0)
    for _ in range(OPEN_PROBES_MAX):
        silence.probe_ended(has_answer=False)
    assert silence.silent_s(8.0) == 8.0 and silence.may_probe(8.0)
    silence.probe_sent(8.0)
    silence.probe_ended(has_answer=True)
    assert not silence.silent_s(8.1)
