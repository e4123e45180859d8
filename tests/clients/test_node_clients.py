"""The libraries `openai` and `ollama` for Node do the scripted task, and the latter manages models."""

from __future__ import annotations

import pytest

from fakes.agents.outside import Outside
from fakes.agents.programs import Ask, Place, node_client
from fakes.agents.stage import Stage
from fakes.client_targets import Target
from fakes.scripted.engines import KINDS
from fakes.scripted.task import FINISHED

CASES = [
    (kind, client)
    for kind in ("ollama", "llamacpp")
    for client in ("openai-chat", "ollama", "openai-responses", "openai-responses-continued")
]


@pytest.mark.parametrize(("kind", "client"), CASES)
def test_a_library_does_the_task_through_herd(stage: Stage, kind: str, client: str) -> None:
    played = stage.through_herd(node_client(client), kind)
    report = played.ended.output[-3000:]
    assert played.ended.text == FINISHED, report
    assert played.task.is_done(), report
    assert {request.status for request in played.requests} == {200}


@pytest.mark.parametrize("kind", KINDS)
def test_a_demanded_form_is_parsed(stage: Stage, kind: str) -> None:
    ended = stage.through_herd(node_client("openai-parse"), kind).ended
    assert ended.text == "string", ended.output


def test_the_ollama_library_manages_models(stage: Stage, target: Target) -> None:
    with Outside() as outside:
        place = Place(stage.agents, stage.folder / f"verbs-{target.kind}", outside)
        ended = node_client("ollama-verbs", "embedder")(place, Ask(target.url, "talker", "", stage.folder))
    names = ["embedder:latest", "seer:latest", "talker:latest", "thinker:latest"]
    assert ended.answer == {
        "capabilities": ["completion", "tools"],
        "statuses": ["ResponseError", "success"],
        "after": sorted([*names, "copied:latest", "made:latest"]),
        "rest": names,
        "hasText": True,
        "vectors": 2,
        "missing": 404,
    }, ended.output
