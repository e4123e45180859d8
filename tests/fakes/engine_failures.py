"""Collects how engines tell, with status 200 and in the middle of a stream, that they could not complete an answer.

Each entry has its source in words: the server whose public source or issue reports show this spelling. The beginning of
the stream is complete events; what follows is the failure and whatever the server sends after it.
"""

from __future__ import annotations

from dataclasses import dataclass

DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True)
class Spelling:
    source: str
    failure: bytes
    after: bytes = b""


def _chat(reason: str, content: str = "") -> bytes:
    return (
        b'data: {"id":"c","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"%s"},'
        b'"logprobs":null,"finish_reason":%s}]}\n\n' % (content.encode(), reason.encode())
    )


OPENAI_BEGINNING = _chat("null", "Once")
OPENAI = (
    Spelling("vLLM, an aborted request: a reason of its own, then the terminator", _chat('"abort"'), DONE),
    Spelling("SGLang, the same with the last text", _chat('"abort"', " upon"), DONE),
    Spelling("vLLM, a failed request", _chat('"error"'), DONE),
    Spelling("OpenRouter, a choice with the reason error", _chat('"error"'), b""),
    Spelling("watsonx, a cancelled request", _chat('"cancelled"'), DONE),
    Spelling("watsonx, a time limit", _chat('"time_limit"'), DONE),
    Spelling("DeepSeek, no resources", _chat('"insufficient_system_resource"'), DONE),
    Spelling("Zhipu, a lost worker", _chat('"network_error"'), DONE),
    Spelling("TGI before its protocol was OpenAI's: a generation error", _chat('"GenerationError"'), DONE),
    Spelling("a reason with spaces around the colon", _chat('"abort"').replace(b'":', b'" : '), DONE),
    Spelling("LMDeploy, an abort without any reason", DONE),
    Spelling(
        "vLLM, an exception in its generator",
        b'data: {"error":{"object":"error","message":"EngineDeadError","type":"InternalServerError","code":500}}\n\n',
        DONE,
    ),
    Spelling(
        "vLLM before 0.10, the error is the event",
        b'data: {"object":"error","message":"died","type":"InternalServerError","param":null,"code":500}\n\n',
        DONE,
    ),
    Spelling("SGLang, an exception", b'data: {"error":{"message":"died","type":"InternalServerError","code":500}}\n\n'),
    Spelling(
        "llama.cpp before 2025, a field of its own", b'error: {"code":500,"message":"x","type":"server_error"}\n\n'
    ),
    Spelling("llama.cpp, a failed slot", b'data: {"error":{"code":500,"message":"x","type":"server_error"}}\n\n', DONE),
    Spelling("llama.cpp, an event of that name", b'event: error\ndata: {"code":500,"message":"Compute error."}\n\n'),
    Spelling("LM Studio, a crashed model", b'event: error\ndata: {"error":{"message":"The model has crashed"}}\n\n'),
    Spelling("LM Studio, a text as the error", b'data: {"error":"Model unloaded."}\n\n'),
    Spelling("Ollama's OpenAI endpoint", b'data: {"error":{"message":"unexpected EOF","type":"api_error"}}\n\n'),
    Spelling("Ollama's OpenAI endpoint, the line of its runner", b'{"error":"unexpected EOF"}\n'),
    Spelling("TGI", b'data: {"error":"Request failed during generation","error_type":"generation"}\n\n'),
    Spelling("OpenRouter, an error beside an empty choice", OPENAI_BEGINNING[:-4] + b',"error":{"code":502}}\n\n'),
    Spelling("a gateway, numbers and a text", b'data: {"code":502,"error":"bad gateway"}\n\n', DONE),
    Spelling("a gateway, numbers and a message", b'data: {"code":500,"message":"no worker"}\n\n', DONE),
    Spelling("a gateway, a flag", b'data: {"success":false,"error":{"code":"INTERNAL","status":500}}\n\n'),
    Spelling("a gateway, a flag and a message", b'data: {"error":true,"message":"no worker"}\n\n'),
    Spelling("a gateway, fields of their own", b'data: {"choices":null,"error_type":"E","error_message":"died"}\n\n'),
    Spelling("FastAPI, its own form", b'data: {"detail":"Internal Server Error"}\n\n', DONE),
    Spelling("a gateway, a list", b'data: {"errors":[{"message":"died"}]}\n\n'),
    Spelling("mistral.rs, plain words", b"data: The engine has terminated\n\n"),
    Spelling("a proxy in front of the engine, its page", b"<html><body>502 Bad Gateway</body></html>\n"),
    Spelling("an error in capitals of Go", b'data: {"Error":"died"}\n\n'),
)

