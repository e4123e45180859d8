"""An agent of ollama-herd, which cannot sign, is approved by its address: this node, from there, and nothing else."""

from __future__ import annotations

import http.client
import json
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fakes.fleet import Fleet, running_fleet, settings_for_tests
from herd.coordinator.auth.membership import MembershipSettings
from herd.coordinator.storage.credential_store import PairedNode
from node_fixtures import NODES, call
from terminal import herd

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has all of 127.0.0.0/8")
HERE, ELSEWHERE = "127.0.0.1", "127.0.0.2"


def a_report(name: str = "studio", address: str = HERE) -> dict[str, Any]:
    return {
        "node_id": name,
        "memory": {"total_gb": 32.0, "used_gb": 4.0, "available_gb": 28.0},
        "ollama": {"models_available": ["m"]},
        "ollama_host": f"http://{address}:9",
    }


def report(fleet: Fleet, body: dict[str, Any], address: str = HERE) -> tuple[int, Any]:
    """Sends a heartbeat from this address."""
    connection = http.client.HTTPConnection(HERE, fleet.port, timeout=30, source_address=(address, 0))
    with closing(connection):
        connection.request("POST", "/heartbeat", json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, json.loads(response.read())


@contextmanager
def closed_fleet(folder: Path) -> Iterator[Fleet]:
    settings = replace(settings_for_tests(), membership=MembershipSettings())
    with running_fleet({}, settings=settings, data_dir=folder) as fleet:
        yield fleet


def approve(fleet: Fleet, name: str) -> tuple[int, Any]:
    status, answer, _ = call(fleet, "POST", f"{NODES}/approve", {"name": name})
    return status, answer


def test_an_approved_address_may_report_only_its_own_node(tmp_path: Path) -> None:
    with closed_fleet(tmp_path) as fleet:
        status, answer = report(fleet, a_report(), ELSEWHERE)
        assert status == 401 and f"herd nodes approve {ELSEWHERE}" in answer["error"]
        listed = herd("nodes", url=fleet.url).out
        assert "pending" in listed and f"herd nodes approve {ELSEWHERE}" in listed
        assert herd("nodes", "approve", ELSEWHERE, url=fleet.url).status == 0
        assert report(fleet, a_report(address=ELSEWHERE), ELSEWHERE)[0] == 200
        assert report(fleet, a_report(), HERE)[0] == 401, "the same name from another address"
        assert report(fleet, a_report("other"), ELSEWHERE)[0] == 401, "another name from this address"
        assert set(fleet.coordinator.driver.fleet.nodes) == {"studio"}
        [paired] = fleet.get(NODES)["paired"]
        assert (paired["node_id"], paired["how"], paired["is_known"]) == ("studio", f"address {ELSEWHERE}", True)
    with closed_fleet(tmp_path) as fleet:
        assert report(fleet, a_report(address=ELSEWHERE), ELSEWHERE)[0] == 200, "the approval survives a restart"
        assert call(fleet, "POST", f"{NODES}/remove", {"name": "studio"})[0] == 200
        assert report(fleet, a_report(address=ELSEWHERE), ELSEWHERE)[0] == 401


def test_an_agent_with_the_name_of_another_node_gets_a_number(tmp_path: Path) -> None:
    """Two machines that are called alike: the name of a paired node is never given to an unsigned report."""
    with closed_fleet(tmp_path) as fleet:
        fleet.coordinator.membership.credentials.put_node(PairedNode("studio", "00", "00", 1.0, "code"))
        for address in (HERE, ELSEWHERE):
            assert report(fleet, a_report(address=address), address)[0] == 401
            assert herd("nodes", "approve", address, url=fleet.url).status == 0
            assert report(fleet, a_report(address=address), address)[0] == 200
        assert set(fleet.coordinator.driver.fleet.nodes) == {"studio-2", "studio-3"}
    with closed_fleet(tmp_path) as fleet:
        assert report(fleet, a_report(address=ELSEWHERE), ELSEWHERE)[0] == 200, "after a restart"
        assert set(fleet.coordinator.driver.fleet.nodes) >= {"studio-3"}
        assert call(fleet, "POST", f"{NODES}/remove", {"name": "studio-3"})[0] == 200
        assert report(fleet, a_report(address=ELSEWHERE), ELSEWHERE)[0] == 401
        assert report(fleet, a_report(), HERE)[0] == 200, "only that node was removed"


def test_an_agent_that_changes_its_name_waits_for_approval_again(tmp_path: Path) -> None:
    with closed_fleet(tmp_path) as fleet:
        for name in ("studio", "attic"):
            status, answer = report(fleet, a_report(name), ELSEWHERE)
            assert status == 401 and f"herd nodes approve {ELSEWHERE}" in answer["error"]
            assert name in herd("nodes", url=fleet.url).out
            assert herd("nodes", "approve", ELSEWHERE, url=fleet.url).status == 0
            assert report(fleet, a_report(name), ELSEWHERE)[0] == 200


def test_nothing_is_approved_that_has_not_reported_or_is_ambiguous(tmp_path: Path) -> None:
    with closed_fleet(tmp_path) as fleet:
        assert approve(fleet, ELSEWHERE)[0] == 404
        for address in (HERE, ELSEWHERE):
            assert report(fleet, a_report(), address)[0] == 401
        status, answer = approve(fleet, "studio")
        assert status == 400 and HERE in answer["error"] and ELSEWHERE in answer["error"]
        assert approve(fleet, HERE)[0] == 200
        assert report(fleet, a_report(), HERE)[0] == 200 and report(fleet, a_report(), ELSEWHERE)[0] == 401


def test_an_unsigned_report_of_our_own_agent_is_not_listed_for_approval(tmp_path: Path) -> None:
    with closed_fleet(tmp_path) as fleet:
        assert report(fleet, {**a_report(), "herd": {"v": 1, "boot_id": "b"}})[0] == 401
        assert fleet.get(NODES)["pending"] == []
