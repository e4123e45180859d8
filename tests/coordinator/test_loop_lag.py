"""How late the loop is: the worst of the last minute, and a word about what everybody must have felt."""

from __future__ import annotations

import asyncio
import logging

import pytest

from herd.coordinator.loop_lag import KEPT, WORTH_A_LINE_S, LoopLag


def test_the_worst_of_the_last_minute_is_told_and_then_forgotten() -> None:
    lag = LoopLag(asyncio.new_event_loop())
    assert lag.worst_ms == 0.0
    lag.rang(10.0, 10.04)
    lag.rang(10.5, 10.5)
    assert lag.worst_ms == pytest.approx(40.0)
    for _ in range(KEPT):
        lag.rang(11.0, 11.001)
    assert lag.worst_ms == pytest.approx(1.0)
    lag._loop.close()


def test_what_everybody_felt_is_worth_a_line(caplog: pytest.LogCaptureFixture) -> None:
    lag = LoopLag(asyncio.new_event_loop())
    with caplog.at_level(logging.WARNING):
        lag.rang(10.0, 10.0 + WORTH_A_LINE_S / 2)
        assert not caplog.records
        lag.rang(10.0, 10.0 + WORTH_A_LINE_S)
    assert "250 ms late" in caplog.text
    lag._loop.close()


def test_it_looks_at_the_loop_it_is_given_and_ends() -> None:
    async def go() -> None:
        lag = LoopLag(asyncio.get_running_loop())
        lag.start()
        assert lag._timer is not None
        lag._timer._run()  # as the loop would
        assert lag.worst_ms >= 0.0
        lag.stop()

    asyncio.run(go())
