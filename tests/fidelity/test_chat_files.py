"""Files in content parts of a chat: every engine that has the model gets their text, and no window is too small."""

from __future__ import annotations

import base64
import http.client
import json
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from builders import a_model_info
from fakes.fleet import Fleet, running_fleet
from fakes.ollama.server import FakeModel, FakeOllama
from fakes.scripted_engine import ScriptedEngine

Json = dict[str, Any]
TEXT = "The code word is tulip. Ümläut 東京"
ENCODED = base64.b64encode(TEXT.encode()).decode()
PDF = base64.b64encode(b"%PDF-1.7 ...").decode()
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]
READ: list[tuple[Json, str]] = [
    ({"file": {"filename": "a.txt", "file_data": f"data:text/plain;base64,{ENCODED}"}}, f"a.txt:\n{TEXT}\n"),
    ({"file": {"file_data": ENCODED}}, f"{TEXT}\n"),
    (
        {"type": "input_file", "filename": "a.md", "file_data": f"data:text/markdown;base64,{ENCODED}"},
        f"a.md:\n{TEXT}\n",
    ),
]
UNREAD: list[tuple[Json, str]] = [
    ({"file": {"filename": "a.pdf", "file_data": f"data:application/pdf;base64,{PDF}"}}, "a.pdf"),
    ({"file": {"file_id": "file-abc"}}, "file-abc"),
    ({"file": {}}, "unknown source"),
]
KINDS = ("ollama", "vllm", "llamacpp")


@pytest.fixture(scope="module")
def fleet() -> Iterator[tuple[Fleet, FakeOllama, dict[str, ScriptedEngine]]]:
    model = FakeModel(name="ollama", capabilities=("completion", "tools"), context_train=65_536)
    with (
        FakeOllama([model]) as ollama,
        ScriptedEngine() as vllm,
        ScriptedEngine() as llamacpp,
        running_fleet({"one": ollama}) as running,
    ):
        vllm.join(running, "two", [a_model_info("vllm", loaded=True)], "vllm")
        llamacpp.join(running, "three", [a_model_info("llamacpp", loaded=True)], "llamacpp")
        yield running, ollama, {"vllm": vllm, "llamacpp": llamacpp}


def ask(fleet: Fleet, body: Json) -> tuple[int, str, bytes]:
    """The status, the names of what was left out, and the body."""
    with closing(http.client.HTTPConnection("127.0.0.1", fleet.port, timeout=30)) as connection:
        connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, response.getheader("X-Fleet-Ignored") or "", response.read()


def a_chat(kind: str, part: Json, **more: Any) -> Json:
    content = [{"type": "text", "text": "What is the code word?"}, {"type": "file", **part}]
    return {"model": kind, "messages": [{"role": "user", "content": content}], **more}


def sent_text(fleet: tuple[Fleet, FakeOllama, dict[str, ScriptedEngine]], kind: str) -> str:
    """The contents of the messages that the engine got last."""
    _, ollama, others = fleet
    body = json.loads(ollama.requests[-1].body) if kind == "ollama" else others[kind].requests[-1][1]
    found = []
    for message in body["messages"]:
        content = message["content"]
        found += [content] if isinstance(content, str) else [part["text"] for part in content]
    return "".join(found)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("part", "text"), READ)
@pytest.mark.parametrize("more", [{}, {"tools": TOOLS}])
def test_a_text_file_reaches_the_model_as_text(
    fleet: tuple[Fleet, FakeOllama, dict[str, ScriptedEngine]], kind: str, part: Json, text: str, more: Json
) -> None:
    status, ignored, answer = ask(fleet[0], a_chat(kind, part, **more))
    assert status == 200, answer
    assert "messages" not in ignored
    assert text in sent_text(fleet, kind)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("part", "name"), UNREAD)
def test_the_model_gets_the_name_of_a_file_that_it_cannot_read(
    fleet: tuple[Fleet, FakeOllama, dict[str, ScriptedEngine]], kind: str, part: Json, name: str
) -> None:
    status, ignored, answer = ask(fleet[0], a_chat(kind, part))
    assert status == 200, answer
    assert "messages[0].content[1] (file)" in ignored
    assert f"[Document that cannot be read here: {name}]" in sent_text(fleet, kind)


def test_an_unknown_server_gets_the_file_itself() -> None:
    """It may know files."""
    with ScriptedEngine() as engine, running_fleet({}) as fleet:
        engine.join(fleet, "one", [a_model_info("m", loaded=True)])
        body = a_chat("m", READ[0][0])
        assert ask(fleet, body)[0] == 200
        assert engine.requests[-1][1]["messages"] == body["messages"]


def test_a_long_text_file_counts_for_the_window(fleet: tuple[Fleet, FakeOllama, dict[str, ScriptedEngine]]) -> None:
    text = base64.b64encode(b"word " * 10_000).decode()
    part = {"file": {"filename": "a.txt", "file_data": f"data:text/plain;base64,{text}"}}
    assert ask(fleet[0], a_chat("ollama", part))[0] == 200
    assert json.loads(fleet[1].requests[-1].body)["options"]["num_ctx"] >= 50_000 // 4
