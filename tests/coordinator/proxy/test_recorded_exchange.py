"""Kept answers of the Responses API, through the official client: translated and passed through, on any node."""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import openai
import pytest

from access_fixtures import a_key, ask
from builders import a_model_info
from fakes.fleet import Fleet, running_fleet, settings_for_tests
from fakes.scripted_engine import Answer, ScriptedEngine, completion, events
from herd.coordinator.proxy.response_store import ResponseStoreSettings
from herd.coordinator.settings import Settings

Json = dict[str, Any]
KINDS = ("lmstudio", "vllm")
"""One engine to which Responses requests are translated, and one that serves them itself."""


def responses_object(number: int, text: str, status: str = "completed") -> Json:
    content = [{"type": "output_text", "text": text, "annotations": [], "logprobs": []}]
    message = {"id": f"msg_{number}", "type": "message", "role": "assistant", "status": "completed", "content": content}
    return {
        "id": f"resp_{number}",
        "object": "response",
        "created_at": 1,
        "status": status,
        "model": "m",
        "output": [message] if status == "completed" else [],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
    }


def native(number: int, text: str, streams: bool) -> Answer:
    done = responses_object(number, text)
    if not streams:
        return done
    first = responses_object(number, text, "in_progress")
    sent = [
        {"type": "response.created", "sequence_number": 0, "response": first},
        {"type": "response.completed", "sequence_number": 1, "response": done},
    ]
    return [f"event: {each['type']}\ndata: {json.dumps(each)}\n\n".encode() for each in sent]


def translated(text: str, streams: bool) -> Answer:
    if not streams:
        return completion("m", text)
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
    return events({"choices": [choice]}, {"choices": [choice | {"delta": {}, "finish_reason": "stop"}]})


class Engine(ScriptedEngine):
    """Answers "answer 1", "answer 2", ... in the format of the path that it is asked at."""

    def __init__(self) -> None:
        super().__init__(self._script)

    def _script(self, path: str, body: Json) -> Answer:
        number = len(self.requests)
        streams = bool(body.get("stream"))
        text = f"answer {number}"
        return native(number, text, streams) if path == "/v1/responses" else translated(text, streams)


@contextmanager
def serving(kind: str, settings: Settings | None = None) -> Iterator[tuple[openai.OpenAI, ScriptedEngine, Fleet]]:
    with Engine() as engine, running_fleet({}, settings=settings) as fleet:
        engine.join(fleet, "one", [a_model_info("m")], kind)
        with openai.OpenAI(base_url=f"{fleet.url}/v1", api_key="unused", max_retries=0) as client:
            yield client, engine, fleet


@pytest.fixture(params=KINDS)
def setup(request: pytest.FixtureRequest) -> Iterator[tuple[openai.OpenAI, ScriptedEngine, Fleet]]:
    with serving(request.param) as made:
        yield made


def asked(engine: ScriptedEngine) -> list[tuple[str, str]]:
    """The roles and texts of the last request to the engine."""
    path, body = engine.requests[-1]
    turns = body["input"] if path == "/v1/responses" else body["messages"]
    return [
        (turn["role"], turn["content"] if isinstance(turn["content"], str) else turn["content"][0]["text"])
        for turn in turns
    ]


def streamed(client: openai.OpenAI, **body: Any) -> Any:
    with client.responses.stream(model="m", **body) as stream:
        return stream.get_final_response()


# --- continuing ---


@pytest.mark.parametrize("is_streamed", [False, True])
def test_earlier_answer_is_continued(setup: tuple[openai.OpenAI, ScriptedEngine, Fleet], is_streamed: bool) -> None:
    client, engine, _ = setup
    if is_streamed:
        first = streamed(client, input="one")
        second = streamed(client, input="two", previous_response_id=first.id)
    else:
        first = client.responses.create(model="m", input="one")
        second = client.responses.create(model="m", input="two", previous_response_id=first.id)
    client.responses.create(model="m", input=[{"role": "user", "content": "three"}], previous_response_id=second.id)
    assert asked(engine) == [
        ("user", "one"),
        ("assistant", "answer 1"),
        ("user", "two"),
        ("assistant", "answer 2"),
        ("user", "three"),
    ]
    assert "previous_response_id" not in engine.requests[-1][1]
    kept = client.responses.retrieve(second.id)
    assert (kept.output_text, kept.previous_response_id, kept.id) == ("answer 2", first.id, second.id)


