"""The fake and a real Ollama give equivalent answers to the same requests.

So neither can drift: a new version of the real one that answers otherwise fails here.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import psutil
import pytest

from fakes.answer_comparison import WireAnswer, ask, differences, line_shape
from fakes.faults import Gate, RunnerDies
from fakes.ollama.reloads import RELOADS
from fakes.ollama.server import FakeModel, FakeOllama
from fakes.real_ollama import CHAT_MODEL, EMBED_MODEL, OTHER_MODEL, TOOLS_MODEL, RealOllama

SAY_HI = [{"role": "user", "content": "Say hi."}]
TWO = {"num_predict": 2, "seed": 1}
LONG = "word " * 9000
TOOL = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}
PICTURE = "iVBORw0KGgo="
PICTURE_PART = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PICTURE}"}}
FAR_PICTURE_PART = {"type": "image_url", "image_url": {"url": "http://example.invalid/x.png"}}
SOURCE_PART = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PICTURE}}
USAGE = {"include_usage": True}


@dataclass(frozen=True)
class Case:
    name: str
    method: str
    path: str
    body: Any = None
    """JSON, or bytes as they are."""
    headers: dict[str, str] = field(default_factory=dict)
    leaving_out: tuple[str, ...] = ()
    """Fields whose content is the model's own."""


def chat(name: str, **more: Any) -> Case:
    return Case(name, "POST", "/api/chat", {"model": CHAT_MODEL, "messages": SAY_HI, "options": TWO, **more})


def generate(name: str, **more: Any) -> Case:
    return Case(name, "POST", "/api/generate", {"model": CHAT_MODEL, "prompt": "Say hi.", "options": TWO, **more})


def openai(name: str, **more: Any) -> Case:
    body = {"model": CHAT_MODEL, "messages": SAY_HI, "max_tokens": 2, "seed": 1, **more}
    return Case(name, "POST", "/v1/chat/completions", body)


def anthropic(name: str, **more: Any) -> Case:
    body = {"model": CHAT_MODEL, "messages": SAY_HI, "max_tokens": 2, **more}
    return Case(name, "POST", "/v1/messages", {key: value for key, value in body.items() if value is not None})


def post(name: str, path: str, body: Any) -> Case:
    return Case(name, "POST", path, body)


