"""Tests two coordinators and one agent on separate hosts of one network, with real mDNS."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from fakes.child_process import wait_until
from terminal import command, environment

CAN = sys.platform == "linux" and os.geteuid() == 0 and shutil.which("ip") is not None
pytestmark = pytest.mark.skipif(
    not CAN, reason="needs Linux, root and `ip`: TWO COORDINATORS ON ONE NETWORK ARE NOT TRIED"
)

PREFIX = f"h{os.getpid() % 100000}"
HOSTS = {"ours": "10.213.79.1", "theirs": "10.213.79.2", "mac": "10.213.79.3"}
SWITCH = f"{PREFIX}-switch"
PATIENCE_S = 60.0


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


def space(host: str) -> str:
    return f"{PREFIX}-{host}"


@pytest.fixture
def network() -> Iterator[None]:
    """Three hosts on one switch, isolated from this machine's networks."""
    names = [SWITCH, *map(space, HOSTS)]
    try:
        for name in names:
            ip("netns", "add", name)
        ip("-n", SWITCH, "link", "add", "br0", "type", "bridge")
        ip("-n", SWITCH, "link", "set", "br0", "up")
        for number, (host, address) in enumerate(HOSTS.items()):
            ip(*f"-n {SWITCH} link add p{number} type veth peer name eth0 netns {space(host)}".split())
            ip(*f"-n {SWITCH} link set p{number} master br0 up".split())
            ip("-n", space(host), "addr", "add", f"{address}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                ip("-n", space(host), "link", "set", device, "up")
            ip("-n", space(host), "route", "add", "224.0.0.0/4", "dev", "eth0")
        yield
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


@contextmanager
def running(host: str, folder: Path, arguments: tuple[str, ...], settings: Mapping[str, str]) -> Iterator[None]:
    """A process on that host until the end of the block."""
    with (folder / f"{host}.out").open("ab") as out:
        process = subprocess.Popen(
            ["ip", "netns", "exec", space(host), *command(*arguments)],
            env=environment(settings),
            stdout=out,
            stderr=out,
            stdin=subprocess.DEVNULL,
        )
        try:
            yield
        finally:
            process.terminate()
            process.wait(PATIENCE_S)


def coordinator(host: str, folder: Path):  # noqa: ANN201
    return running(host, folder, ("serve",), {"FLEET_MDNS": "true", "FLEET_DATA_DIR": str(folder / host)})


def logged(folder: Path, host: str, name: str = "herd") -> list[dict[str, object]]:
    path = folder / host / "logs" / f"{name}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def log_count(folder: Path, host: str, text: str, name: str = "herd") -> int:
    return sum(text in str(line["msg"]) for line in logged(folder, host, name))


def is_logged(folder: Path, host: str, text: str) -> bool:
    return log_count(folder, host, text) > 0


def herd_on(host: str, *arguments: str) -> dict[str, object]:
    done = subprocess.run(
        ["ip", "netns", "exec", space(host), *command(*arguments, "--json")],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=True,
    )
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    return found


def test_an_agent_stays_with_its_own_coordinator_while_that_one_is_offline(network: None, tmp_path: Path) -> None:
    """The agent never contacts the second coordinator, and reports to the first again when that is back."""
    with coordinator("theirs", tmp_path):
        with coordinator("ours", tmp_path):
            for host in ("ours", "theirs"):
                wait_until(partial(is_logged, tmp_path, host, "listening"), f"{host} to listen")
            code = str(herd_on("ours", "nodes", "invite")["code"])
            settings = {
                "FLEET_NODE_DATA_DIR": str(tmp_path / "mac"),
                "FLEET_NODE_NODE_ID": "mac",
                "FLEET_NODE_HEARTBEAT_INTERVAL": "0.2",
                "FLEET_NODE_ROUTER_TIMEOUT": "1",
                "FLEET_NODE_ROUTER_URL": "",
            }
            with running("mac", tmp_path, ("node",), {**settings, "FLEET_NODE_JOIN": code}):
                wait_until(
                    lambda: log_count(tmp_path, "mac", "connected to the coordinator", "herd-node") > 0,
                    "the first report",
                )
        # Its own coordinator has stopped: the agent searches and finds the other one.
        with running("mac", tmp_path, ("node",), settings):
            wait_until(
                lambda: log_count(tmp_path, "mac", "the coordinator of another fleet", "herd-node") > 0,
                "the other one to be heard",
            )
            reports = log_count(tmp_path, "mac", "connected to the coordinator", "herd-node")
            with coordinator("ours", tmp_path):
                wait_until(
                    lambda: log_count(tmp_path, "mac", "connected to the coordinator", "herd-node") > reports,
                    "the agent to be back",
                )
                [paired] = herd_on("ours", "nodes")["paired"]  # type: ignore[misc]
                assert paired["node_id"] == "mac" and paired["is_known"]
                other = herd_on("theirs", "nodes")
                assert (other["paired"], other["pending"]) == ([], [])
                assert not log_count(tmp_path, "theirs", "is waiting for approval")
