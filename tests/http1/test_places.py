"""Tests who gets a place for a connection, and which connection is closed for it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable

import pytest

from herd.http1.exchange import HttpExchange
from herd.http1.http_settings import HttpSettings
from herd.http1.places import Activity, Places
from herd.http1.server import serve
from http_fixtures import GET, LOOPS, Memory, render_error

SETTINGS = HttpSettings(
    connections_max=100,
    connections_per_ip_max=10,
    connections_loopback_max=20,
    connections_reserved_loopback=5,
    connections_reserved_nodes=5,
)
STRANGERS_MAX = 90
NODE = "10.0.0.200"


class Place:
    """A connection that only says what it does."""

    def __init__(self, ip: str, activity: Activity) -> None:
        self.client_ip = ip
        self._activity = activity
        self.is_closed = False

    def activity(self) -> Activity:
        return self._activity

    def sweep(self, now: float) -> None: ...

    def close_if_idle(self) -> None: ...

    def abort(self) -> None:
        self.is_closed = True


def fill(places: Places, count: int, activity: Activity, address: Callable[[int], str]) -> list[Place]:
    taken = [Place(address(number), activity) for number in range(count)]
    for place in taken:
        assert places.join(place) <= 0
    return taken


def by_tens(number: int) -> str:
    return f"192.168.1.{number // 10 + 1}"


@pytest.mark.parametrize("activity", [Activity.HALF_OPEN, Activity.IDLE, Activity.SENDING, Activity.NEW])
def test_a_machine_with_many_addresses_locks_no_client_out(activity: Activity) -> None:
    places = Places(SETTINGS, lambda ip: ip == NODE)
    taken = fill(places, STRANGERS_MAX, activity, by_tens)
    for ip in ("192.168.2.1", NODE, "127.0.0.1", "fd00::7"):
        assert places.join(Place(ip, Activity.NEW)) <= 0, ip
    assert [place for place in taken if place.is_closed] == [taken[0], taken[10]], "only for the two without a reserve"


def test_working_connections_of_strangers_leave_the_reserved_places_free() -> None:
    places = Places(SETTINGS, lambda ip: ip == NODE)
    fill(places, STRANGERS_MAX, Activity.WORKING, by_tens)
    stranger = Place("192.168.2.1", Activity.HALF_OPEN)
    assert places.join(stranger) == 1 and places.refusal("192.168.2.1").status == 503
    places.leave(stranger)
    fill(places, 5, Activity.WORKING, lambda _: "127.0.0.1")
    local = Place("127.0.0.1", Activity.WORKING)
    assert places.join(local) == 1
    places.leave(local)
    fill(places, 5, Activity.WORKING, lambda _: NODE)
    assert places.join(Place(NODE, Activity.WORKING)) == 1


def test_half_open_connections_are_closed_before_idle_and_those_before_slow_uploads() -> None:
    places = Places(SETTINGS)
    kinds = (Activity.SENDING, Activity.IDLE, Activity.HALF_OPEN, Activity.WORKING)
    taken = [Place("192.168.1.1", kinds[number % 4]) for number in range(8)]
    others = fill(places, STRANGERS_MAX - 8, Activity.WORKING, lambda n: f"192.168.3.{n}")
    for place in taken:
        assert places.join(place) <= 0
    closed: list[Place] = []
    for number in range(6):
        assert places.join(Place(f"192.168.2.{number}", Activity.WORKING)) <= 0
        closed += [place for place in taken if place.is_closed and place not in closed]
    assert [place.activity() for place in closed] == [
        *[Activity.HALF_OPEN] * 2,
        *[Activity.IDLE] * 2,
        *[Activity.SENDING] * 2,
    ]
    assert places.join(Place("192.168.2.99", Activity.HALF_OPEN)) == 1
    assert not any(place.is_closed for place in others)


def test_the_address_with_the_most_connections_loses_one_first() -> None:
    places = Places(SETTINGS)
    quiet = fill(places, STRANGERS_MAX - 10, Activity.IDLE, lambda n: f"192.168.3.{n}")
    greedy = fill(places, 10, Activity.IDLE, lambda _: "192.168.1.1")
    assert places.join(Place("192.168.2.1", Activity.HALF_OPEN)) <= 0
    assert greedy[0].is_closed and not any(place.is_closed for place in quiet)


def test_a_local_proxy_with_half_open_connections_does_not_lock_this_machine_out() -> None:
    places = Places(SETTINGS)
    taken = fill(places, 20, Activity.HALF_OPEN, lambda n: f"127.0.0.{n + 1}")
    assert places.join(Place("::1", Activity.HALF_OPEN)) <= 0
    assert taken[0].is_closed


def test_addresses_of_one_ipv6_network_count_together() -> None:
    places = Places(SETTINGS)
    fill(places, 10, Activity.WORKING, lambda n: f"2001:db8:0:1::{n:x}")
    last = Place("2001:db8:0:1:ffff::1", Activity.WORKING)
    assert places.join(last) == 1
    refusal = places.refusal(last.client_ip)
    assert refusal.status == 429 and "2001:db8:0:1::/64" in refusal.message
    assert places.join(Place("2001:db8:0:2::1", Activity.WORKING)) <= 0


def test_connections_are_closed_only_if_that_makes_enough_room() -> None:
    places = Places(SETTINGS)
    fill(places, STRANGERS_MAX, Activity.WORKING, by_tens)
    refused = Place("192.168.2.1", Activity.IDLE)
    assert places.join(refused) == 1
    assert places.join(Place("192.168.2.2", Activity.NEW)) == 2
    assert not refused.is_closed


def test_a_freed_place_is_freed_once() -> None:
    places = Places(SETTINGS)
    place = Place("192.168.1.1", Activity.IDLE)
    places.join(place)
    places.leave(place)
    places.leave(place)
    fill(places, STRANGERS_MAX, Activity.WORKING, by_tens)


@pytest.mark.parametrize("data", [b"", b"GET / HT", GET[:-1], GET])
def test_a_connection_says_what_it_does(data: bytes) -> None:
    memory = Memory(on_request=lambda exchange: exchange.respond(200, (), b""))
    connection, _ = memory.connect()
    if data:
        connection.data_received(data)
    assert connection.activity() is (Activity.IDLE if data == GET else Activity.NEW)
    memory.clients.now += 2.0
    assert connection.activity() is (Activity.IDLE if data == GET else Activity.HALF_OPEN)


def test_a_connection_with_a_request_is_not_closed_for_another() -> None:
    memory = Memory()
    connection, _ = memory.connect()
    connection.data_received(GET)
    assert connection.activity() is Activity.WORKING
    connection, _ = memory.connect()
    connection.data_received(b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nabc")
    assert connection.activity() is Activity.SENDING


@pytest.mark.parametrize("new_loop", LOOPS)
def test_a_thousand_incomplete_heads_of_a_local_proxy_keep_no_client_out(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(_many_half_heads())


async def _many_half_heads() -> None:
    def answer(exchange: HttpExchange) -> None:
        exchange.respond(200, (), b"here")

    settings = HttpSettings(connections_loopback_max=200)
    server = await serve(settings, "127.0.0.1", 0, answer, render_error)
    with contextlib.ExitStack() as stack:
        for _ in range(300):
            half = stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            half.sendall(b"GET / HTTP/1.1\r\nHo")
            await asyncio.sleep(0)
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert (await reader.read()).endswith(b"here")
        assert len(server.clients.connections) <= 201
        writer.close()
    server.close()
