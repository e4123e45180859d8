"""Tests pairing with real agents and a real coordinator: joining, forged and replayed messages, and removal."""

from __future__ import annotations

import asyncio
import http.client
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random
from urllib.parse import quote

import pytest

from builders import a_report, an_engine
from fakes.coordinator import FakeCoordinator
from fakes.ollama.server import FakeOllama
from herd import mdns
from herd.agent.app import Agent, AgentSettings
from herd.agent.app import Settings as AgentsSettings
from herd.agent.coordinator_link import LinkSettings
from herd.agent.inventory import EngineSettings
from herd.agent.node_identity import JoinSettings
from herd.agent_protocol import heartbeat_encode
from herd.agent_protocol.join import JoinRequest
from herd.coordinator.app import Coordinator
from herd.coordinator.auth.membership import (
    FORWARDERS_MAX,
    STRANGERS_LOGGED_MAX,
    WRONG_CODES_MAX,
    Membership,
    MembershipSettings,
    Reporter,
)
from herd.coordinator.settings import GeneralSettings, Settings
from herd.coordinator.storage.credential_store import CredentialStore
from herd.core.state.fleet import Fleet, NodeId
from herd.trust import pairing

Scenario = Callable[[Coordinator, "Machines"], Awaitable[None]]


class Machines:
    """The machines of one coordinator."""

    def __init__(self, folder: Path, coordinator: Coordinator, port: int, engine: FakeOllama) -> None:
        self.folder, self.coordinator, self.port, self.engine = folder, coordinator, port, engine
        self.agents: list[Agent] = []

    async def agent(self, name: str = "mac", folder: str = "", code: str = "", boot: str = "boot-1") -> Agent:
        """An agent with its own data folder, or with the given one."""
        settings = AgentsSettings(
            agent=AgentSettings(node_id=name, data_dir=self.folder / (folder or f"agent-{name}")),
            engines=EngineSettings("ollama", self.engine.url),
            link=LinkSettings(f"http://127.0.0.1:{self.port}", 0.1, 5.0),
            join=JoinSettings(code),
        )
        agent = Agent(settings, Random(1), boot)
        await agent.start()
        self.agents.append(agent)
        return agent

    async def ask(
        self, method: str, path: str, body: object = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, object]]:
        def asked() -> tuple[int, dict[str, object]]:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
            raw = body if isinstance(body, bytes) else json.dumps(body).encode()
            connection.request(
                method, path, None if body is None else raw, {"Content-Type": "application/json", **(headers or {})}
            )
            response = connection.getresponse()
            answer = json.loads(response.read())
            connection.close()
            return response.status, answer

        return await asyncio.to_thread(asked)

    @property
    def node_ids(self) -> set[str]:
        return {node.id for node in self.coordinator.driver.fleet}


def run_scenario(folder: Path, scenario: Scenario, is_open: bool = False) -> None:
    async def go() -> None:
        general = GeneralSettings("127.0.0.1", 0, folder / "herd", mdns=False)
        settings = replace(Settings(general=general), membership=MembershipSettings(open=is_open))
        coordinator = Coordinator(settings, asyncio.get_running_loop())
        port = await coordinator.start()
        try:
            async with FakeOllama(["m"]) as engine:
                machines = Machines(folder, coordinator, port, engine)
                try:
                    await scenario(coordinator, machines)
                finally:
                    for agent in machines.agents:
                        await agent.stop()
        finally:
            await coordinator.close()

    asyncio.run(go())


def test_an_agent_with_the_coordinators_data_folder_is_paired_at_once(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, machines: Machines) -> None:
        agent = await machines.agent(folder="herd")
        reply = await agent.beat()
        assert reply is not None and reply.is_accepted and machines.node_ids == {"mac"}
        assert coordinator.credentials.nodes[NodeId("mac")].how == "this machine"

    run_scenario(tmp_path, scenario)


def test_the_address_of_a_paired_node_has_reserved_connections(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, machines: Machines) -> None:
        assert not coordinator.membership.is_node_address("127.0.0.1")
        agent = await machines.agent(folder="herd")
        await agent.beat()
        assert coordinator.membership.is_node_address("::ffff:127.0.0.1")
        assert not coordinator.membership.is_node_address("192.0.2.1")

    run_scenario(tmp_path, scenario)


