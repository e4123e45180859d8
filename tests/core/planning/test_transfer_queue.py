"""The book of fetches: one per node and model, one at a time on each node, stopped when nobody wants it; where from,
and where to."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from builders import a_card, a_report, an_engine
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
    return a_report(node_id, [a_card(engine=endpoint, digest=digest)], engines=(endpoint,), cpu_utilization=cpu)


def empty(node_id: str = "bare", **more: Any) -> Report:
    return a_report(node_id, engines=(an_engine(),), **more)


def node(fleet: Fleet, node_id: str) -> Node:
    found = fleet.node(NodeId(node_id))
    assert found is not None
    return found


def wanted(book: TransferQueue, at: Node, name: str = "m", by: str = "x") -> Transfer:
    fetch = book.add(at, name, by, 0.0, PullOptions())
    assert isinstance(fetch, Transfer)
    return fetch


def test_two_who_want_the_same_share_one_fetch_and_it_ends_when_both_have_left() -> None:
    book, bare = TransferQueue(), node(a_fleet(empty()), "bare")
    first, second = wanted(book, bare, "m", "x"), wanted(book, bare, "M:latest", "y")
    assert first is second
    assert not book.release(first, "x", 1.0) and first.state is TransferState.QUEUED
    assert book.release(first, "y", 2.0) and (first.state, first.ended_at) == (TransferState.CANCELLED, 2.0)
    assert wanted(book, bare) is not first, "what is over is begun anew"


def test_a_node_fetches_one_after_the_other_and_keeps_a_short_line() -> None:
    book, bare = TransferQueue(), node(a_fleet(empty()), "bare")
    fetches = [wanted(book, bare, f"m{number}") for number in range(QUEUED_MAX)]
    assert book.next(bare.id) is fetches[0] and book.next(bare.id) is None
    wanted(book, bare, "one-more")
    refused = book.add(bare, "too-many", "x", 0.0, PullOptions())
    assert isinstance(refused, Refusal) and refused.status == 429
    book.end(fetches[0], TransferState.DONE, 1.0)
    assert book.next(bare.id) is fetches[1]


def test_an_end_is_final_and_old_ends_are_forgotten() -> None:
    book, bare = TransferQueue(), node(a_fleet(empty()), "bare")
    fetch = wanted(book, bare)
    book.end(fetch, TransferState.FAILED, 1.0, "no disk")
    book.end(fetch, TransferState.DONE, 2.0)
    assert (fetch.state, fetch.error, fetch.ended_at) == (TransferState.FAILED, "no disk", 1.0)
    for number in range(ENDED_MAX + 5):
        book.end(wanted(book, bare, f"m{number}"), TransferState.DONE, 3.0)
    assert len(list(book)) <= ENDED_MAX + 1 and book.get(fetch.id) is None


def test_the_idle_machine_is_copied_from_and_only_by_who_shares() -> None:
    fleet = a_fleet(sharer("busy", cpu=90.0), sharer("idle", cpu=5.0), sharer("closed", library=""), empty())
    assert [one.id for one, _ in transfer_queue.sources(fleet, NodeId("bare"), M, "")] == ["idle", "busy"]
    assert [one.id for one, _ in transfer_queue.sources(fleet, NodeId("idle"), M, "")] == ["busy"], (
        "nobody copies from itself"
    )


def test_where_tags_drifted_apart_the_most_common_is_copied_or_the_one_that_is_named() -> None:
    fleet = a_fleet(sharer("one", "a" * 64), sharer("two", "b" * 64), sharer("three", "b" * 64))
    assert {one.id for one, _ in transfer_queue.sources(fleet, NodeId("bare"), M, "")} == {"two", "three"}
    assert {one.id for one, _ in transfer_queue.sources(fleet, NodeId("bare"), M, "a" * 64)} == {"one"}
    assert transfer_queue.versions(fleet, M) == {"a" * 64: ["one"], "b" * 64: ["two", "three"]}


def test_a_model_goes_where_it_fits_and_is_read_fastest() -> None:
    small = empty("small", memory_gb=8.0, memory_bandwidth_gbps=900.0)
    slow, fast = empty("slow", memory_bandwidth_gbps=50.0), empty("fast", memory_bandwidth_gbps=400.0)
    best = transfer_queue.best_target(a_fleet(small, slow, fast), M, 10 * GB)
    assert isinstance(best, Node) and best.id == "fast"
    nobody = transfer_queue.best_target(a_fleet(a_report("llama", engines=(an_engine(kind="llamacpp"),))), M, 0)
    assert isinstance(nobody, Refusal) and nobody.code == "no_node"


def test_a_fifth_of_the_free_disk_stays_free() -> None:
    fleet = a_fleet(empty(disk=Disk(100 * GB, 90 * GB, 10 * GB)))
    assert transfer_queue.disk_problem(node(fleet, "bare"), 8 * GB) is None
    told = transfer_queue.disk_problem(node(fleet, "bare"), 9 * GB)
    assert told is not None and "herd rm" in told
    full = transfer_queue.best_target(fleet, M, 9 * GB)
    assert isinstance(full, Refusal) and full.status == 507


@pytest.mark.parametrize(
    ("name", "registry"),
    [
        ("m", DEFAULT_REGISTRY),
        ("someone/m:7b", DEFAULT_REGISTRY),
        ("hf.co/someone/m", "hf.co"),
        ("localhost/m", "localhost"),
        ("evil.host/x", "evil.host"),
        ("box:5000/x", "box:5000"),
        ("EVIL.host/a/b:c", "evil.host"),
    ],
)
def test_a_name_says_whose_registry_is_asked(name: str, registry: str) -> None:
    assert transfer_queue.registry_of(name) == registry
    allowed = transfer_queue.registry_refusal(name, (DEFAULT_REGISTRY, "hf.co"))
    assert (allowed is None) == (registry in (DEFAULT_REGISTRY, "hf.co"))
