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

DOCUMENTS = (
    Spelling("nothing", b""),
    Spelling("white space", b" \n"),
    Spelling("an empty object", b"{}"),
    Spelling("null", b"null"),
    Spelling("true", b"true"),
    Spelling("an empty list", b"[]"),
    Spelling("a text", b'"Internal Server Error"'),
    Spelling("a half of an object", b'{"choices":[{"index":0,"message":{"role":"assistant","content":"H'),
    Spelling("an error as a text", b'{"error":"died"}'),
    Spelling("an error that is a number", b'{"error":500}'),
    Spelling("an error that is true", b'{"error":true}'),
    Spelling("OpenAI, an error", b'{"error":{"message":"died","type":"server_error","code":null}}'),
    Spelling("an error whose type is not a text", b'{"error":{"message":"died","type":{"name":"E"},"code":[1]}}'),
    Spelling("a list of errors", b'{"errors":["died"]}'),
    Spelling("FastAPI, its own form", b'{"detail":"Internal Server Error"}'),
    Spelling("FastAPI, its findings", b'{"detail":[{"msg":"died","type":"runtime"}]}'),
    Spelling("FastAPI, no finding", b'{"detail":[]}'),
    Spelling("a gateway, only a message", b'{"message":"Internal Server Error"}'),
    Spelling("problem details (RFC 9457)", b'{"type":"about:blank","title":"Bad Gateway","status":502}'),
    Spelling("Spring", b'{"timestamp":1,"status":500,"error":"Internal Server Error","path":"/v1/chat/completions"}'),
    Spelling("Apigee", b'{"fault":{"faultstring":"died"}}'),
    Spelling("Baidu", b'{"error_code":336100,"error_msg":"try again"}'),
    Spelling("MiniMax", b'{"choices":null,"base_resp":{"status_code":1000,"status_msg":"unknown error"}}'),
    Spelling("a gateway, numbers and no data", b'{"code":1000,"msg":"service busy","data":null}'),
    Spelling("AWS Lambda", b'{"errorMessage":"died","errorType":"Exception"}'),
    Spelling("a gateway, a flag of its own", b'{"ok":false,"description":"died"}'),
    Spelling("JSON-RPC", b'{"jsonrpc":"2.0","id":1,"error":{"code":-32603,"message":"died"}}'),
    Spelling("a status page", b'{"status":"ok"}'),
    Spelling("a task that was accepted", b'{"task_id":"t1","status":"queued"}'),
    Spelling("a model list", b'{"object":"list","data":[{"id":"m","object":"model"}]}'),
    Spelling("a proxy, its page", b"<html><body>502 Bad Gateway</body></html>"),
    Spelling("choices that are null", b'{"choices":null}'),
    Spelling("no choice", b'{"id":"c","object":"chat.completion","choices":[],"usage":{"prompt_tokens":0}}'),
    Spelling("an empty choice", b'{"choices":[{}]}'),
    Spelling("a choice that is null", b'{"choices":[null]}'),
    Spelling("choices that are texts", b'{"choices":["died"]}'),
    Spelling("a choice without a message", b'{"choices":[{"index":0,"finish_reason":"stop"}]}'),
    Spelling("a choice whose message is null", b'{"choices":[{"index":0,"message":null,"finish_reason":"stop"}]}'),
    Spelling(
        "a choice without content and reason",
        b'{"choices":[{"index":0,"message":{"role":"assistant","content":null,"tool_calls":[]},"finish_reason":null}]}',
    ),
    Spelling("vLLM, an aborted choice", b'{"choices":[{"index":0,"message":{"content":""},"finish_reason":"abort"}]}'),
    Spelling("a response in progress", b'{"id":"r","object":"response","status":"in_progress","output":[]}'),
    Spelling("a queued response", b'{"id":"r","object":"response","status":"queued","output":[]}'),
    Spelling("a failed response", b'{"id":"r","object":"response","status":"failed","error":null,"output":[]}'),
    Spelling("a response without output", b'{"id":"r","object":"response","status":"completed","output":null}'),
    Spelling("a message without content", b'{"type":"message","role":"assistant","content":[],"stop_reason":null}'),
    Spelling("a message whose content is null", b'{"type":"message","content":null,"stop_reason":"end_turn"}'),
    Spelling("a message whose content is a text", b'{"type":"message","content":"died","stop_reason":null}'),
    Spelling("Ollama, a message that has not ended", b'{"message":{"role":"assistant","content":""},"done":false}'),
    Spelling("Ollama, a response that has not ended", b'{"model":"m","response":"","done":false}'),
    Spelling("Ollama, an end of nothing", b'{"model":"m","done":true}'),
    Spelling("Ollama, a progress", b'{"status":"success"}'),
    Spelling("no vectors", b'{"object":"list","data":[],"model":"m"}'),
    Spelling("vectors that are null", b'{"object":"list","data":[{"embedding":null,"index":0}]}'),
    Spelling("vectors that are empty", b'{"object":"list","data":[{"embedding":[],"index":0}]}'),
    Spelling("Ollama, no vectors", b'{"model":"m","embeddings":[]}'),
    Spelling("Ollama, vectors that are null", b'{"model":"m","embeddings":null}'),
    Spelling("Ollama, an empty vector", b'{"embedding":[]}'),
)
"""Whole answers with status 200 that are no answers, whatever was asked and in which protocol."""