CASES = [
    Case("root", "GET", "/"),
    Case("root_head", "HEAD", "/"),
    Case("tags", "GET", "/api/tags"),
    Case("tags_head", "HEAD", "/api/tags"),
    Case("models", "GET", "/v1/models"),
    Case("model", "GET", f"/v1/models/{CHAT_MODEL}"),
    Case("model_unknown", "GET", "/v1/models/nope"),
    Case("show", "POST", "/api/show", {"model": CHAT_MODEL}, leaving_out=("model_info", "tensors")),
    post("show_nothing", "/api/show", {}),
    post("show_unknown", "/api/show", {"model": "nope"}),
    chat("chat_stream"),
    chat("chat_whole", stream=False),
    chat("chat_load", messages=[]),
    chat("chat_unknown", model="nope"),
    chat("chat_no_model", model=""),
    chat("chat_json", stream=False, format="json", options={"num_predict": 400, "seed": 1}),
    chat("chat_whole_picture", stream=False, messages=[{"role": "user", "content": "x", "images": [PICTURE]}]),
    chat("chat_too_long", messages=[{"role": "user", "content": LONG}], truncate=False),
    chat("chat_truncated", messages=[{"role": "user", "content": LONG}], stream=False, options={"num_predict": 1}),
    chat("chat_bad_keep_alive", keep_alive="bogus"),
    chat("chat_bool_keep_alive", keep_alive=True),
    chat("chat_bad_option", options={"num_ctx": "4096"}),
    chat("chat_unitless_keep_alive", keep_alive="30"),
    chat("chat_bad_format", format="xml"),
    chat("chat_picture", messages=[{"role": "user", "content": "x", "images": [PICTURE]}]),
    chat("chat_tools_unsupported", tools=[TOOL]),
    chat("chat_tools", model=TOOLS_MODEL, stream=False, messages=[*SAY_HI, {"role": "tool", "content": "7"}]),
    chat("chat_thinking", think=True),
    post("chat_stream_not_bool", "/api/chat", b'{"model":"tiny:chat","messages":[],"stream":"x"}'),
    post("chat_array", "/api/chat", b"[1]"),
    post("chat_model_number", "/api/chat", b'{"model":5}'),
    post("chat_not_json", "/api/chat", b"{a}"),
    generate("generate_stream"),
    generate("generate_whole", stream=False),
    generate("generate_raw", stream=False, raw=True),
    generate("generate_raw_system", raw=True, system="x"),
    generate("generate_suffix", suffix="x"),
    generate("generate_no_model", model=""),
    post("generate_text", "/api/generate", b'"x"'),
    post("generate_prompt_number", "/api/generate", b'{"model":"tiny:chat","prompt":7}'),
    post("embed", "/api/embed", {"model": EMBED_MODEL, "input": ["a", "b"], "dimensions": 3}),
    post("embed_nothing", "/api/embed", {}),
    post("embeddings", "/api/embeddings", {"model": EMBED_MODEL, "prompt": "a"}),
    openai("openai_whole"),
    openai("openai_stream", stream=True),
    openai("openai_stream_usage", stream=True, stream_options=USAGE),
    openai("openai_json", response_format={"type": "json_object"}, max_tokens=400),
    openai("openai_picture", messages=[{"role": "user", "content": [PICTURE_PART]}]),
    openai("openai_stream_picture", messages=[{"role": "user", "content": [PICTURE_PART]}], stream=True),
    openai("openai_far_picture", messages=[{"role": "user", "content": [FAR_PICTURE_PART]}]),
    openai("openai_unknown", model="nope"),
    post("openai_cut_json", "/v1/chat/completions", b'{"model":'),
    post("openai_empty", "/v1/chat/completions", b""),
    post("completion", "/v1/completions", {"model": CHAT_MODEL, "prompt": "x", "max_tokens": 2}),
    post(
        "completion_stream",
        "/v1/completions",
        {"model": CHAT_MODEL, "prompt": "x", "max_tokens": 2, "stream": True, "stream_options": USAGE},
    ),
    post("completion_unknown", "/v1/completions", {"model": "nope", "prompt": "x"}),
    post("openai_embeddings", "/v1/embeddings", {"model": EMBED_MODEL, "input": ["a", "b"], "dimensions": 2}),
    post("openai_embeddings_none", "/v1/embeddings", {"model": EMBED_MODEL, "input": []}),
    post("openai_embeddings_unknown", "/v1/embeddings", {"model": "nope", "input": "x"}),
    anthropic("anthropic_whole"),
    anthropic("anthropic_stream", stream=True),
    anthropic("anthropic_picture", messages=[{"role": "user", "content": [SOURCE_PART]}]),
    anthropic("anthropic_stream_picture", messages=[{"role": "user", "content": [SOURCE_PART]}], stream=True),
    anthropic("anthropic_no_messages", messages=[]),
    anthropic("anthropic_no_limit", max_tokens=None),
    anthropic("anthropic_unknown", model="nope"),
    post("anthropic_cut_json", "/v1/messages", b'{"model":'),
    post("copy_nothing", "/api/copy", {}),
    post("pull_nothing", "/api/pull", {}),
    Case("delete_nothing", "DELETE", "/api/delete", {}),
    Case("unknown_path", "GET", "/nope"),
    Case("tags_post", "POST", "/api/tags"),
    Case("delete_get", "GET", "/api/delete"),
    Case("openai_get", "GET", "/v1/chat/completions"),
    Case("blob_delete", "DELETE", "/api/blobs/x"),
    Case("model_post", "POST", "/v1/models/x"),
    Case("ps_post", "POST", "/api/ps"),
    Case("chat_options", "OPTIONS", "/api/chat"),
    Case("preflight", "OPTIONS", "/api/chat", None, {"Origin": "http://localhost:3000"}),
    Case("foreign_origin", "GET", "/api/tags", None, {"Origin": "http://evil.example"}),
    Case("foreign_host", "GET", "/api/tags", None, {"Host": "evil.example"}),
    Case("internal_host", "GET", "/", None, {"Host": "box.internal:80"}),
    Case("lan_host", "GET", "/", None, {"Host": "192.168.1.5:11434"}),
    Case("public_host", "GET", "/", None, {"Host": "8.8.8.8"}),
    Case("ps", "GET", "/api/ps"),
]