def test_conversation_continues_on_another_engine_of_another_kind() -> None:
    with serving("vllm") as (client, _, fleet), Engine() as other:
        first = client.responses.create(model="m", input="one")
        other.join(fleet, "two", [a_model_info("n")], "lmstudio")
        client.responses.create(model="n", input="two", previous_response_id=first.id)
        assert asked(other) == [("user", "one"), ("assistant", "answer 1"), ("user", "two")]


def test_reference_to_an_item_is_replaced_by_the_item(setup: tuple[openai.OpenAI, ScriptedEngine, Fleet]) -> None:
    client, engine, _ = setup
    first = client.responses.create(model="m", input="one")
    reference: Any = {"type": "item_reference", "id": first.output[0].id}
    client.responses.create(model="m", input=[reference, {"role": "user", "content": "two"}])
    assert asked(engine) == [("assistant", "answer 1"), ("user", "two")]


# --- reading and deleting ---


def test_input_items_are_listed_in_pages(setup: tuple[openai.OpenAI, ScriptedEngine, Fleet]) -> None:
    client, _, _ = setup
    first = client.responses.create(model="m", input="one")
    second = client.responses.create(model="m", input="two", previous_response_id=first.id)
    items: Any = list(client.responses.input_items.list(second.id, order="asc", limit=2))
    assert [item.content[0].text for item in items] == ["one", "answer 1", "two"]
    assert len({item.id for item in items}) == 3
    newest: Any = client.responses.input_items.list(second.id, limit=1)
    assert newest.data[0].content[0].text == "two" and newest.has_more


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "limit=x", "order=up", "after=nothing"])
def test_invalid_page_is_refused(query: str) -> None:
    with serving("lmstudio") as (client, _, fleet):
        first = client.responses.create(model="m", input="one")
        status, answer, _ = ask(fleet, "GET", f"/v1/responses/{first.id}/input_items?{query}")
        assert status == 400
        assert query.split("=")[0] in answer["error"]["message"]


def test_deleted_answer_is_gone_but_later_ones_keep_it(setup: tuple[openai.OpenAI, ScriptedEngine, Fleet]) -> None:
    client, engine, _ = setup
    first = client.responses.create(model="m", input="one")
    second = client.responses.create(model="m", input="two", previous_response_id=first.id)
    client.responses.delete(first.id)
    for call in (client.responses.retrieve, client.responses.delete, client.responses.input_items.list):
        with pytest.raises(openai.NotFoundError, match="it was deleted"):
            call(first.id)
    client.responses.create(model="m", input="three", previous_response_id=second.id)
    assert asked(engine)[0] == ("user", "one")


def test_complete_answer_cannot_be_cancelled() -> None:
    with serving("lmstudio") as (client, _, _):
        first = client.responses.create(model="m", input="one")
        with pytest.raises(openai.BadRequestError, match="background"):
            client.responses.cancel(first.id)
        with pytest.raises(openai.NotFoundError, match="unknown"):
            client.responses.cancel("resp_x")


# --- what is not kept ---


def test_answer_with_store_false_is_not_kept(setup: tuple[openai.OpenAI, ScriptedEngine, Fleet]) -> None:
    client, _, fleet = setup
    first = client.responses.create(model="m", input="one", store=False)
    with pytest.raises(openai.NotFoundError, match="store: false"):
        client.responses.create(model="m", input="two", previous_response_id=first.id)
    assert fleet.coordinator.responses.stored_bytes == 0


def test_nothing_remains_if_the_store_is_off() -> None:
    off = replace(settings_for_tests(), responses=ResponseStoreSettings(is_on=False))
    with serving("lmstudio", off) as (client, _, _):
        first = client.responses.create(model="m", input="one")
        assert first.to_dict()["store"] is False
        with pytest.raises(openai.NotFoundError, match="FLEET_RESPONSES_STORE is off"):
            client.responses.retrieve(first.id)


