"""Tests the order of turns: tenants share by the cost of their requests, each in order of arrival."""

from __future__ import annotations

from random import Random

from herd.core.state.fairness import TENANTS_MAX, TURN, FairOrder, Shares
from herd.core.state.request import RequestId


def a_line(*names: str) -> FairOrder:
    """`a1` is the first request of tenant `a`."""
    line = FairOrder(Shares())
    for name in names:
        line.add(RequestId(name), name[0])
    return line


def served(line: FairOrder, count: int, cost: float = TURN) -> list[str]:
    found: list[str] = []
    for _ in range(count):
        head = line.first()
        assert head is not None
        line.remove(head)
        line.shares.charge(head[0], cost)
        found.append(head)
    return found


def test_a_flood_and_a_single_request_take_turns() -> None:
    line = a_line("a1", "a2", "a3", "a4", "b1")
    assert served(line, 5) == ["a1", "b1", "a2", "a3", "a4"]


def test_single_tenant_is_served_in_order_of_arrival() -> None:
    assert served(a_line("a1", "a2", "a3"), 3) == ["a1", "a2", "a3"]


def test_tenant_with_long_answers_gets_fewer_turns() -> None:
    line = a_line("a1", "a2", "a3", "b1", "b2", "b3", "b4")
    order: list[str] = []
    while (head := line.first()) is not None:
        line.remove(head)
        line.shares.charge(head[0], 3.0 if head[0] == "a" else 1.0)
        order.append(head)
    assert order == ["a1", "b1", "b2", "b3", "a2", "b4", "a3"]


def test_absent_tenant_does_not_save_up_turns() -> None:
    line = a_line("a1", "a2", "a3", "a4", "a5", "a6")
    served(line, 3)
    for name in ("b1", "b2", "b3"):
        line.add(RequestId(name), "b")
    assert served(line, 4) == ["b1", "a4", "b2", "a5"]


def test_first_request_without_a_turn_keeps_its_place() -> None:
    line = a_line("a1", "b1", "a2")
    line.remove(RequestId("a1"))
    line.add(RequestId("a1"), "a")
    line.move_to_front(RequestId("a1"))
    assert served(line, 3) == ["a1", "b1", "a2"]


def test_reported_order_is_the_order_of_service() -> None:
    for seed in range(200):
        rng = Random(seed)
        names = [f"{rng.choice('abcd')}{number}" for number in range(rng.randint(1, 30))]
        costs = {RequestId(name): rng.choice((0.5, 1.0, 4.0)) for name in names}
        line = a_line(*names)
        for _ in range(rng.randint(0, 10)):
            line.shares.charge(rng.choice("abcd"), rng.random())
        predicted = list(line.sequence(costs.__getitem__))
        served: list[str] = []
        while (head := line.first()) is not None:
            line.remove(head)
            line.shares.charge(head[0], costs[head])
            served.append(head)
        assert predicted == served, f"seed {seed}"


def test_tenants_with_waiting_requests_get_equal_shares() -> None:
    for seed in range(50):
        rng = Random(seed)
        line, number, given = FairOrder(Shares()), 0, dict.fromkeys("abc", 0.0)
        for _ in range(300):
            for tenant, many in (("a", 9), ("b", 1), ("c", 3)):
                while sum(line._tenant_of[request_id] == tenant for request_id in line._tenant_of) < many:
                    number += 1
                    line.add(RequestId(f"{tenant}{number}"), tenant)
            head = line.first()
            assert head is not None
            cost = rng.uniform(0.1, 3.0)
            given[head[0]] += cost
            line.remove(head)
            line.shares.charge(head[0], cost)
        # The bound of start-time fair queueing: two backlogged tenants differ by at most one request of each.
        assert max(given.values()) - min(given.values()) <= 6.0, f"seed {seed}: {given}"


def test_number_of_remembered_tenants_is_bounded() -> None:
    shares = Shares()
    for number in range(10 * TENANTS_MAX):
        shares.charge(f"t{number}", 1e9)
    assert len(shares) <= TENANTS_MAX


def test_initial_position_counts_a_turn_of_each_other_tenant() -> None:
    line = a_line("a1", "a2", "a3", "a4")
    assert [line.add(RequestId("b1"), "b"), line.add(RequestId("b2"), "b"), line.add(RequestId("a5"), "a")] == [2, 4, 7]