def test_a_join_code_pairs_a_node_and_the_pairing_survives_restarts(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, machines: Machines) -> None:
        _, invited = await machines.ask("POST", "/fleet/nodes/invite", {})
        code = str(invited["code"]).rpartition("/")[2]
        first = await (await machines.agent(code=code)).beat()
        assert first is not None and first.is_accepted
        coordinator.membership.codes = type(coordinator.membership.codes)()
        for again in (await machines.agent(code=code, boot="boot-2"), await machines.agent(boot="boot-3")):
            reply = await again.beat()
            assert reply is not None and reply.is_accepted, reply

    run_scenario(tmp_path, scenario)


def test_without_a_code_a_node_is_pending_until_it_is_approved(tmp_path: Path) -> None:
    async def scenario(_: Coordinator, machines: Machines) -> None:
        agent = await machines.agent()
        reply = await agent.beat()
        assert reply is not None and not reply.is_accepted and "herd nodes approve mac" in reply.problem
        assert machines.node_ids == set()
        _, shown = await machines.ask("GET", "/fleet/nodes")
        [pending] = shown["pending"]  # type: ignore[misc]
        assert pending["name"] == "mac" and pending["fingerprint"] in reply.problem
        assert (await machines.ask("POST", "/fleet/nodes/approve", {"name": "nobody"}))[0] == 404
        assert (await machines.ask("POST", "/fleet/nodes/approve", {"name": pending["fingerprint"]}))[0] == 200
        reply = await agent.beat()
        assert reply is not None and reply.is_accepted and machines.node_ids == {"mac"}

    run_scenario(tmp_path, scenario)


def test_a_wrong_join_code_is_refused(tmp_path: Path) -> None:
    async def scenario(_: Coordinator, machines: Machines) -> None:
        reply = await (await machines.agent(code="AAAA-BBBB-CCCC-DDDD")).beat()
        assert reply is not None and not reply.is_accepted and "code" in reply.problem and machines.node_ids == set()

    run_scenario(tmp_path, scenario)


def test_a_removed_node_is_not_paired_and_may_join_again(tmp_path: Path) -> None:
    async def scenario(_: Coordinator, machines: Machines) -> None:
        _, invited = await machines.ask("POST", "/fleet/nodes/invite", {})
        code = str(invited["code"]).rpartition("/")[2]
        agent = await machines.agent(code=code)
        await agent.beat()
        assert (await machines.ask("POST", "/fleet/nodes/remove", {"name": "mac"}))[0] == 200
        assert machines.node_ids == set()
        for _ in range(2):
            reply = await agent.beat()
            assert reply is not None and not reply.is_accepted and "removed" in reply.problem
        _, invited = await machines.ask("POST", "/fleet/nodes/invite", {})
        again = await machines.agent(code=str(invited["code"]).rpartition("/")[2])
        reply = await again.beat()
        assert reply is not None and reply.is_accepted and machines.node_ids == {"mac"}

    run_scenario(tmp_path, scenario)


def test_a_recorded_forged_or_unsigned_report_changes_nothing(tmp_path: Path) -> None:
    async def scenario(_: Coordinator, machines: Machines) -> None:
        agent = await machines.agent(folder="herd")
        await agent.beat()
        body = heartbeat_encode.encode(a_report("mac"), 0.0)
        target = "/heartbeat?from=127.0.0.1"
        stamp = agent.link._identity.sign(target, body)
        assert stamp is not None
        assert (await machines.ask("POST", target, body, stamp.headers))[0] == 200
        for path, sent_body, headers in (
            (target, body, stamp.headers),
            (target, body + b" ", stamp.headers),
            ("/heartbeat?from=127.0.0.1,10.0.0.1", body, stamp.headers),
            (target, body, {**stamp.headers, "X-Fleet-Counter": "99"}),
            (target, body, {**stamp.headers, "X-Fleet-Node": quote("mäc")}),
            (target, body, {}),
        ):
            status, answer = await machines.ask("POST", path, sent_body, headers)
            assert status == 401, answer

    run_scenario(tmp_path, scenario)


def test_a_report_from_another_address_is_refused(tmp_path: Path) -> None:
    async def scenario(_: Coordinator, machines: Machines) -> None:
        agent = await machines.agent(folder="herd")
        await agent.beat()
        body = heartbeat_encode.encode(a_report("mac"), 0.0)
        stamp = agent.link._identity.sign("/heartbeat?from=10.9.9.9", body)
        assert stamp is not None
        status, answer = await machines.ask("POST", "/heartbeat?from=10.9.9.9", body, stamp.headers)
        assert status == 401 and answer["code"] == "wrong_address"

    run_scenario(tmp_path, scenario)


