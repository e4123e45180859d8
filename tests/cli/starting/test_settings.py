"""What a start says about settings of ollama-herd without an effect here."""

from __future__ import annotations

import logging

import pytest

from herd.cli.starting.settings import NOTICES_SHOWN_MAX, log_notices


@pytest.mark.parametrize(("count", "lines"), [(0, 0), (1, 1), (NOTICES_SHOWN_MAX, NOTICES_SHOWN_MAX), (45, 1)])
def test_a_few_settings_have_a_line_each_and_many_one_together(
    caplog: pytest.LogCaptureFixture, count: int, lines: int
) -> None:
    with caplog.at_level(logging.WARNING, "herd"):
        log_notices([f"FLEET_{number} (environment): known, no effect here, because" for number in range(count)])
    assert len(caplog.messages) == lines
    if count > lines:
        assert caplog.messages[0].startswith(f"{count} settings of ollama-herd") and "herd doctor" in caplog.text
