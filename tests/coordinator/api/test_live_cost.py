"""Tests the work of live messages on the event loop, counted in work instead of time."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec

from builders import a_model_info, a_report, a_world
from herd.coordinator.api.fleet_view import FleetView
from herd.coordinator.api.live_feed import CARDS_PER_TICK, LiveFeed, LiveMessage
from herd.coordinator.driver import Driver
from herd.coordinator.storage.store_settings import StoreSettings
from herd.coordinator.storage.writer import TraceStore
from herd.core.state.commands import Record
from herd.dashboard.live import FleetMessage


class RecordingSubscriber:
    """Stores the messages that it receives."""

    def __init__(self) -> None:
        self.topics: frozenset[str] = frozenset()
        self.received: list[LiveMessage] = []

    def send(self, message: LiveMessage) -> None:
        self.received.append(message)


def a_feed(nodes: int, loop: asyncio.AbstractEventLoop, folder: Path) -> LiveFeed:
    world = a_world()
    world.receives(*(a_report(f"node-{n:03d}", [a_model_info("m", loaded=True)]) for n in range(nodes)))
    driver = Driver(world.dispatcher, _nothing, loop)
    return LiveFeed(driver, FleetView(driver, TraceStore(StoreSettings(), folder), loop), lambda: (), loop)


def _nothing(_: Record) -> None:
    """Nothing ends here."""


def test_a_message_is_encoded_once_for_all_subscribers(tmp_path: Path) -> None:
    loop = asyncio.new_event_loop()
    feed = a_feed(3, loop, tmp_path)
    tabs = [RecordingSubscriber() for _ in range(10)]
    for tab in tabs:
        feed.subscribe(tab, frozenset({"fleet"}))
    feed._tick()
    [last] = {id(tab.received[-1]) for tab in tabs}
    assert last == id(tabs[0].received[-1]) and tabs[0].received[-1].frame is tabs[9].received[-1].frame
    feed.stop()
    loop.close()


def test_one_tick_rebuilds_a_limited_number_of_cards_and_all_get_their_turn(tmp_path: Path) -> None:
    loop = asyncio.new_event_loop()
    nodes = 3 * CARDS_PER_TICK
    feed = a_feed(nodes, loop, tmp_path)
    tab = RecordingSubscriber()
    feed.subscribe(tab, frozenset({"fleet"}))
    feed._cards.clear()  # as if all had changed at once
    seen: list[int] = []
    for _ in range(3):
        feed._tick()
        seen.append(len(msgspec.json.decode(tab.received[-1].body, type=FleetMessage).data.nodes))
    assert seen == [CARDS_PER_TICK] * 3 and len(feed._cards) == nodes
    feed._tick()
    assert msgspec.json.decode(tab.received[-1].body, type=FleetMessage).data.nodes == (), (
        "without a change the delta has no cards"
    )
    feed.stop()
    loop.close()
