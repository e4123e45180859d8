"""docs/dashboard-api.md matches the code: each example decodes to its record, field by field."""

from __future__ import annotations

import re

import msgspec
import pytest

import herd.dashboard.pages
from herd.dashboard import DashboardRoute, live, requests
from herd.dashboard.pages import Page
from herd.discover import discover
from project.source import ROOT

PAGES = discover(herd.dashboard.pages, Page, "PAGE")
ROUTES = [*(route for page in PAGES for route in page.routes), *requests.ROUTES]
DOCUMENT = (ROOT / "docs/dashboard-api.md").read_text("utf-8")
SECTION = re.compile(r"^### (?:`(\w+) ([^`]+)` answers|Message) `(\w+)`\n(.*?)(?=^##|\Z)", re.MULTILINE | re.DOTALL)
EXAMPLE = re.compile(r"^```json\n(.*?)^```", re.MULTILINE | re.DOTALL)
SECTIONS = SECTION.findall(DOCUMENT)


def assert_same_fields(text: str, shape: type[msgspec.Struct]) -> None:
    """The example has no field that the record lacks, and lacks no field of the record."""
    assert msgspec.json.decode(msgspec.json.encode(msgspec.json.decode(text, type=shape))) == msgspec.json.decode(text)


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_every_route_is_documented_with_an_example_of_its_answer(route: DashboardRoute) -> None:
    [documented] = [section for section in SECTIONS if section[:2] == (route.method, route.path)]
    assert documented[2] == route.shape.__name__
    *bodies, answer = EXAMPLE.findall(documented[3])
    assert_same_fields(answer, route.shape)
    assert len(bodies) == (route.body is not None)
    for text in bodies:
        assert route.body is not None
        assert_same_fields(text, route.body)


@pytest.mark.parametrize("shape", live.MESSAGES, ids=lambda shape: shape.__name__)
def test_every_live_message_is_documented_with_an_example(shape: type[msgspec.Struct]) -> None:
    documented = [section for section in SECTIONS if section[2] == shape.__name__]
    assert documented
    for section in documented:
        [text] = EXAMPLE.findall(section[3])
        assert_same_fields(text, shape)


def test_no_route_is_documented_that_does_not_exist() -> None:
    assert {section[:2] for section in SECTIONS if section[0]} == {(route.method, route.path) for route in ROUTES}


def test_no_two_pages_have_the_same_order() -> None:
    assert len({page.order for page in PAGES}) == len(PAGES)