@pytest.fixture(scope="module")
def fake(real_ollama: RealOllama) -> Iterator[FakeOllama]:
    names = [(CHAT_MODEL, "completion"), (OTHER_MODEL, "completion"), (EMBED_MODEL, "embedding")]
    models = [FakeModel(name, capabilities=(ability,), embedding_width=64) for name, ability in names]
    tooled = FakeModel(TOOLS_MODEL, capabilities=("completion", "tools"), embedding_width=64)
    with FakeOllama([*models, tooled]) as running:
        for model in (CHAT_MODEL, EMBED_MODEL):
            ask(running.port, "POST", "/api/generate", json.dumps({"model": model}).encode())
            real_ollama.ask("POST", "/api/embed", json.dumps({"model": model, "input": []}).encode())
        yield running


def answer_to(case: Case, port: int) -> WireAnswer:
    body = (
        case.body if isinstance(case.body, bytes) else json.dumps(case.body).encode() if case.body is not None else b""
    )
    answer = ask(port, case.method, case.path, body, case.headers)
    if not case.leaving_out:
        return answer
    value = {key: part for key, part in json.loads(answer.body).items() if key not in case.leaving_out}
    kept = tuple((name, text) for name, text in answer.headers if name == "Content-Type")
    return replace(answer, chunks=(json.dumps(value).encode(),), headers=kept, chunked=False)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_fake_and_real_answers_are_equivalent(case: Case, fake: FakeOllama, real_ollama: RealOllama) -> None:
    assert differences(answer_to(case, real_ollama.port), answer_to(case, fake.port)) == []


def test_real_ollama_reloads_exactly_as_in_the_table(real_ollama: RealOllama) -> None:
    real_ollama.ask("POST", "/api/generate", json.dumps({"model": OTHER_MODEL, "keep_alive": 0}).encode())
    before = {runner.pid for runner in real_ollama.runners()}
    observed = []
    for more, _ in RELOADS:
        body = {"model": OTHER_MODEL, "messages": SAY_HI, "stream": False, **more}
        body["options"] = {"num_predict": 1} | body.get("options", {})
        real_ollama.ask("POST", "/api/chat", json.dumps(body).encode())
        after = {runner.pid for runner in real_ollama.runners()}
        observed.append((more, bool(after - before)))
        before = after
    assert observed == RELOADS


def only_runner(real: RealOllama) -> psutil.Process:
    """The process behind OTHER_MODEL, loaded afresh."""
    real.ask("POST", "/api/generate", json.dumps({"model": OTHER_MODEL, "keep_alive": 0}).encode())
    others = {runner.pid for runner in real.runners()}
    real.ask("POST", "/api/generate", json.dumps({"model": OTHER_MODEL}).encode())
    return next(runner for runner in real.runners() if runner.pid not in others)


ENDLESS = {"num_predict": 1_000_000}
LOST = [
    ("/api/generate", {"model": OTHER_MODEL, "prompt": "x", "options": ENDLESS}),
    ("/api/chat", {"model": OTHER_MODEL, "messages": SAY_HI, "options": ENDLESS}),
    ("/v1/chat/completions", {"model": OTHER_MODEL, "messages": SAY_HI, "stream": True, "max_tokens": 1_000_000}),
    ("/v1/messages", {"model": OTHER_MODEL, "messages": SAY_HI, "stream": True, "max_tokens": 1_000_000}),
]


def lines_after_the_first(port: int, path: str, body: Any, then: Callable[[], object]) -> list[bytes]:
    """Reads one line of a stream, does something, reads the rest."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        response.readline()
        then()
        return [line for line in response.read().split(b"\n") if line]
    finally:
        connection.close()


@pytest.mark.parametrize(("path", "body"), LOST, ids=[path for path, _ in LOST])
def test_lost_runner_ends_both_streams_in_the_same_format(
    path: str, body: Any, fake: FakeOllama, real_ollama: RealOllama
) -> None:
    runner = only_runner(real_ollama)
    real = lines_after_the_first(real_ollama.port, path, body, runner.kill)
    gate = fake.fail(Gate(at="chunk", chunk=2, times=1))
    fake.fail(RunnerDies(after_chunks=3, times=1))
    faked = lines_after_the_first(fake.port, path, body, gate.release)
    fake.heal()
    assert line_shape(faked[-1].decode()) == line_shape(real[-1].decode())
    after = json.dumps({"model": OTHER_MODEL, "prompt": "x", "stream": False, "options": TWO}).encode()
    assert json.loads(real_ollama.ask("POST", "/api/generate", after))["done"] is True