OLLAMA_BEGINNING = b'{"model":"m","message":{"role":"assistant","content":"Once"},"response":"Once","done":false}\n'
OLLAMA = (
    Spelling("Ollama, a dead runner", b'{"error":"an error was encountered while running the model: EOF"}\n'),
    Spelling("Ollama, JSON in the text", b'{"error":"{\\"error\\":{\\"code\\":500,\\"message\\":\\"x\\"}}"}\n'),
    Spelling("a last line with a reason of failure", b'{"model":"m","done":true,"done_reason":"error"}\n'),
    Spelling("a cancelled runner", b'{"model":"m","done":true,"done_reason":"cancelled"}\n'),
    Spelling("an object as the error", b'{"error":{"message":"died","code":500}}\n'),
    Spelling("a proxy in front of Ollama, its page", b"<!DOCTYPE html>\n"),
    Spelling("a gateway, numbers and a message", b'{"code":500,"message":"no worker"}\n'),
)

ANTHROPIC_BEGINNING = (
    b'event: message_start\ndata: {"type":"message_start","message":{"id":"m1","usage":{"input_tokens":4}}}\n\n'
    b'event: content_block_start\ndata: {"type":"content_block_start","index":0,'
    b'"content_block":{"type":"text","text":""}}\n\n'
    b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,'
    b'"delta":{"type":"text_delta","text":"Once"}}\n\n'
)
_STOP = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
ANTHROPIC = (
    Spelling("Anthropic, an overload", b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error"}}\n\n'),
    Spelling("llama.cpp, its own error", b'data: {"error":{"code":500,"message":"x","type":"server_error"}}\n\n'),
    Spelling(
        "vLLM, a reason of its own",
        b'event: message_delta\ndata: {"type":"message_delta","delta":{"stop_reason":"abort"},"usage":{}}\n\n',
        _STOP,
    ),
    Spelling("an end without a reason", _STOP),
)

RESPONSES_BEGINNING = (
    b'event: response.created\ndata: {"type":"response.created","sequence_number":0,"response":{"id":"resp_1",'
    b'"created_at":7,"status":"in_progress","output":[]}}\n\n'
    b'event: response.output_item.added\ndata: {"type":"response.output_item.added","sequence_number":1,'
    b'"output_index":0,"item":{"id":"msg_1","type":"message","role":"assistant","content":[]}}\n\n'
    b'event: response.content_part.added\ndata: {"type":"response.content_part.added","sequence_number":2,'
    b'"output_index":0,"content_index":0,"item_id":"msg_1","part":{"type":"output_text","text":""}}\n\n'
    b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","sequence_number":3,'
    b'"output_index":0,"content_index":0,"item_id":"msg_1","delta":"Once"}\n\n'
)
RESPONSES = (
    Spelling(
        "OpenAI, a failed response",
        b'event: response.failed\ndata: {"type":"response.failed","response":{"status":"failed",'
        b'"error":{"code":"server_error","message":"x"}}}\n\n',
    ),
    Spelling("OpenAI, an error event", b'event: error\ndata: {"type":"error","code":"server_error","message":"x"}\n\n'),
    Spelling(
        "vLLM, a cancelled response that is called completed",
        b'event: response.completed\ndata: {"type":"response.completed","response":{"status":"cancelled"}}\n\n',
    ),
    Spelling("a stream of another protocol's end", DONE),
)

EVERY_STREAM = {
    "openai": (OPENAI_BEGINNING, OPENAI),
    "ollama": (OLLAMA_BEGINNING, OLLAMA),
    "generate": (OLLAMA_BEGINNING, OLLAMA),
    "anthropic": (ANTHROPIC_BEGINNING, ANTHROPIC),
    "responses": (RESPONSES_BEGINNING, RESPONSES),
}
"""By the client's API: how the stream begins, and the spellings of a failure."""
