"""Tests that every status that a row can have is shown with a word, and a failure as one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from herd.cli.why import OUTCOMES as CLI_WORDS
from herd.coordinator.storage.journal.recovery import LOST_STATUS
from herd.core.state.request import Outcome
from herd.dashboard.request_details import OUTCOMES as DASHBOARD_WORDS

BADGE = Path(__file__).resolve().parents[2] / "frontend" / "src" / "parts" / "layout" / "StateBadge.svelte"
STATUSES = [*(outcome.value for outcome in Outcome), LOST_STATUS]
FAILED = [Outcome.FAILED.value, Outcome.FAILED_MIDSTREAM.value, Outcome.REJECTED.value, LOST_STATUS]


def badge_block(name: str) -> str:
    found = re.search(rf"const {name}: [^=]+= \{{(.*?)\}};", BADGE.read_text("utf-8"), re.DOTALL)
    assert found is not None
    return found[1]


@pytest.mark.parametrize("status", STATUSES)
def test_every_status_has_a_tone_or_a_name_in_the_badge(status: str) -> None:
    known = re.findall(r'"(\w+)"', badge_block("TONES")) + re.findall(r"(\w+):", badge_block("NAMES"))
    assert status in known


@pytest.mark.parametrize("status", FAILED)
def test_every_failure_looks_like_one_in_the_badge(status: str) -> None:
    bad = re.search(r"bad: \[(.*?)\]", badge_block("TONES"))
    assert bad is not None and f'"{status}"' in bad[1]


@pytest.mark.parametrize("words", [CLI_WORDS, DASHBOARD_WORDS])
def test_every_status_has_words_in_the_answers(words: dict[str, str]) -> None:
    assert set(STATUSES) <= set(words)
