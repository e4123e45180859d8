"""Provides short answers of engines, whole and streamed, by the path that is asked."""

from __future__ import annotations

import json

from fakes.raw_server import Peer, Script, chunked, whole

EVENTS = b"Content-Type: text/event-stream\r\n"

_RESPONSE = (
    b'{"id":"resp_1","object":"response","created_at":7,"status":"%b","model":"m","error":null,'
    b'"output":[%b],"usage":{"input_tokens":3,"output_tokens":1,"total_tokens":4}}'
)
_ITEM = (
    b'{"id":"msg_1","type":"message","status":"completed","role":"assistant",'
    b'"content":[{"type":"output_text","text":"Hi","annotations":[]}]}'
)
_COUNTED = b'"done":true,"done_reason":"stop","prompt_eval_count":3,"eval_count":1}'

DOCUMENTS = {
    "/v1/chat/completions": (
        b'{"id":"c","object":"chat.completion","created":7,"model":"m","choices":[{"index":0,"message":'
        b'{"role":"assistant","content":"Hi"},"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":1}}'
    ),
    "/v1/completions": (
        b'{"id":"c","object":"text_completion","created":7,"model":"m","choices":[{"index":0,"text":"Hi",'
        b'"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":1}}'
    ),
    "/v1/embeddings": (
        b'{"object":"list","data":[{"object":"embedding","embedding":[0.5,-0.5],"index":0}],"model":"m",'
        b'"usage":{"prompt_tokens":1,"total_tokens":1}}'
    ),
    "/v1/responses": _RESPONSE % (b"completed", _ITEM),
    "/v1/messages": (
        b'{"id":"m1","type":"message","role":"assistant","model":"m","content":[{"type":"text","text":"Hi"}],'
        b'"stop_reason":"end_turn","stop_sequence":null,"usage":{"input_tokens":3,"output_tokens":1}}'
    ),
    "/api/chat": b'{"model":"m","created_at":"t","message":{"role":"assistant","content":"Hi"},' + _COUNTED,
    "/api/generate": b'{"model":"m","created_at":"t","response":"Hi",' + _COUNTED,
    "/api/embed": b'{"model":"m","embeddings":[[0.5,-0.5]],"prompt_eval_count":1}',
    "/api/embeddings": b'{"embedding":[0.5,-0.5]}',
    "/v1/messages/count_tokens": b'{"input_tokens":3}',
    "/api/show": b'{"license":"none","capabilities":["completion"],"model_info":{}}',
}


def _chunk(choice: bytes) -> bytes:
    return b'data: {"id":"c","created":7,"model":"m","choices":[{"index":0,%b}]}\n\n' % choice


def _named(name: bytes, members: bytes) -> bytes:
    return b'event: %b\ndata: {"type":"%b",%b}\n\n' % (name, name, members)


STREAMS = {
    "/v1/chat/completions": (
        _chunk(b'"delta":{"role":"assistant","content":"Hi"},"finish_reason":null')
        + _chunk(b'"delta":{},"finish_reason":"stop"')
        + b"data: [DONE]\n\n"
    ),
    "/v1/completions": (
        _chunk(b'"text":"Hi","finish_reason":null') + _chunk(b'"text":"","finish_reason":"stop"') + b"data: [DONE]\n\n"
    ),
    "/v1/responses": (
        _named(b"response.created", b'"sequence_number":0,"response":' + _RESPONSE % (b"in_progress", b""))
        + _named(b"response.output_item.added", b'"sequence_number":1,"output_index":0,"item":' + _ITEM)
        + _named(b"response.output_text.delta", b'"sequence_number":2,"output_index":0,"item_id":"msg_1","delta":"Hi"')
        + _named(b"response.completed", b'"sequence_number":3,"response":' + _RESPONSE % (b"completed", _ITEM))
    ),
    "/v1/messages": (
        _named(b"message_start", b'"message":{"id":"m1","role":"assistant","usage":{"input_tokens":3}}')
        + _named(b"content_block_start", b'"index":0,"content_block":{"type":"text","text":""}')
        + _named(b"content_block_delta", b'"index":0,"delta":{"type":"text_delta","text":"Hi"}')
        + _named(b"content_block_stop", b'"index":0')
        + _named(b"message_delta", b'"delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":1}')
        + b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
    ),
    "/api/chat": (
        b'{"model":"m","created_at":"t","message":{"role":"assistant","content":"Hi"},"done":false}\n'
        b'{"model":"m","created_at":"t","message":{"role":"assistant","content":""},' + _COUNTED + b"\n"
    ),
    "/api/generate": (
        b'{"model":"m","created_at":"t","response":"Hi","done":false}\n'
        b'{"model":"m","created_at":"t","response":"",' + _COUNTED + b"\n"
    ),
}


def healthy() -> Script:
    """Answers every request in the protocol of its path, with the text "Hi"."""

    async def script(peer: Peer) -> None:
        while True:
            head, _, body = (await peer.request()).partition(b"\r\n\r\n")
            path = head.split(b" ")[1].decode()
            streams = json.loads(body).get("stream", path.startswith("/api/")) and path in STREAMS
            await peer.send(chunked(STREAMS[path], more=EVENTS) if streams else whole(DOCUMENTS[path]))

    return script
