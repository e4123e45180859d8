"""What is wrong is found, and the command that mends it is told."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from fakes.child import free_port
from fakes.fleet import Fleet, Machine, running_fleet
from fakes.ollama.server import FakeOllama
from herd import mdns
from herd.cli.client import CliError, CoordinatorClient, coordinator_at
from herd.cli.doctor import DoctorFinding, Setup, examine, when_unreachable
from herd.core.state.fleet import Pressure
from terminal import herd


@pytest.fixture(scope="module")
def fake() -> Iterator[FakeOllama]:
    with FakeOllama(["m"]) as fake:
        yield fake


@pytest.fixture
def fleet(fake: FakeOllama) -> Iterator[Fleet]:
    with running_fleet({"alpha": fake}) as running:
        yield running


def findings(url: str, folder: Path, problems: Sequence[str] = (), agent_url: str = "") -> dict[str, DoctorFinding]:
    setup = Setup(coordinator_at(url), folder, problems, agent_url, may_search=False)
    return {one.about: one for one in examine(setup)}


def coordinator_trouble(coordinator: CoordinatorClient) -> CliError:
    with pytest.raises(CliError) as told:
        coordinator.get("/fleet/status")
    return told.value


def nobody() -> str:
    return f"http://127.0.0.1:{free_port()}"


def test_a_sound_fleet_is_sound(fleet: Fleet, tmp_path: Path) -> None:
    found = findings(fleet.url, tmp_path)
    assert found["coordinator"].level == found["node alpha"].level == found["herd"].level == "ok"
    assert not [one for one in found.values() if one.level == "bad"]


def test_everything_but_ok_has_a_remedy(fleet: Fleet, tmp_path: Path) -> None:
    found = [*findings(fleet.url, tmp_path).values(), *findings(nobody(), tmp_path).values()]
    assert [one for one in found if one.level != "ok" and not one.remedy] == []


def test_without_a_coordinator_the_command_that_starts_one_is_told(tmp_path: Path) -> None:
    found = findings(nobody(), tmp_path)["coordinator"]
    assert found.level == "bad" and "start it with: herd" in found.remedy


def test_another_program_on_the_port_is_told_apart(fake: FakeOllama, tmp_path: Path) -> None:
    assert "is no herd coordinator" in findings(fake.url, tmp_path)["coordinator"].told


def test_wrong_settings_are_among_what_is_wrong(fleet: Fleet, tmp_path: Path) -> None:
    assert findings(fleet.url, tmp_path, ["FLEET_PROT is not a setting"])["settings"].level == "bad"


def test_a_fleet_without_nodes_is_told_what_to_run(tmp_path: Path) -> None:
    with running_fleet({}) as empty:
        found = findings(empty.url, tmp_path)["nodes"]
    assert found.level == "bad" and found.remedy.endswith("herd-node")


def test_an_agent_that_is_sent_astray_is_told_where_to_report(fleet: Fleet, tmp_path: Path) -> None:
    found = findings(fleet.url, tmp_path, agent_url=nobody())["agent here"]
    assert found.level == "bad" and found.remedy == f"report to this one: herd-node --router-url {fleet.url}"


def test_an_agent_that_reports_to_another_coordinator_is_told(fleet: Fleet, tmp_path: Path) -> None:
    with running_fleet({}) as other:
        found = findings(fleet.url, tmp_path, agent_url=other.url)["agent here"]
    assert found.level == "look" and other.url in found.told


def test_a_node_in_need_of_memory_is_told(fake: FakeOllama, tmp_path: Path) -> None:
    with running_fleet({"alpha": fake}, {"alpha": Machine(pressure=Pressure.CRITICAL)}) as tight:
        assert findings(tight.url, tmp_path)["node alpha"].told == "is out of memory"


def test_a_node_of_another_version_is_told(fake: FakeOllama, tmp_path: Path) -> None:
    with running_fleet({"alpha": fake}, {"alpha": Machine(more={"agent_version": "0.0.1"})}) as old:
        assert "its agent is 0.0.1" in findings(old.url, tmp_path)["node alpha"].told


def test_an_agent_that_knows_a_wrong_address_is_shown_the_one_that_announces_itself(fleet: Fleet) -> None:
    setup = Setup(CoordinatorClient(nobody()), Path())
    trouble = coordinator_trouble(setup.coordinator)
    told = list(when_unreachable(setup, trouble, [mdns.FoundCoordinator("herd", fleet.url)]))
    assert [one.level for one in told] == ["bad"] and f"herd-node --router-url {fleet.url}" in told[0].remedy


def test_one_that_announces_itself_and_lets_nobody_in_is_behind_a_firewall() -> None:
    setup, hidden = Setup(CoordinatorClient(nobody()), Path()), nobody()
    told = list(
        when_unreachable(setup, coordinator_trouble(setup.coordinator), [mdns.FoundCoordinator("herd", hidden)])
    )
    assert "firewall" in told[0].remedy and hidden in told[0].told


def test_a_network_without_announcements_needs_the_name() -> None:
    setup = Setup(CoordinatorClient(nobody()), Path())
    told = list(when_unreachable(setup, coordinator_trouble(setup.coordinator), []))
    assert [one.about for one in told] == ["coordinator", "network"] and "herd-node --router-url http://HOST:" in told[
        1
    ].remedy


def test_the_verb_ends_with_1_when_something_is_bad_and_with_0_else(fleet: Fleet) -> None:
    good, bad = herd("doctor", url=fleet.url), herd("doctor", url=nobody())
    assert good.status == 0 and good.lines[-1] == "Nothing is wrong."
    assert bad.status == 1 and bad.lines[-1] == "1 thing to mend."
