"""Tests the addresses of the fleet's engines."""

from __future__ import annotations

import json
from random import Random

from herd.coordinator.api.peers_text import PeersText
from herd.core.state.nodes.engine_hosts import EngineHosts


def test_the_addresses_are_those_of_a_walk_over_all_nodes() -> None:
    rng, hosts, nodes = Random(7), EngineHosts(), dict[str, tuple[str, ...]]()
    peers = PeersText(hosts, peers_max=100)
    for _ in range(2000):
        name = f"node-{rng.randrange(12)}"
        if rng.random() < 0.3:
            nodes.pop(name, None)
            hosts.forget(name)
        else:
            nodes[name] = tuple(f"http://10.0.0.{rng.randrange(9)}:{port}" for port in range(rng.randrange(3)))
            hosts.replace(name, nodes[name])
        for asked in (name, "another"):
            others = {url.split("//")[1].split(":")[0] for node, urls in nodes.items() if node != asked for url in urls}
            own = hosts.only_of(asked)
            assert [host for host in hosts.all if host not in own] == sorted(others)
            assert json.loads(bytes(peers.of_others(asked))) == sorted(others)
    assert hosts.version > 100
    few = PeersText(hosts, peers_max=2)
    assert json.loads(bytes(few.of_others("another"))) == hosts.all[:2]
