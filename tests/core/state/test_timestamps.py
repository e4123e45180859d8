"""Tests that times of engines are compared across zones and precisions."""

from __future__ import annotations

import pytest

from herd.core.state.timestamps import instant, unix_s


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1970-01-01T00:00:00Z", 0.0),
        ("2024-05-01T10:00:00Z", 1714557600.0),
        ("2024-05-01t10:00:00z", 1714557600.0),
        ("2024-05-01T03:00:00.5-07:00", 1714557600.5),
        ("2024-05-01T10:00:00.123456789Z", 1714557600.123456),
        ("0001-01-01T00:00:00Z", -62135596800.0),
        ("0001-01-01T00:00:00+05:00", -62135614800.0),
        ("2024-02-29T00:00:00", 1709164800.0),
    ],
)
def test_a_time_of_any_zone_is_converted_to_unix_seconds(text: str, seconds: float) -> None:
    assert instant(text) == unix_s(text) == pytest.approx(seconds, abs=1e-6)


@pytest.mark.parametrize("text", ["", "x", "2024-13-01T00:00:00Z", "2024-02-30T00:00:00Z", "2024-05-01T25:00:00Z"])
def test_an_invalid_time_is_none_and_before_all_others(text: str) -> None:
    assert unix_s(text) is None and instant(text) < instant("0001-01-01T00:00:00Z")
