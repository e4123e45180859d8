"""Tests that `herd doctor` finds problems and suggests the command that fixes each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from fakes.child_process import free_port
from fakes.fleet import Fleet, Machine, running_fleet
from fakes.ollama.server import FakeOllama
from herd import mdns
from herd.cli.client import CliError, CoordinatorClient, coordinator_at
from herd.cli.doctor import ERROR, OK, WARNING, DoctorFinding, Setup, _lines, examine, when_unreachable
from herd.core.state.fleet import Pressure
from herd.text import number
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
    return {one.subject: one for one in examine(setup)}


def error_of(coordinator: CoordinatorClient) -> CliError:
    with pytest.raises(CliError) as raised:
        coordinator.get("/fleet/status")
    return raised.value


def unused_url() -> str:
    return f"http://127.0.0.1:{free_port()}"


def test_a_healthy_fleet_has_no_errors(fleet: Fleet, tmp_path: Path) -> None:
    found = findings(fleet.url, tmp_path)
    assert found["coordinator"].level == found["node alpha"].level == found["herd"].level == "ok"
    assert not [one for one in found.values() if one.level == ERROR]


def test_every_warning_and_error_has_a_remedy(fleet: Fleet, tmp_path: Path) -> None:
    found = [*findings(fleet.url, tmp_path).values(), *findings(unused_url(), tmp_path).values()]
    assert [one for one in found if one.level != "ok" and not one.remedy] == []


def test_settings_of_ollama_herd_without_effect_are_listed(tmp_path: Path) -> None:
    notice = "FLEET_TELEMETRY (environment): known, no effect here, because herd sends no data to other parties"
    setup = Setup(coordinator_at(unused_url()), tmp_path, may_search=False, notices=[notice])
    [found] = [one for one in examine(setup) if one.subject == "settings"]
    assert (found.level, found.message) == ("look", notice)


def test_settings_with_one_reason_are_one_line(tmp_path: Path) -> None:
    reason = "known, no effect here, because herd serves no image generation"
    notices = [f"FLEET_A (env line 1): {reason}", "FLEET_B (env line 2): another reason", f"FLEET_C (x): {reason}"]
    setup = Setup(coordinator_at(unused_url()), tmp_path, may_search=False, notices=notices)
    first, second = (one.message for one in examine(setup) if one.subject == "settings")
    assert first == f"FLEET_A (env line 1), FLEET_C (x): {reason}" and second == notices[1]


def test_without_a_coordinator_the_command_that_starts_one_is_shown(tmp_path: Path) -> None:
    found = findings(unused_url(), tmp_path)["coordinator"]
    assert found.level == ERROR and "start it with: herd" in found.remedy


def test_another_program_on_the_port_is_recognized(fake: FakeOllama, tmp_path: Path) -> None:
    assert "is not a herd coordinator" in findings(fake.url, tmp_path)["coordinator"].message


def test_an_invalid_setting_is_an_error(fleet: Fleet, tmp_path: Path) -> None:
    assert findings(fleet.url, tmp_path, ["FLEET_PROT is not a setting"])["settings"].level == ERROR


def test_a_fleet_without_nodes_shows_what_to_run(tmp_path: Path) -> None:
    with running_fleet({}) as empty:
        found = findings(empty.url, tmp_path)["nodes"]
    assert found.level == ERROR and found.remedy.endswith("herd-node")


def test_an_agent_with_a_wrong_coordinator_url_is_an_error(fleet: Fleet, tmp_path: Path) -> None:
    found = findings(fleet.url, tmp_path, agent_url=unused_url())["local agent"]
    assert (
        found.level == ERROR
        and found.remedy == f"to report to this coordinator, run: herd-node --router-url {fleet.url}"
    )


def test_an_agent_of_another_coordinator_is_a_warning(fleet: Fleet, tmp_path: Path) -> None:
    with running_fleet({}) as other:
        found = findings(fleet.url, tmp_path, agent_url=other.url)["local agent"]
    assert found.level == WARNING and other.url in found.message


def test_a_node_without_free_memory_is_reported(fake: FakeOllama, tmp_path: Path) -> None:
    with running_fleet({"alpha": fake}, {"alpha": Machine(pressure=Pressure.CRITICAL)}) as tight:
        assert findings(tight.url, tmp_path)["node alpha"].message == "is out of memory"


def test_a_node_with_another_version_is_reported(fake: FakeOllama, tmp_path: Path) -> None:
    with running_fleet({"alpha": fake}, {"alpha": Machine(more={"agent_version": "0.0.1"})}) as old:
        assert "its agent is version 0.0.1" in findings(old.url, tmp_path)["node alpha"].message


def test_another_coordinator_announced_by_mdns_is_suggested(fleet: Fleet) -> None:
    setup = Setup(CoordinatorClient(unused_url()), Path())
    error = error_of(setup.coordinator)
    found = list(when_unreachable(setup, error, [mdns.FoundCoordinator("herd", fleet.url)]))
    assert [one.level for one in found] == [ERROR] and f"herd-node --router-url {fleet.url}" in found[0].remedy


def test_an_announced_but_unreachable_coordinator_suggests_the_firewall() -> None:
    setup, hidden = Setup(CoordinatorClient(unused_url()), Path()), unused_url()
    found = list(when_unreachable(setup, error_of(setup.coordinator), [mdns.FoundCoordinator("herd", hidden)]))
    assert "firewall" in found[0].remedy and hidden in found[0].message


def test_without_mdns_the_option_that_names_the_coordinator_is_shown() -> None:
    setup = Setup(CoordinatorClient(unused_url()), Path())
    found = list(when_unreachable(setup, error_of(setup.coordinator), []))
    assert [one.subject for one in found] == ["coordinator", "network"]
    assert "herd-node --router-url http://HOST:" in found[1].remedy


def test_the_exit_status_is_1_with_an_error_and_0_without(fleet: Fleet) -> None:
    good, bad = herd("doctor", url=fleet.url), herd("doctor", url=unused_url())
    warnings = sum(line.startswith("warning ") for line in bad.lines)
    assert good.status == 0 and "1 error" not in good.lines[-1]
    assert bad.status == 1 and bad.lines[-1] == f"1 error, {number(warnings, 'warning')}."


def test_the_last_line_counts_errors_and_warnings() -> None:
    ok, warning, error = (DoctorFinding(level, "subject", "message") for level in (OK, WARNING, ERROR))
    lasts = [list(_lines(found))[-1].plain for found in ([ok], [ok, warning], [warning, error, error])]
    assert lasts == ["No problems found.", "0 errors, 1 warning.", "2 errors, 1 warning."]
