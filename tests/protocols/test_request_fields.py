"""Shared request fields are validated with readable errors, and unknown fields are preserved."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from herd.core.state.request import RequestKind
from herd.errors import BadRequest
from herd.protocols.conversation import ParsedRequest, Route
from herd.protocols.request_fields import (
    FALLBACKS_MAX,
    TAG_MAX_CHARS,
    TAGS_MAX,
    USER_MAX_CHARS,
    ExtensionFields,
    Extensions,
    estimate_tokens,
    has_content,
    is_given,
    model_name,
    new_model_name,
    read,
    read_extensions,
    rewrite,
    text_bytes,
)

ROUTE = Route("POST", "/x", RequestKind.CHAT)


class Sample(ExtensionFields):
    model: str | None = None
    items: list[int] | None = None
    size: int | float | None = None


SAMPLE = msgspec.json.Decoder(Sample)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


def read_own(body: dict[str, Any]) -> Extensions:
    return read_extensions(read(json.dumps(body).encode(), SAMPLE), "m")


def ask(body: bytes, has_extensions: bool = True) -> ParsedRequest:
    return ParsedRequest(route=ROUTE, body=body, model="m", stream=True, has_extensions=has_extensions)


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "missing request body"),
        (b" \n", "missing request body"),
        (b"{", "not valid JSON"),
        (b'{"a":1} {"b":2}', "not valid JSON"),
        (b'{"zz":NaN}', "not valid JSON"),
        (b'{"zz":Infinity}', "not valid JSON"),
        (b'{"model":"\\ud800"}', "not valid JSON"),
        (b"\xef\xbb\xbf{}", "not valid JSON"),
        (b"[]", "the body must be an object, not a list"),
        (b"null", "the body must be an object"),
        (b'{"items":"x"}', "items must be a list, not a string"),
        (b'{"items":[1,{}]}', r"items\[1\] must be a whole number, not an object"),
        (b'{"model":7}', "model must be a string, not a whole number"),
        (b'{"size":"big"}', "size must be a number, not a string"),
        (b'{"size":1e999}', "size: Number out of range"),
        (b'{"model":"\xff"}', "not valid UTF-8"),
        (b'{"unknown":"\xff"}', "not valid UTF-8"),
        (b'{"zz":' + b"[" * 100_000, "nested too deeply"),
        (b'{"zz":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
        (b'{"zz":' * 100_000 + b"1" + b"}" * 100_000, "nested too deeply"),
    ],
    ids=range(20),
)
def test_invalid_body_is_rejected_with_a_readable_message(body: bytes, text: str) -> None:
    with pytest.raises(BadRequest, match=text):
        read(body, SAMPLE)


def test_unused_number_of_ten_megabytes_is_accepted() -> None:
    assert read(b'{"zz":' + b"9" * 10_000_000 + b"}", SAMPLE).model is None


@given(st.binary(max_size=200))
def test_arbitrary_body_raises_only_bad_request(body: bytes) -> None:
    try:
        read_extensions(read(body, SAMPLE), "m")
    except BadRequest:
        return


@given(st.dictionaries(st.sampled_from(["fallback_models", "metadata", "user", "model", "items"]), json_values))
def test_arbitrary_extensions_raise_only_bad_request(body: dict[str, Any]) -> None:
    try:
        read_own(body)
    except BadRequest:
        return


NEW_NAMES = (
    "m",
    "m:latest",
    "smollm2:135m",
    "hf.co/bartowski/Llama-3.2-1B-Instruct-GGUF:Q4_K_M",
    "registry:5000/a/b:c",
    "localhost:11434/m",
    "Qwen/Qwen2.5-7B-Instruct",
    "qwen2.5-7b-instruct@q4_k_m",
    "x" * 256,
)
LISTED_NAMES = (
    *("../../etc/passwd", "a/../b", "..", ".", "a..b", "%2e%2e", "a\\..\\b", "a b/ c", "a:b:c", "/a", "a/"),
    *(
        ":x",
        "a:",
        "é",
        "a/b/c/d/e/f",
        "http://evil/x",
        "http://hf.co/bob/m",
        "https://evil/x",
        "https://m",
        "m?x=1",
        "m#x",
        "My Model [Q4]+v",
    ),
)


@pytest.mark.parametrize("name", NEW_NAMES)
def test_names_of_registries_are_unchanged(name: str) -> None:
    assert model_name(name) == name == new_model_name(name)


def test_an_address_of_a_model_is_its_name() -> None:
    assert new_model_name("https://hf.co/bob/M-GGUF:Q4_K_M") == "hf.co/bob/M-GGUF:Q4_K_M"


@pytest.mark.parametrize("name", LISTED_NAMES)
def test_what_an_engine_lists_can_be_requested_but_not_downloaded(name: str) -> None:
    assert model_name(name) == name
    with pytest.raises(BadRequest, match="invalid model name"):
        new_model_name(name)


@pytest.mark.parametrize("name", ["a\0", "a\n", "a\r\nX-Evil: 1", "a\u2028b", "\u202eb", "x" * 257])
def test_invalid_model_names_are_rejected(name: str) -> None:
    for check in (model_name, new_model_name):
        with pytest.raises(BadRequest, match="at most 256 characters, none of them control characters"):
            check(name)


@pytest.mark.parametrize("name", ["", None])
def test_model_name_is_required(name: str | None) -> None:
    with pytest.raises(BadRequest, match="model is required"):
        model_name(name)


def test_extensions_are_read() -> None:
    body = {"fallback_models": ["b", "c:1"], "metadata": {"tags": ["x", " y "], "k": 1}, "user": "ann"}
    assert read_own(body) == Extensions(("b", "c:1"), ("x", "y"), "ann", True)


@pytest.mark.parametrize("body", [{}, {"metadata": {"k": "v"}}, {"metadata": "mine"}, {"metadata": None}])
def test_request_without_extensions_need_not_be_rewritten(body: dict[str, Any]) -> None:
    assert read_own(body) == Extensions((), (), "", False)


@pytest.mark.parametrize("body", [{"user": None}, {"fallback_models": None}, {"metadata": {"tags": None}}])
def test_extensions_with_null_must_be_removed(body: dict[str, Any]) -> None:
    assert read_own(body) == Extensions((), (), "", True)


@pytest.mark.parametrize(("sent", "wanted"), [(True, True), (False, False), (None, None), ("no", None), ({}, None)])
def test_the_field_fallback_is_ours_if_it_is_a_boolean(sent: object, wanted: bool | None) -> None:
    own = read_own({"fallback": sent})
    assert (own.may_fall_back, own.are_present) == (wanted, wanted is not None)
    body = {"model": "m", "fallback": sent, "x": 1}
    request = ParsedRequest(route=ROUTE, body=json.dumps(body).encode(), model="m", stream=False, has_extensions=True)
    kept = json.loads(rewrite(request, "m"))
    assert ("fallback" in kept) == (wanted is None)


def test_fallbacks_are_deduplicated_and_exclude_the_model_itself() -> None:
    assert read_own({"fallback_models": ["b", "M:latest", "c", "B:latest"]}).fallback_models == ("b", "c")


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"fallback_models": "b"}, "fallback_models must be a list"),
        ({"fallback_models": [1]}, "fallback_models must be a list"),
        ({"fallback_models": ["x\n"]}, "invalid model name"),
        ({"fallback_models": [f"m{i}" for i in range(FALLBACKS_MAX + 1)]}, f"at most {FALLBACKS_MAX} models, not 9"),
    ],
)
def test_invalid_extensions_are_rejected_with_a_readable_message(body: dict[str, Any], text: str) -> None:
    with pytest.raises(BadRequest, match=text):
        read_own(body)


def test_maximum_number_of_extensions_is_accepted() -> None:
    names, tags = [f"m{i}" for i in range(FALLBACKS_MAX)], ["t" * 60 + f"{i:04}" for i in range(TAGS_MAX)]
    assert read_own({"fallback_models": names, "metadata": {"tags": tags}}) == Extensions(
        tuple(names), tuple(tags), "", True
    )


@pytest.mark.parametrize(
    ("sent", "tags"),
    [
        ("a", ("a",)),
        ("a, b,,a", ("a", "b")),
        (["a", 1, None, ["x"], "b"], ("a", "b")),
        ([" a", "b ", "", "a"], ("a", "b")),
        (["a\nb", "\x00", "\u2028c"], ("a b", "c")),
        (["x" * 5000], ("x" * TAG_MAX_CHARS,)),
        ([str(i) for i in range(30)], tuple(str(i) for i in range(TAGS_MAX))),
        ([], ()),
    ],
)
def test_tags_of_other_shapes_are_cut_and_the_request_is_answered(sent: object, tags: tuple[str, ...]) -> None:
    assert read_own({"metadata": {"tags": sent}}) == Extensions((), tags, "", True)


@pytest.mark.parametrize("tags", [7, True, {"a": "b"}, 1.5])
def test_tags_that_are_not_ours_are_passed_on(tags: object) -> None:
    assert read_own({"metadata": {"tags": tags}}) == Extensions((), (), "", False)
    body = json.dumps({"model": "m", "user": "u", "metadata": {"tags": tags}}, separators=(",", ":")).encode()
    assert json.loads(rewrite(ask(body), "m")) == {"model": "m", "metadata": {"tags": tags}}


@pytest.mark.parametrize("metadata", [[], [1], 7, True, "text", {"tags": {"deep": [[[]]]}}])
def test_metadata_of_another_shape_is_ignored(metadata: object) -> None:
    assert read_own({"metadata": metadata}) == Extensions((), (), "", False)


@pytest.mark.parametrize(
    ("sent", "user"),
    [
        (7, "7"),
        ("x" * 5000, "x" * USER_MAX_CHARS),
        ("a\x1b[31m\n", "a [31m"),
        (True, ""),
        ({"id": 1}, ""),
        (["u"], ""),
        (1.5, ""),
        ("", ""),
    ],
)
def test_a_user_of_another_shape_is_cut_and_the_request_is_answered(sent: object, user: str) -> None:
    assert read_own({"user": sent}) == Extensions((), (), user, True)


@pytest.mark.parametrize("text", ["[]", "[ ]", "[\n]", "[" + " \t\r\n" * 20 + "]", '""', "null", "false"])
def test_an_empty_value_has_no_content_whatever_its_white_space(text: str) -> None:
    assert not has_content(msgspec.Raw(text.encode()))


@pytest.mark.parametrize("text", ["[0]", "[\n1]", '" "', "[" + " " * 40 + "1]", "{}", "true", "[[]]"])
def test_a_value_has_content(text: str) -> None:
    assert has_content(msgspec.Raw(text.encode()))


def test_unknown_fields_are_copied_unchanged() -> None:
    body = b'{ "user":"u", "model":"m" , "x": {"a" : 1.50, "b":[ 1e3 ,"\\u00e9"]},"fallback_models":["b"]}'
    assert rewrite(ask(body), "m:latest") == b'{"model":"m:latest","x":{"a" : 1.50, "b":[ 1e3 ,"\\u00e9"]}}'


def test_metadata_keeps_its_other_keys_and_is_removed_when_empty() -> None:
    assert rewrite(ask(b'{"model":"m","metadata":{"k": 1,"tags":[]}}'), "m") == b'{"model":"m","metadata":{"k":1}}'
    assert rewrite(ask(b'{"model":"m","metadata":{"tags":["a"]}}'), "m") == b'{"model":"m"}'
    assert rewrite(ask(b'{"model":"m","metadata":"mine"}'), "m") == b'{"model":"m","metadata":"mine"}'


def test_user_field_is_removed_only_with_extensions() -> None:
    assert rewrite(ask(b'{"model":"m","user":"u"}', has_extensions=False), "n") == b'{"model":"n","user":"u"}'


def test_fields_can_be_replaced() -> None:
    assert (
        rewrite(ask(b'{"name":"m"}'), "n", {"options": {"num_ctx": 1}}, "name")
        == b'{"name":"n","options":{"num_ctx":1}}'
    )


@given(st.dictionaries(st.text(max_size=8), json_values, max_size=6), st.booleans())
def test_rewriting_changes_only_the_model_and_the_extensions(body: dict[str, Any], with_extras: bool) -> None:
    body = {k: v for k, v in body.items() if k not in ("user", "fallback_models", "metadata", "model")}
    extras = {"user": "u", "metadata": {"tags": ["t"]}, "fallback_models": ["b"]} if with_extras else {}
    sent = json.dumps({"model": "m", **body, **extras}).encode()
    assert json.loads(rewrite(ask(sent, with_extras), "n")) == {"model": "n", **body}


def test_binary_data_is_excluded_from_the_text_size() -> None:
    picture = b"A" * 4000
    content = b'[{"type":"text","text":"hello"},{"type":"image_url","image_url":{"url":"data:image/png;base64,%s"}}]'
    source = b'[{"source":{"type":"base64","media_type":"image/png","data": "%s"}}, "%s"]'
    assert text_bytes(msgspec.Raw(content % picture)) == len(content) - 2
    assert text_bytes(msgspec.Raw(source % (picture, b"B" * 100))) == len(source) - 4 + 100
    assert estimate_tokens(400) == 100


def test_null_counts_as_not_given() -> None:
    assert [is_given(msgspec.Raw(raw)) for raw in (b"", b"null", b"0", b"[]")] == [False, False, True, True]