def _event(data: bytes) -> bytes:
    return b"data: " + data + b"\n\n"


_ERROR = b'{"error":{"message":"died","type":"server_error"}}'
FIRST_EVENTS = (
    Spelling("nothing", b""),
    Spelling("a comment", b": ping\n\n"),
    Spelling("a terminator", DONE),
    Spelling("an empty object", _event(b"{}"), DONE),
    Spelling("null", _event(b"null"), DONE),
    Spelling("true", _event(b"true"), DONE),
    Spelling("an empty text", _event(b'""'), DONE),
    Spelling("a number", _event(b"0"), DONE),
    Spelling("an empty list", _event(b"[]"), DONE),
    Spelling("an event without data", b"event: start\n\n", DONE),
    Spelling("an empty event", b"data:\n\n", DONE),
    Spelling("an error", _event(_ERROR)),
    Spelling("an error, then the terminator", _event(_ERROR), DONE),
    Spelling("an error after a comment", b": ping\n\n" + _event(_ERROR)),
    Spelling("an error after an empty object", _event(b"{}") + _event(_ERROR)),
    Spelling("an error in several lines", b'data: {"error":\ndata: {"message":"died"}}\n\n'),
    Spelling("an error event without data", b"event: error\n\n"),
    Spelling("choices that are null", _event(b'{"choices":null}'), DONE),
    Spelling("no choice", _event(b'{"choices":[]}'), DONE),
    Spelling("only a usage", _event(b'{"choices":[],"usage":{"prompt_tokens":0,"completion_tokens":0}}'), DONE),
    Spelling("Anthropic, a ping", b'event: ping\ndata: {"type":"ping"}\n\n'),
    Spelling("Anthropic, an end of nothing", b'event: message_stop\ndata: {"type":"message_stop"}\n\n'),
    Spelling("FastAPI, its findings", _event(b'{"detail":[{"msg":"died","type":"runtime"}]}'), DONE),
    Spelling("a gateway, only a message", _event(b'{"message":"Internal Server Error"}'), DONE),
    Spelling("a gateway, a status", _event(b'{"status":"starting"}'), DONE),
    Spelling("a document", b'{"message":"Internal Server Error"}'),
    Spelling("an empty document", b"{}"),
    Spelling("lines of empty objects", b"{}\n{}\n"),
    Spelling("lines of null", b"null\n"),
    Spelling("a line of an error", b'{"error":"died"}\n'),
    Spelling("a line of a progress", b'{"status":"success"}\n'),
    Spelling("an error behind another object", b'{"done":false}{"error":"died"}\n'),
)
"""Streams with status 200 that have no answer."""
