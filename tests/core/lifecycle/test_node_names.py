"""Tests which name a node gets if two nodes claim the same one."""

from __future__ import annotations

from herd.core.lifecycle.node_names import NodeNames
from herd.core.state.fleet import NodeId


def test_single_node_always_has_its_name() -> None:
    names = NodeNames()
    assert [names.assign(NodeId("mac"), "b1", "10.0.0.2", at) for at in (0.0, 5.0, 10.0)] == ["mac"] * 3


def test_cloned_machine_gets_a_second_name_and_both_names_are_stable() -> None:
    names = NodeNames()
    seen = [
        (names.assign(NodeId("mac"), "b1", "10.0.0.2", at), names.assign(NodeId("mac"), "b2", "10.0.0.3", at + 1))
        for at in (0.0, 5.0, 10.0)
    ]
    assert seen == [("mac", "mac-2")] * 3


def test_restarted_node_gets_its_name_back_at_once() -> None:
    names = NodeNames()
    names.assign(NodeId("mac"), "b1", "10.0.0.2", 0.0)
    assert names.assign(NodeId("mac"), "b2", "10.0.0.2", 1.0) == "mac"


def test_two_agents_on_one_machine_with_one_name_are_distinguished() -> None:
    names = NodeNames()
    names.assign(NodeId("mac"), "b1", "10.0.0.2", 0.0)
    names.assign(NodeId("mac"), "b2", "10.0.0.2", 1.0)
    later = [
        (names.assign(NodeId("mac"), "b1", "10.0.0.2", at), names.assign(NodeId("mac"), "b2", "10.0.0.2", at + 1))
        for at in (5.0, 10.0, 15.0)
    ]
    assert later == [("mac-2", "mac")] * 3


def test_name_is_free_after_a_goodbye_or_a_long_time_without_heartbeats() -> None:
    names = NodeNames()
    names.assign(NodeId("mac"), "b1", "10.0.0.2", 0.0)
    assert names.assign(NodeId("mac"), "b2", "10.0.0.3", 20.0) == "mac"
    names.release(NodeId("mac"))
    assert names.assign(NodeId("mac"), "b3", "10.0.0.4", 21.0) == "mac"
