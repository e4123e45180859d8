"""Tests the heartbeat of a machine with several engines of one kind."""

from __future__ import annotations

import dataclasses

from builders import ABILITIES, a_model_info, a_report
from herd.agent_protocol import heartbeat_decode
from herd.agent_protocol.heartbeat_encode import encode
from herd.core.state.fleet import EngineEndpoint, Gpu, NodeId, canonical

NODE_IP = "10.0.0.9"


def test_a_further_engine_of_a_kind_is_a_node_of_its_own_with_its_models_and_graphics_cards() -> None:
    first = EngineEndpoint("ollama", f"http://{NODE_IP}:11434", "0.32.15", gpus=(0,))
    other = EngineEndpoint("ollama", f"http://{NODE_IP}:11436", "0.32.15", slots=4, instance="11436", gpus=(1, 7))
    cards = (Gpu("left", 8, 1), Gpu("right", 16, 2))
    own = a_report("box", [a_model_info("m", engine=first)], engines=(first,), gpus=cards, lan_ip=NODE_IP)
    further = dataclasses.replace(
        own,
        node_id=NodeId("box:11436"),
        machine=NodeId("box"),
        engines=(other,),
        models={canonical("m"): a_model_info("m", size_gb=3.0, engine=other)},
    )
    known = heartbeat_decode.KnownEngines()
    sent = encode(own, 0.0, [further])
    one, two = heartbeat_decode.decode_all(sent, NODE_IP, ABILITIES, known)
    assert (one.node_id, one.machine, one.engines, one.gpus) == ("box", "", (first,), cards[:1])
    assert (two.node_id, two.machine, two.engines, two.gpus) == ("box:11436", "box", (other,), cards[1:])
    assert one.models[canonical("m")].engine == first and two.models[canonical("m")].engine == other
    again = heartbeat_decode.decode_all(sent, NODE_IP, ABILITIES, known)
    assert [report.models for report in again] == [one.models, two.models]
    assert all(mine.models is theirs.models for mine, theirs in zip(again, (one, two), strict=True))