def test_in_an_open_fleet_any_node_reports_but_not_under_a_paired_name(tmp_path: Path) -> None:
    async def scenario(_: Coordinator, machines: Machines) -> None:
        stranger = await (await machines.agent("pc")).beat()
        assert stranger is not None and stranger.is_accepted
        paired = await (await machines.agent("mac", folder="herd")).beat()
        assert paired is not None and paired.is_accepted and machines.node_ids == {"pc", "mac"}
        status, answer = await machines.ask("POST", "/heartbeat", heartbeat_encode.encode(a_report("mac"), 0.0))
        assert status == 401 and "paired" in str(answer["error"])
        assert (await machines.ask("POST", "/heartbeat/goodbye", {"node_id": "mac"}))[0] == 401
        assert machines.node_ids == {"pc", "mac"}
        assert (await machines.ask("GET", "/fleet/status"))[1]["is_open"] is True

    run_scenario(tmp_path, scenario, is_open=True)


def test_a_node_that_joins_again_with_its_identity_continues_to_report(tmp_path: Path) -> None:
    """The coordinator's files were restored from a backup that is older than the pairing."""

    async def scenario(coordinator: Coordinator, machines: Machines) -> None:
        agent = await machines.agent(folder="herd")
        await agent.beat()
        coordinator.credentials.remove_node(NodeId("mac"))
        for _ in range(2):
            reply = await agent.beat()
            assert reply is not None and reply.is_accepted, reply

    run_scenario(tmp_path, scenario)


def test_two_machines_that_request_one_name_get_two_names(tmp_path: Path) -> None:
    async def scenario(_: Coordinator, machines: Machines) -> None:
        codes = []
        for _ in range(2):
            codes.append(str((await machines.ask("POST", "/fleet/nodes/invite", {}))[1]["code"]).rpartition("/")[2])
        first, second = (
            await machines.agent("mac", "one", codes[0]),
            await machines.agent("mac", "two", codes[1], boot="boot-2"),
        )
        for _ in range(2):
            await first.beat()
            await second.beat()
        assert machines.node_ids == {"mac", "mac-2"} and second.node_id == "mac-2"

    run_scenario(tmp_path, scenario)


def test_an_agent_ignores_a_coordinator_that_is_not_its_own(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, machines: Machines) -> None:
        agent = await machines.agent(folder="herd")
        await agent.beat()

        async def imposter(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with suppress(asyncio.IncompleteReadError):
                await reader.readuntil(b"\r\n\r\n")
            writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 39\r\n\r\n{"status":"ok","node_id":"taken-over"} ')
            writer.close()

        server = await asyncio.start_server(imposter, "127.0.0.1", 0)
        agent.link.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        reply = await agent.beat()
        server.close()
        agent.link.url = f"http://127.0.0.1:{machines.port}"
        assert (
            reply is not None
            and not reply.is_accepted
            and "not from this machine's coordinator" in reply.problem
            and agent.node_id == "mac"
        )

    run_scenario(tmp_path, scenario)


def test_with_two_coordinators_on_a_network_an_agent_reports_to_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mdns, "browse", partial(mdns.browse, ["127.0.0.1"]))

    async def scenario(coordinator: Coordinator, machines: Machines) -> None:
        agent = await machines.agent(folder="herd")
        await agent.beat()
        async with FakeCoordinator() as other:
            announced = [
                await mdns.advertise(port, "1", "127.0.0.1", fleet, interfaces=["127.0.0.1"])
                for port, fleet in ((other.port, "another-fleet"), (machines.port, coordinator.credentials.fleet_id))
            ]
            if None in announced:
                pytest.skip("this machine has no multicast: TWO COORDINATORS ON A NETWORK ARE NOT TRIED")
            agent.link.url, agent.link._settings = "", replace(agent.link._settings, router_url="")
            async with asyncio.timeout(30.0):
                while not agent.link.url:
                    await agent.link.find()
            assert agent.link.url.endswith(f":{machines.port}") and not other.requested_paths
            for one in announced:
                assert one is not None
                await one.withdraw()

    run_scenario(tmp_path, scenario)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"name": "", "public": "a"},
        {"name": "x" * 65, "public": "a"},
        {"name": "a\nb", "public": "a"},
        {"name": "x", "public": "zz"},
        {"name": "x", "public": "00" * 32},
        [],
        "x",
    ],
)
def test_an_invalid_join_request_is_refused(tmp_path: Path, body: object) -> None:
    async def scenario(coordinator: Coordinator, machines: Machines) -> None:
        assert (await machines.ask("POST", "/fleet/join", body))[0] == 400
        assert len(coordinator.membership.pending_nodes) == 0

    run_scenario(tmp_path, scenario)