def test_dropped_answer_says_which_limit_dropped_it() -> None:
    small = replace(settings_for_tests(), responses=ResponseStoreSettings(max_bytes=100_000))
    with serving("lmstudio", small) as (client, _, _):
        first = client.responses.create(model="m", input="one")
        for _ in range(2):
            client.responses.create(model="m", input="x" * 60_000)
        with pytest.raises(openai.NotFoundError, match="FLEET_RESPONSES_MAX_BYTES"):
            client.responses.retrieve(first.id)


def test_one_key_cannot_read_the_answers_of_another() -> None:
    with serving("lmstudio") as (client, _, fleet):
        first, second = a_key(fleet, name="first"), a_key(fleet, name="second")
        owned = client.with_options(default_headers=first).responses.create(model="m", input="one")
        path = f"/v1/responses/{owned.id}"
        assert ask(fleet, "GET", path, **first)[0] == 200
        for method, at in (("GET", path), ("DELETE", path), ("GET", f"{path}/input_items")):
            assert ask(fleet, method, at, **second)[0] == 404
        body = {"model": "m", "input": "two", "previous_response_id": owned.id}
        assert ask(fleet, "POST", "/v1/responses", body, **second)[0] == 404
        assert ask(fleet, "POST", "/v1/responses", body, **first)[0] == 200


def test_without_keys_another_page_or_address_cannot_read_an_answer() -> None:
    with serving("lmstudio") as (client, _, fleet):
        owned = client.responses.create(model="m", input="one")
        path = f"/v1/responses/{owned.id}"
        assert ask(fleet, "GET", path)[0] == 200
        body = {"model": "m", "input": "two", "previous_response_id": owned.id}
        page = {"Origin": "http://localhost:3000"}
        for method, at in (("GET", path), ("DELETE", path), ("GET", f"{path}/input_items")):
            assert ask(fleet, method, at, **page)[0] == 404
        assert ask(fleet, "POST", "/v1/responses", body, **page)[0] == 404
        other = http.client.HTTPConnection("127.0.0.1", fleet.port, timeout=30, source_address=("127.0.0.2", 0))
        other.request("GET", path)
        assert other.getresponse().status == 404
        other.close()


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({"previous_response_id": "resp_x"}, openai.NotFoundError),
        ({"input": [{"type": "item_reference", "id": "msg_x"}]}, openai.NotFoundError),
        ({"input": [{"id": "msg_x"}]}, openai.NotFoundError),
        ({"input": [{"id": "msg_x", "type": None}]}, openai.NotFoundError),
        ({"conversation": "conv_1"}, openai.BadRequestError),
    ],
)
def test_unknown_reference_is_refused_before_an_engine_is_asked(body: Json, error: type[Exception]) -> None:
    with serving("vllm") as (client, engine, _):
        with pytest.raises(error, match=r"not kept|unknown|no kept answer"):
            create: Any = client.responses.create
            create(**({"model": "m", "input": "x"} | body))
        assert not engine.requests


@pytest.mark.parametrize(
    ("body", "words"),
    [
        *(
            ({"previous_response_id": value}, f"previous_response_id must be a string, not {name}")
            for value, name in ((5, "a whole number"), ([], "a list"), ({"id": "resp_1"}, "an object"))
        ),
        ({"input": [{"type": "item_reference", "id": 5}]}, r"input\[0\].id must be a string, not a whole number"),
        ({"input": [{"type": "item_reference"}]}, r"input\[0\].id must be a string, not null"),
    ],
)
def test_a_reference_of_a_wrong_type_is_refused_in_words(body: Json, words: str) -> None:
    with serving("vllm") as (client, engine, _):
        with pytest.raises(openai.BadRequestError, match=words):
            create: Any = client.responses.create
            create(**({"model": "m", "input": "x"} | body))
        assert not engine.requests


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("field", "value"), [("input", 7), ("input", {"role": "user"}), ("store", "yes"), ("stream_options", 7)]
)
def test_a_wrong_field_beside_an_earlier_answer_is_never_left_out(kind: str, field: str, value: Any) -> None:
    with serving(kind) as (client, engine, _):
        first = client.responses.create(model="m", input="one")
        create: Any = client.responses.create
        try:
            create(model="m", previous_response_id=first.id, **({"input": "two"} | {field: value}))
        except openai.BadRequestError as error:
            assert field in str(error)
        else:
            assert "two" in json.dumps(engine.requests[-1][1]) and "one" in json.dumps(engine.requests[-1][1])


