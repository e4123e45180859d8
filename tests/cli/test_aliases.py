"""Tests of `herd alias`: the list, a definition, a removal."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes.dashboard.settings_store import a_settings_store
from fakes.fleet import Fleet, running_fleet
from fakes.ollama.server import FakeOllama
from herd.cli.aliases import NO_ALIASES, lines
from terminal import herd

ONE = {"name": "fast", "models": ["a", "b"], "live": ["b"], "source": "alias"}
TIER = {"name": "claude-opus-*", "models": [], "live": [], "source": "tier"}


def shown(*aliases: object, are_listed: bool = True) -> list[str]:
    return [line.plain.rstrip() for line in lines({"aliases": list(aliases), "are_listed": are_listed}, 100)]


def test_each_alias_is_shown_with_its_models_and_the_one_that_answers() -> None:
    _, one, tier = shown(ONE, TIER)
    assert one.split() == ["fast", "a,", "b", "b"]
    assert tier.split() == ["claude-opus-*", "(by", "size)", "none"]
    assert shown() == [NO_ALIASES]
    assert "FLEET_ALIASES_LISTED" in shown(ONE, are_listed=False)[-1]


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with (
        FakeOllama(["m"]) as node,
        running_fleet({"alpha": node}, data_dir=tmp_path, settings_store=a_settings_store(tmp_path, {})) as running,
    ):
        yield running


def test_an_alias_is_defined_listed_and_removed(fleet: Fleet) -> None:
    assert "fast is answered by m" in herd("alias", "set", "fast", "m", url=fleet.url).out
    assert "fast" in herd("alias", url=fleet.url).out
    assert "fast is not an alias any more" in herd("alias", "rm", "fast", url=fleet.url).out
    assert "fast" not in herd("alias", url=fleet.url).out
