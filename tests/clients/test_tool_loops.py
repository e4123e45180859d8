"""The official Python clients do the scripted task through herd, with two calls in one answer, streamed and not."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import anthropic
import ollama
import openai
import pydantic
import pytest

from fakes.fleet import running_fleet, settings_of_steady_nodes
from fakes.scripted.engines import KINDS
from fakes.scripted.process import EngineProcess
from fakes.scripted.server import MODEL
from fakes.scripted.task import FINISHED, Task

Json = dict[str, Any]
Loop = Callable[[str, str, bool], str]

MOVES_MAX = 8
TAKES = {"read_file": ["path"], "str_replace": ["path", "old_str", "new_str"], "run_command": ["command"]}


def schema(names: list[str]) -> Json:
    return {"type": "object", "properties": {name: {"type": "string"} for name in names}, "required": names}


def use_tool(name: str, given: Json) -> str:
    if name == "run_command":
        return subprocess.run(["bash", "-c", given["command"]], capture_output=True, text=True, check=True).stdout
    path = Path(given["path"])
    text = path.read_text("utf-8")
    if name == "read_file":
        return text
    path.write_text(text.replace(given["old_str"], given["new_str"]), "utf-8")
    return "changed"


def openai_chat(url: str, prompt: str, streams: bool) -> str:
    messages: list[Any] = [{"role": "user", "content": prompt}]
    tools: Any = [{"type": "function", "function": {"name": name, "parameters": schema(TAKES[name])}} for name in TAKES]
    with openai.OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0) as client:
        for _ in range(MOVES_MAX):
            if streams:
                with client.chat.completions.stream(model=MODEL, messages=messages, tools=tools) as stream:
                    message: Any = stream.get_final_completion().choices[0].message
            else:
                message = client.chat.completions.create(model=MODEL, messages=messages, tools=tools).choices[0].message
            if not message.tool_calls:
                return str(message.content)
            messages.append(message.to_dict())
            for call in message.tool_calls:
                result = use_tool(call.function.name, json.loads(call.function.arguments))
                messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
    return "no end"


def responses(url: str, prompt: str, streams: bool, continues: bool = False) -> str:
    """`continues` sends only the results and the id of the answer that they belong to."""
    everything: list[Any] = [{"role": "user", "content": prompt}]
    tools: Any = [{"type": "function", "name": name, "parameters": schema(TAKES[name])} for name in TAKES]
    more: Json = {"input": everything} | ({} if continues else {"store": False})
    with openai.OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0) as client:
        for _ in range(MOVES_MAX):
            if streams:
                with client.responses.stream(model=MODEL, tools=tools, **more) as stream:
                    response: Any = stream.get_final_response()
            else:
                response = client.responses.create(model=MODEL, tools=tools, **more)
            assert response.status == "completed"
            calls = [item for item in response.output if item.type == "function_call"]
            if not calls:
                return str(response.output_text)
            results = [
                {
                    "type": "function_call_output",
                    "call_id": call.call_id,
                    "output": use_tool(call.name, json.loads(call.arguments)),
                }
                for call in calls
            ]
            everything += [item.to_dict() for item in response.output] + results
            more = {"input": results, "previous_response_id": response.id} if continues else more
    return "no end"


def continued_responses(url: str, prompt: str, streams: bool) -> str:
    return responses(url, prompt, streams, continues=True)


def anthropic_messages(url: str, prompt: str, streams: bool) -> str:
    messages: list[Any] = [{"role": "user", "content": prompt}]
    asked: Json = {"model": MODEL, "max_tokens": 2000, "messages": messages}
    asked["tools"] = [{"name": name, "input_schema": schema(TAKES[name])} for name in TAKES]
    with anthropic.Anthropic(base_url=url, api_key="unused", max_retries=0) as client:
        for _ in range(MOVES_MAX):
            if streams:
                with client.messages.stream(**asked) as stream:
                    message: Any = stream.get_final_message()
            else:
                message = client.messages.create(**asked)
            calls = [block for block in message.content if block.type == "tool_use"]
            if not calls:
                return "".join(block.text for block in message.content)
            assert message.stop_reason == "tool_use"
            results = [
                {"type": "tool_result", "tool_use_id": call.id, "content": use_tool(call.name, call.input)}
                for call in calls
            ]
            blocks = [block.to_dict() for block in message.content]
            messages += [{"role": "assistant", "content": blocks}, {"role": "user", "content": results}]
    return "no end"


def ollama_chat(url: str, prompt: str, streams: bool) -> str:
    messages: list[Any] = [{"role": "user", "content": prompt}]
    tools: Any = [
        {"type": "function", "function": {"name": name, "description": name, "parameters": schema(TAKES[name])}}
        for name in TAKES
    ]
    with ollama.Client(url) as client:
        for _ in range(MOVES_MAX):
            parts = (
                list(client.chat(MODEL, messages, tools=tools, stream=True))
                if streams
                else [client.chat(MODEL, messages, tools=tools)]
            )
            calls = [call for part in parts for call in part.message.tool_calls or []]
            text = "".join(part.message.content or "" for part in parts)
            if not calls:
                return text
            messages.append({"role": "assistant", "content": text, "tool_calls": calls})
            for call in calls:
                result = use_tool(call.function.name, dict(call.function.arguments))
                messages.append({"role": "tool", "tool_name": call.function.name, "content": result})
    return "no end"


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def url(kind: str) -> Iterator[str]:
    """A coordinator in front of one engine of this kind."""
    with ExitStack() as stack:
        engine = stack.enter_context(EngineProcess(kind))
        yield stack.enter_context(running_fleet({"alpha": engine}, settings=settings_of_steady_nodes())).url


@pytest.mark.parametrize("streams", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("loop", [openai_chat, responses, continued_responses, anthropic_messages, ollama_chat])
def test_a_client_does_the_task(url: str, loop: Loop, streams: bool, tmp_path: Path) -> None:
    task = Task(tmp_path)
    task.prepare()
    assert loop(url, task.prompt, streams) == FINISHED
    assert task.is_done()


class Sky(pydantic.BaseModel):
    colour: str
    height: int


def test_a_demanded_form_is_parsed(url: str) -> None:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0) as client:
        parsed = client.responses.parse(model=MODEL, input="Which colour has the sky?", text_format=Sky)
        chat = client.chat.completions.parse(
            model=MODEL, messages=[{"role": "user", "content": "Which colour has the sky?"}], response_format=Sky
        )
        with client.responses.stream(model=MODEL, input="Which colour has the sky?", text_format=Sky) as stream:
            streamed = stream.get_final_response()
    assert isinstance(parsed.output_parsed, Sky)
    assert isinstance(chat.choices[0].message.parsed, Sky)
    assert isinstance(streamed.output_parsed, Sky)