@pytest.mark.parametrize("referring", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_errors_and_left_out_fields_name_the_place_in_the_clients_own_list(kind: str, referring: bool) -> None:
    def script(path: str, body: Json) -> Answer:
        if path != "/v1/responses":
            return translated("answer", streams=False)
        items = body["input"] if isinstance(body["input"], list) else []
        wrong = next((at for at, item in enumerate(items) if item.get("content") == 7), None)
        text = f"input[{wrong}]: content must be a text, not 7"
        return native(1, "answer", streams=False) if wrong is None else {"error": {"message": text, "code": 400}}

    with ScriptedEngine(script) as engine, running_fleet({}) as fleet:
        engine.join(fleet, "one", [a_model_info("m")], kind)
        with openai.OpenAI(base_url=f"{fleet.url}/v1", api_key="unused", max_retries=0) as client:
            create: Any = client.responses.with_raw_response.create
            first = json.loads(create(model="m", input="one").content)
            more = {"previous_response_id": first["id"]} if referring else {}
            unknown = create(model="m", input=[{"role": "user", "content": "a"}, {"type": "novel", "x": 1}], **more)
            with pytest.raises(openai.BadRequestError, match=re.escape("input[1]")):
                create(model="m", input=[{"role": "user", "content": "a"}, {"role": "user", "content": 7}], **more)
    ignored = unknown.headers.get("X-Fleet-Ignored", "")
    assert ignored == ("input[1] (novel)" if kind == "lmstudio" else "")


def test_a_reference_without_a_type_is_replaced_by_the_item() -> None:
    with serving("vllm") as (client, engine, _):
        first = client.responses.create(model="m", input="one")
        create: Any = client.responses.create
        create(model="m", input=[{"id": first.output[0].id}, {"role": "user", "content": "two"}])
        assert engine.requests[-1][1]["input"][0]["content"][0]["text"] == "answer 1"


@pytest.mark.parametrize("path", ["/v1/responses/compact", "/v1/responses/input_tokens", "/v1/conversations"])
def test_routes_that_need_openais_servers_say_so(path: str) -> None:
    with running_fleet({}) as fleet:
        status, answer, _ = ask(fleet, "POST", path, {})
        assert status == 501
        assert answer["error"]["code"] == "not_implemented" and "herd" in answer["error"]["message"]


# --- interrupted streams ---


class Breaking(ScriptedEngine):
    """Sends the beginning of an answer and ends the stream with an error."""

    def __init__(self) -> None:
        super().__init__(self._script)

    def _script(self, path: str, body: Json) -> Answer:
        if path == "/v1/responses":
            event = {
                "type": "response.created",
                "sequence_number": 0,
                "response": responses_object(1, "", "in_progress"),
            }
            created = f"event: response.created\ndata: {json.dumps(event)}\n\n".encode()
            return [created, b'data: {"error":{"message":"out of memory"}}\n\n']
        choice = {"index": 0, "delta": {"content": "Hi"}, "finish_reason": None}
        return [
            b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n",
            b'data: {"error":"out of memory"}\n\n',
        ]


@pytest.mark.parametrize("kind", KINDS)
def test_interrupted_stream_ends_with_response_failed(kind: str) -> None:
    with Breaking() as engine, running_fleet({}) as fleet:
        engine.join(fleet, "one", [a_model_info("m")], kind)
        with openai.OpenAI(base_url=f"{fleet.url}/v1", api_key="unused", max_retries=0) as client:
            seen: list[Any] = []
            with client.responses.stream(model="m", input="x") as stream:
                seen.extend(stream)
        last = seen[-1]
        assert last.type == "response.failed"
        assert last.response.id == seen[0].response.id
        assert last.response.error.message
        assert last.sequence_number == seen[-2].sequence_number + 1
        assert len(fleet.coordinator.responses) == 0
