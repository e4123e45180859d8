"""docs/dashboard-api.md is what the shapes say: each example is read by its shape, field for field."""

from __future__ import annotations

import re

import msgspec
import pytest

import herd.dashboard.tabs
from herd.dashboard import DashboardRoute, live, requests
from herd.dashboard.tabs import Tab
from herd.discover import discover
from project.source import ROOT

TABS = discover(herd.dashboard.tabs, Tab, "TAB")
ANSWERS = [*(answer for tab in TABS for answer in tab.routes), *requests.ROUTES]
TOLD = (ROOT / "docs/dashboard-api.md").read_text("utf-8")
SECTION = re.compile(r"^### (?:`(\w+) ([^`]+)` answers|Message) `(\w+)`\n(.*?)(?=^##|\Z)", re.MULTILINE | re.DOTALL)
EXAMPLE = re.compile(r"^```json\n(.*?)^```", re.MULTILINE | re.DOTALL)
SECTIONS = SECTION.findall(TOLD)


def same(text: str, shape: type[msgspec.Struct]) -> None:
    """Nothing in the example is unknown to the shape, and nothing of the shape is missing in the example."""
    assert msgspec.json.decode(msgspec.json.encode(msgspec.json.decode(text, type=shape))) == msgspec.json.decode(text)


@pytest.mark.parametrize("answer", ANSWERS, ids=lambda answer: f"{answer.method} {answer.path}")
def test_every_answer_is_told_with_an_example_of_its_shape(answer: DashboardRoute) -> None:
    [told] = [section for section in SECTIONS if section[:2] == (answer.method, answer.path)]
    assert told[2] == answer.shape.__name__
    *asked, answered = EXAMPLE.findall(told[3])
    same(answered, answer.shape)
    assert len(asked) == (answer.body is not None)
    for text in asked:
        assert answer.body is not None
        same(text, answer.body)


@pytest.mark.parametrize("shape", live.MESSAGES, ids=lambda shape: shape.__name__)
def test_every_live_message_is_told_with_an_example_of_its_shape(shape: type[msgspec.Struct]) -> None:
    told = [section for section in SECTIONS if section[2] == shape.__name__]
    assert told
    for section in told:
        [text] = EXAMPLE.findall(section[3])
        same(text, shape)


def test_no_route_is_told_that_is_none() -> None:
    assert {section[:2] for section in SECTIONS if section[0]} == {(answer.method, answer.path) for answer in ANSWERS}


def test_tabs_have_an_order_of_their_own() -> None:
    assert len({tab.order for tab in TABS}) == len(TABS)
