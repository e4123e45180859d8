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


def served_by_member(line: FairOrder, members: dict[str, str], count: int) -> list[str]:
    """As `served`; `members` has the tenant and the member of each request."""
    found: list[str] = []
    for _ in range(count):
        head = line.first()
        assert head is not None
        line.remove(head)
        tenant, member = members[head].split()
        line.shares.charge(tenant, TURN, member)
        found.append(head)
    return found


def test_members_share_the_turns_of_their_tenant() -> None:
    members = {"f1": "web flood", "f2": "web flood", "f3": "web flood", "a1": "web ann", "k1": "key", "k2": "key"}
    members = {name: of if " " in of else f"{of} -" for name, of in members.items()}
    line = FairOrder(Shares())
    for name, of in members.items():
        line.add(RequestId(name), *of.split())
    assert served_by_member(line, members, 6) == ["f1", "k1", "a1", "k2", "f2", "f3"]


def test_a_tenant_that_invents_members_gets_no_second_share() -> None:
    for invented in (1, 10, 100):
        members = {f"x{n}": f"attacker m{n % invented}" for n in range(100)}
        members |= {f"q{n}": "quiet one" for n in range(100)}
        line = FairOrder(Shares())
        for name, of in members.items():
            line.add(RequestId(name), *of.split())
        first = served_by_member(line, members, 100)
        assert sum(name.startswith("q") for name in first) == 50


def test_reported_order_is_the_order_of_service_with_members() -> None:
    for seed in range(200):
        rng = Random(seed)
        names = [RequestId(f"{rng.choice('abc')}{rng.choice('xyz')}{number}") for number in range(rng.randint(1, 30))]
        costs = {name: rng.choice((0.5, 1.0, 4.0)) for name in names}
        line = FairOrder(Shares())
        for _ in range(rng.randint(0, 10)):
            line.shares.charge(rng.choice("abc"), rng.random(), rng.choice("xyz"))
        for name in names:
            line.add(name, name[0], name[1])
        predicted = list(line.sequence(costs.__getitem__))
        found: list[str] = []
        while (head := line.first()) is not None:
            line.remove(head)
            line.shares.charge(head[0], costs[head], head[1])
            found.append(head)
        assert predicted == found, f"seed {seed}"


def test_position_counts_turns_of_members_and_tenants() -> None:
    line = FairOrder(Shares())
    for name in ("af1", "af2", "af3", "bx1"):
        line.add(RequestId(name), name[0], name[1])
    assert line.add(RequestId("aq1"), "a", "q") == 3, "after one of the flood and one of the other tenant"


def test_correction_counts_what_was_really_used() -> None:
    line = a_line("a1", "a2", "b1", "b2", "b3")
    line.remove(RequestId("a1"))
    line.shares.charge("a", 1.0)
    line.shares.correct("a", 2.0)
    line.remove(RequestId("b1"))
    line.shares.charge("b", 1.0)
    assert served(line, 3) == ["b2", "b3", "a2"]


def test_number_of_remembered_members_is_bounded() -> None:
    shares = Shares()
    for number in range(3 * TENANTS_MAX):
        shares.charge("t", 1.0, f"m{number}")
        shares.charge(f"t{number}", 1e9, "m")
    assert len(shares.members.get("t", ())) <= TENANTS_MAX
    assert len(shares.members) <= len(shares) + 1
