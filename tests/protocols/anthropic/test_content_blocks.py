"""No block that Anthropic publishes, or may publish later, makes a conversation impossible to translate."""

from __future__ import annotations

import json
from typing import Any

import pytest
from anthropic.types.beta import BetaContentBlockParam, beta_tool_result_block_param

from fakes.sdk_samples import members, sample_of
from herd.dialects.anthropic import DIALECT
from herd.protocols.anthropic import content_blocks
from herd.protocols.conversation import Conversation

ROUTE = DIALECT.routes[0]
BLOCKS = [*members(BetaContentBlockParam), *members(beta_tool_result_block_param.Content)]
FUTURE = {"type": "hologram_result", "content": [{"type": "layer", "text": "a cat", "signature": "SECRET"}]}


def conversation(*blocks: dict[str, Any], role: str = "user") -> Conversation:
    body = {"model": "m", "max_tokens": 5, "messages": [{"role": role, "content": list(blocks)}]}
    return DIALECT.read_conversation(DIALECT.parse(ROUTE, json.dumps(body).encode()))


def text_of(*blocks: dict[str, Any]) -> str:
    return conversation(*blocks).messages[0].text


@pytest.mark.parametrize("is_complete", [False, True])
@pytest.mark.parametrize("published", BLOCKS, ids=lambda published: str(published.__name__))
def test_every_published_block_is_taken_in_a_message_and_in_a_tool_result(published: Any, is_complete: bool) -> None:
    block = sample_of(published, is_complete)
    end = {"type": "text", "text": "the question"}
    for blocks in ([block], [{"type": "tool_result", "tool_use_id": "t", "content": [block]}]):
        talk = conversation(*blocks, end)
        assert talk.messages[-1].text.endswith("the question")
        assert talk.unsupported == []


@pytest.mark.parametrize(
    ("block", "text"),
    [
        (
            {"type": "search_result", "title": "T", "source": "s.example", "content": [{"type": "text", "text": "c"}]},
            "T\ns.example\nc",
        ),
        ({"type": "tool_reference", "tool_name": "f"}, "[Tool available: f]"),
        ({"type": "server_tool_use", "id": "s", "name": "web_search", "input": {"query": "q"}}, '{"query":"q"}'),
        ({"type": "mcp_tool_use", "id": "s", "name": "f", "server_name": "x", "input": {}}, "[Call of f: {}]"),
        (
            {
                "type": "web_search_tool_result",
                "tool_use_id": "s",
                "content": [{"type": "web_search_result", "title": "T", "url": "u", "encrypted_content": "SECRET"}],
            },
            "T\nu",
        ),
        (
            {
                "type": "web_fetch_tool_result",
                "tool_use_id": "s",
                "content": {
                    "type": "web_fetch_result",
                    "url": "u",
                    "content": {"type": "document", "source": {"type": "text", "data": "page"}},
                },
            },
            "u\npage",
        ),
        (
            {
                "type": "code_execution_tool_result",
                "tool_use_id": "s",
                "content": {"type": "code_execution_result", "stdout": "4", "stderr": "w", "content": []},
            },
            "4\nw",
        ),
        ({"type": "mcp_tool_result", "tool_use_id": "s", "content": [{"type": "text", "text": "42"}]}, "42"),
        ({"type": "document", "title": "T", "source": {"type": "content", "content": "body"}}, "T\nbody"),
        ({"type": "document", "source": {"type": "text", "data": "body", "media_type": "text/plain"}}, "body"),
        ({"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "SECRET"}}, "pdf"),
        ({"type": "document", "source": {"type": "url", "url": "http://x/y.pdf"}}, "http://x/y.pdf"),
        ({"type": "image", "source": {"type": "url", "url": "http://x/y.png"}}, "http://x/y.png"),
        ({"type": "image", "source": {"type": "file", "file_id": "file_1"}}, "file_1"),
        ({"type": "container_upload", "file_id": "file_1"}, "file_1"),
        (FUTURE, "a cat"),
    ],
)
def test_block_is_rendered_as_text_without_encrypted_data(block: dict[str, Any], text: str) -> None:
    for shown in (text_of(block), text_of({"type": "tool_result", "tool_use_id": "t", "content": [block]})):
        assert text in shown
        assert "SECRET" not in shown


@pytest.mark.parametrize(
    ("block", "path"),
    [
        (FUTURE, "messages.content.hologram_result"),
        ({"type": "image", "source": {"type": "url", "url": "u"}}, "messages.content.image"),
        ({"type": "redacted_thinking", "data": "SECRET"}, "messages.content.redacted_thinking"),
        ({"type": "a b\r\nX-Evil: 1"}, "messages.content.a_b__X-Evil__1"),
        (
            {"type": "document", "citations": {"enabled": True}, "source": {"type": "text", "data": "d"}},
            "messages.content.document.citations",
        ),
    ],
)
def test_what_is_lost_is_named_once(block: dict[str, Any], path: str) -> None:
    assert conversation(block, block, {"type": "text", "text": "x"}).ignored == [path]


def test_text_after_a_rendered_block_begins_a_line() -> None:
    text = {"type": "text", "text": "so?"}
    assert text_of({"type": "tool_reference", "tool_name": "f"}, text) == "[Tool available: f]\nso?"


def test_images_in_documents_and_results_remain_images() -> None:
    picture = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
    document = {"type": "document", "source": {"type": "content", "content": [{"type": "text", "text": "d"}, picture]}}
    talk = conversation(document, {"type": "tool_result", "tool_use_id": "t", "content": [document]})
    assert [(m.role, m.text, len(m.images)) for m in talk.messages] == [("tool", "d", 0), ("user", "d\n", 2)]


def test_nesting_beyond_the_limit_is_left_out() -> None:
    inner: Any = "deep"
    for _ in range(content_blocks.DEPTH_MAX + 1):
        inner = {"content": inner}
    assert text_of({"type": "future", "content": inner}, {"type": "text", "text": "x"}) == "x"