def a_join(number: int, name: str = "x", proof: str = "") -> dict[str, str]:
    private = number.to_bytes(pairing.KEY_BYTES, "big")
    return {"name": name, "public": pairing.public_of(private), "proof": proof}


def test_wrong_join_codes_of_one_address_are_limited_but_not_this_machines_own_code(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, machines: Machines) -> None:
        for _ in range(WRONG_CODES_MAX):
            assert (await machines.ask("POST", "/fleet/join", a_join(1, proof="00" * 32)))[0] == 401
        invitation = coordinator.membership.invite("127.0.0.1:1")
        right = pairing.code_proof(invitation.code, "x", a_join(1)["public"])
        for proof in ("00" * 32, right):
            status, answer = await machines.ask("POST", "/fleet/join", a_join(1, proof=proof))
            assert status == 429 and "wrong join codes" in str(answer["error"])
        agent = await machines.agent(folder="herd")
        reply = await agent.beat()
        assert reply is not None and reply.is_accepted

    run_scenario(tmp_path, scenario)


def test_a_flood_of_join_requests_keeps_no_node_out_and_the_log_short(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(coordinator: Coordinator, machines: Machines) -> None:
        statuses = [(await machines.ask("POST", "/fleet/join", a_join(number + 1)))[0] for number in range(20)]
        assert statuses == [202] * pairing.PENDING_PER_ADDRESS_MAX + [429] * (20 - pairing.PENDING_PER_ADDRESS_MAX)
        membership = coordinator.membership
        for number in range(100):
            request = JoinRequest("x", a_join(100 + number)["public"])
            assert membership.join(request, f"192.168.9.{number}").status == "pending"
        assert membership.join(JoinRequest("mac", a_join(999)["public"]), "192.168.1.5").status == "pending"
        assert [node.ip for node in membership.pending_nodes.find("mac", coordinator.credentials.public)] == [
            "192.168.1.5"
        ]
        assert len(membership.pending_nodes) == pairing.PENDING_MAX

    run_scenario(tmp_path, scenario)
    lines = [record for record in caplog.records if "waiting for approval" in record.message]
    assert len(lines) == STRANGERS_LOGGED_MAX


def test_the_command_for_approval_is_safe_to_paste(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, machines: Machines) -> None:
        _, answer = await machines.ask("POST", "/fleet/join", a_join(1, name="mac; reboot"))
        assert str(answer["next"]).endswith("herd nodes approve 'mac; reboot'")

    run_scenario(tmp_path, scenario)


def test_engine_addresses_outside_the_allowed_networks_are_refused(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, machines: Machines) -> None:
        body = heartbeat_encode.encode(replace(a_report("pc"), engines=(an_engine(),)), 0.0).replace(
            b"http://127.0.0.1", b"http://169.254.169.254"
        )
        status, _ = await machines.ask("POST", "/heartbeat", body)
        urls = {endpoint.url for node in coordinator.driver.fleet for endpoint in node.report.engines}
        assert status == 200 and urls == {"http://127.0.0.1:11434"}, "the announced host is ignored"

    run_scenario(tmp_path, scenario, is_open=True)


def test_a_forwarder_with_tls_needs_a_paired_node(tmp_path: Path) -> None:
    """An unpaired node shares no secret with the coordinator, so its forwarder could not get a proof."""

    async def scenario(coordinator: Coordinator, machines: Machines) -> None:
        body = heartbeat_encode.encode(replace(a_report("pc"), engines=(an_engine(),)), 0.0).replace(
            b"http://127.0.0.1:11434", b"https://127.0.0.1:11434#" + b"ab" * 32
        )
        assert b"https" in body
        status, answer = await machines.ask("POST", "/heartbeat", body)
        assert status == 401 and "paired" in str(answer["error"])
        assert not list(coordinator.driver.fleet)

    run_scenario(tmp_path, scenario, is_open=True)


def test_the_number_of_known_forwarders_is_limited(tmp_path: Path) -> None:
    credentials, clock = CredentialStore(tmp_path), iter(float, 1.0)
    membership = Membership(credentials, MembershipSettings(), Fleet(), bytes, clock.__next__, clock.__next__)
    reporter = Reporter(NodeId("mac"), None, b"k" * 32)
    ports = range(1, FORWARDERS_MAX + 11)
    for port in (*ports, 11):
        membership.check_engine_urls([f"https://10.0.0.1:{port}#pin"], reporter)
    proofs = membership._forwarder_proofs
    assert len(proofs) == FORWARDERS_MAX and list(proofs)[-1] == "https://10.0.0.1:11#pin"
