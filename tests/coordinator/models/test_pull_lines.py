"""Tests the progress lines that each client of a download gets."""

from __future__ import annotations

import json

from herd.coordinator.models.pull_lines import PullLines
from herd.core.planning.transfer_queue import STEPS_MAX, Transfer, TransferState
from herd.core.state.fleet import NodeId, canonical


def a_transfer() -> Transfer:
    transfer = Transfer(id=1, node_id=NodeId("alpha"), model=canonical("m"), name="m", requested_at=0.0)
    transfer.state = TransferState.RUNNING
    return transfer


def found(lines: PullLines) -> list[tuple[object, ...]]:
    values = [json.loads(line) for line in lines.new()]
    return [(value.get("status", value.get("error")), value.get("completed")) for value in values]


def test_each_layer_has_its_own_numbers_and_no_step_is_lost() -> None:
    transfer = a_transfer()
    lines = PullLines(transfer)
    assert found(lines) == []
    transfer.note("pulling manifest", "")
    for digest in ("a", "b"):
        transfer.note(f"pulling {digest}", digest)
        transfer.layers[digest] = (0, 10)
    assert found(lines) == [("pulling manifest", None), ("pulling a", 0), ("pulling b", 0)]
    transfer.layers["a"] = (5, 10)
    assert found(lines) == [("pulling a", 5)]
    transfer.layers["a"] = (10, 10)
    transfer.note("verifying sha256 digest", "")
    transfer.state = TransferState.DONE
    assert found(lines) == [("pulling a", 10), ("verifying sha256 digest", None), ("success", None)]


def test_a_client_that_joins_gets_the_earlier_steps_and_without_news_the_newest_one() -> None:
    transfer = a_transfer()
    transfer.note("pulling manifest", "")
    transfer.note("pulling manifest", "")
    joined = PullLines(transfer)
    assert found(joined) == [("pulling manifest", None)]
    assert found(joined) == [("pulling manifest", None)]


def test_a_queued_download_says_so_and_a_failed_one_ends_with_the_error() -> None:
    transfer = a_transfer()
    transfer.state = TransferState.QUEUED
    lines = PullLines(transfer)
    assert found(lines) == [("queued", None)]
    transfer.state, transfer.error = TransferState.FAILED, "file does not exist"
    assert found(lines) == [("file does not exist", None)]


def test_steps_are_limited() -> None:
    transfer = a_transfer()
    for number in range(STEPS_MAX + 5):
        transfer.note(f"step {number}", "")
    assert len(transfer.steps) == STEPS_MAX
