"""Tests the queue of downloads, and the choice of source and target."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from builders import a_model_info, a_report, an_engine
from herd.core.planning import transfer_queue
from herd.core.planning.transfer_queue import (
    DEFAULT_REGISTRY,
    ENDED_MAX,
    QUEUED_MAX,
    PullOptions,
    Transfer,
    TransferQueue,
    TransferState,
)
from herd.core.state.fleet import GB, Disk, Fleet, Node, NodeId, Report, canonical
from herd.errors import Refusal

M = canonical("m")


def a_fleet(*reports: Report) -> Fleet:
    fleet = Fleet()
    for report in reports:
        fleet.apply_heartbeat(report, 0.0)
    return fleet


def sharer(node_id: str, digest: str = "a" * 64, cpu: float = 0.0, library: str = "http://10.0.0.1:4000") -> Report:
    endpoint = replace(an_engine(), library_url=library)
    return a_report(node_id, [a_model_info(engine=endpoint, digest=digest)], engines=(endpoint,), cpu_utilization=cpu)


def empty(node_id: str = "bare", **more: Any) -> Report:
    return a_report(node_id, engines=(an_engine(),), **more)


def node(fleet: Fleet, node_id: str) -> Node:
    found = fleet.node(NodeId(node_id))
    assert found is not None
    return found


def wanted(queue: TransferQueue, at: Node, name: str = "m", by: str = "x") -> Transfer:
    transfer = queue.add(at, name, by, 0.0, PullOptions())
    assert isinstance(transfer, Transfer)
    return transfer


def test_two_requesters_share_one_download_that_ends_when_both_have_left() -> None:
    queue, bare = TransferQueue(), node(a_fleet(empty()), "bare")
    first, second = wanted(queue, bare, "m", "x"), wanted(queue, bare, "M:latest", "y")
    assert first is second
    assert not queue.release(first, "x", 1.0) and first.state is TransferState.QUEUED
    assert queue.release(first, "y", 2.0) and (first.state, first.ended_at) == (TransferState.CANCELLED, 2.0)
    assert wanted(queue, bare) is not first, "an ended download is not reused"


def test_node_downloads_one_model_at_a_time_with_a_short_queue() -> None:
    queue, bare = TransferQueue(), node(a_fleet(empty()), "bare")
    fetches = [wanted(queue, bare, f"m{number}") for number in range(QUEUED_MAX)]
    assert queue.next(bare.id) is fetches[0] and queue.next(bare.id) is None
    wanted(queue, bare, "one-more")
    refused = queue.add(bare, "too-many", "x", 0.0, PullOptions())
    assert isinstance(refused, Refusal) and refused.status == 429
    queue.end(fetches[0], TransferState.DONE, 1.0)
    assert queue.next(bare.id) is fetches[1]


def test_final_state_does_not_change_and_old_downloads_are_removed() -> None:
    queue, bare = TransferQueue(), node(a_fleet(empty()), "bare")
    transfer = wanted(queue, bare)
    queue.end(transfer, TransferState.FAILED, 1.0, "no disk")
    queue.end(transfer, TransferState.DONE, 2.0)
    assert (transfer.state, transfer.error, transfer.ended_at) == (TransferState.FAILED, "no disk", 1.0)
    for number in range(ENDED_MAX + 5):
        queue.end(wanted(queue, bare, f"m{number}"), TransferState.DONE, 3.0)
    assert len(list(queue)) <= ENDED_MAX + 1 and queue.get(transfer.id) is None


def test_least_busy_sharing_node_is_the_source() -> None:
    fleet = a_fleet(sharer("busy", cpu=90.0), sharer("idle", cpu=5.0), sharer("closed", library=""), empty())
    assert [node.id for node, _ in transfer_queue.sources(fleet, NodeId("bare"), M, "")] == ["idle", "busy"]
    assert [node.id for node, _ in transfer_queue.sources(fleet, NodeId("idle"), M, "")] == ["busy"], (
        "refused copies from itself"
    )


def test_most_common_version_is_copied_unless_a_digest_is_given() -> None:
    fleet = a_fleet(sharer("one", "a" * 64), sharer("two", "b" * 64), sharer("three", "b" * 64))
    assert {node.id for node, _ in transfer_queue.sources(fleet, NodeId("bare"), M, "")} == {"two", "three"}
    assert {node.id for node, _ in transfer_queue.sources(fleet, NodeId("bare"), M, "a" * 64)} == {"one"}
    assert transfer_queue.versions(fleet, M) == {"a" * 64: ["one"], "b" * 64: ["two", "three"]}


def test_download_target_has_enough_memory_and_the_highest_bandwidth() -> None:
    small = empty("small", memory_gb=8.0, memory_bandwidth_gbps=900.0)
    slow, fast = empty("slow", memory_bandwidth_gbps=50.0), empty("fast", memory_bandwidth_gbps=400.0)
    best = transfer_queue.best_target(a_fleet(small, slow, fast), M, 10 * GB)
    assert isinstance(best, Node) and best.id == "fast"
    refused = transfer_queue.best_target(a_fleet(a_report("llama", engines=(an_engine(kind="llamacpp"),))), M, 0)
    assert isinstance(refused, Refusal) and refused.code == "no_node"


def test_a_fifth_of_the_free_disk_space_is_reserved() -> None:
    fleet = a_fleet(empty(disk=Disk(100 * GB, 90 * GB, 10 * GB)))
    assert transfer_queue.disk_problem(node(fleet, "bare"), 8 * GB) is None
    problem = transfer_queue.disk_problem(node(fleet, "bare"), 9 * GB)
    assert problem is not None and "herd rm" in problem
    full = transfer_queue.best_target(fleet, M, 9 * GB)
    assert isinstance(full, Refusal) and full.status == 507


@pytest.mark.parametrize(
    ("name", "registry"),
    [
        ("m", DEFAULT_REGISTRY),
        ("https://hf.co/bob/m", "hf.co"),
        ("someone/m:7b", DEFAULT_REGISTRY),
        ("hf.co/someone/m", "hf.co"),
        ("localhost/m", "localhost"),
        ("evil.host/x", "evil.host"),
        ("box:5000/x", "box:5000"),
        ("EVIL.host/a/b:c", "evil.host"),
    ],
)
def test_registry_follows_from_the_model_name(name: str, registry: str) -> None:
    assert transfer_queue.registry_of(name) == registry
    allowed = transfer_queue.registry_refusal(name, (DEFAULT_REGISTRY, "hf.co"))
    assert (allowed is None) == (registry in (DEFAULT_REGISTRY, "hf.co"))
