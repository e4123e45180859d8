"""Tests event-loop lag: the highest value of the last minute, and the log line for a long one."""

from __future__ import annotations

import asyncio
import logging

import pytest

from herd.coordinator.loop_lag import SAMPLES_MAX, WARN_AFTER_S, LoopLag


def test_the_highest_lag_counts_for_one_minute() -> None:
    lag = LoopLag(asyncio.new_event_loop())
    assert lag.worst_ms == 0.0
    lag.add_sample(10.0, 10.04)
    lag.add_sample(10.5, 10.5)
    assert lag.worst_ms == pytest.approx(40.0)
    for _ in range(SAMPLES_MAX):
        lag.add_sample(11.0, 11.001)
    assert lag.worst_ms == pytest.approx(1.0)
    lag._loop.close()


def test_a_long_lag_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    lag = LoopLag(asyncio.new_event_loop())
    with caplog.at_level(logging.WARNING):
        lag.add_sample(10.0, 10.0 + WARN_AFTER_S / 2)
        assert not caplog.records
        lag.add_sample(10.0, 10.0 + WARN_AFTER_S)
    assert "lag of 250 ms" in caplog.text
    lag._loop.close()


def test_the_timer_adds_a_sample_and_stops() -> None:
    async def go() -> None:
        lag = LoopLag(asyncio.get_running_loop())
        lag.start()
        assert lag._timer is not None
        lag._timer._run()  # as the loop would
        assert lag.worst_ms >= 0.0
        lag.stop()

    asyncio.run(go())
