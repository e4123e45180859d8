"""Every dialect in the folder follows the rules of the contract."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import herd.dialects
from builders import a_model_info, a_report
from herd.core.state.fleet import Fleet
from herd.core.state.request import Counters, RequestKind
from herd.dialects import Dialect, HttpResponse, Timestamp
from herd.discover import discover
from herd.errors import BadRequest, HerdError, MethodNotAllowed, Refusal, TooLarge, Unavailable, UnknownModel
from herd.protocols.conversation import Delta, ParsedRequest, Route, Usage

DIALECTS = discover(herd.dialects, Dialect, "DIALECT")
ROUTES = [(dialect, route) for dialect in DIALECTS for route in dialect.routes]
ANSWERING = [(dialect, route) for dialect, route in ROUTES if route.kind is not RequestKind.INFO]
LISTINGS = [(dialect, *listing) for dialect in DIALECTS for listing in dialect.listings]
TIMESTAMP = Timestamp("2026-11-23T09:13:03.960297886Z", 1_795_425_183)
FIELDS = (
    "model",
    "messages",
    "prompt",
    "input",
    "options",
    "tools",
    "stream",
    "max_tokens",
    "metadata",
    "user",
    "system",
)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from((*FIELDS, "role", "content")), inner),
    max_leaves=12,
)
each_route = pytest.mark.parametrize(("dialect", "route"), ROUTES, ids=[route.path for _, route in ROUTES])
each_answer = pytest.mark.parametrize(("dialect", "route"), ANSWERING, ids=[route.path for _, route in ANSWERING])


def a_body(stream: bool = False, **more: Any) -> dict[str, Any]:
    """A body for every inference route of every dialect; fields of other routes count as unknown."""
    return {
        "model": "m",
        "messages": [{"role": "user", "content": "hi"}],
        "prompt": "hi",
        "input": "hi",
        "max_tokens": 16,
        "stream": stream,
        **more,
    }


def parsed(dialect: Dialect, route: Route, body: dict[str, Any]) -> ParsedRequest:
    return dialect.parse(route, json.dumps(body).encode())


def deltas_for(route: Route) -> list[Delta]:
    usage = Usage(12, 4, load_s=0.01, prefill_s=0.02, decode_s=0.03)
    if route.kind is RequestKind.EMBED:
        return [Delta(embeddings=[[0.5, 0.25]], usage=usage, is_last=True)]
    return [Delta(text="Hel"), Delta(text="lo"), Delta(finish_reason="stop", usage=usage), Delta(is_last=True)]


def written(dialect: Dialect, request: ParsedRequest) -> list[bytes]:
    writer = dialect.writer(request, request.model, "r1", TIMESTAMP)
    assert writer.content_type
    return [writer.write(delta) for delta in deltas_for(request.route)]


def watched(dialect: Dialect, request: ParsedRequest, chunks: list[bytes]) -> Counters | None:
    watch = dialect.watcher(request)
    for chunk in chunks:
        watch.feed(chunk)
    return watch.end()


def test_no_two_dialects_have_the_same_path_for_the_same_clients() -> None:
    pairs = [(route.method, route.path) for dialect in DIALECTS for route in dialect.routes]
    assert len(pairs) == len(set(pairs))
    listings = [(dialect.client_header, method, path) for dialect, method, path in LISTINGS]
    assert len(listings) == len(set(listings))
    assert not set(pairs) & {(method, path) for _, method, path in listings}


@each_route
@given(body=st.binary(max_size=80) | json_values.map(lambda value: json.dumps(value).encode()))
@settings(max_examples=40, deadline=None)
def test_arbitrary_body_raises_only_herd_errors(dialect: Dialect, route: Route, body: bytes) -> None:
    try:
        request = dialect.parse(route, body)
        rewritten = dialect.rewrite(request, "other:1")
        if route.kind is not RequestKind.INFO:
            dialect.read_conversation(request)
    except HerdError:
        return
    assert b'"other:1"' in rewritten


@each_answer
@given(field=st.sampled_from(FIELDS), value=json_values)
@settings(max_examples=60, deadline=None)
def test_field_of_a_wrong_type_raises_only_herd_errors(dialect: Dialect, route: Route, field: str, value: Any) -> None:
    try:
        request = parsed(dialect, route, a_body(**{field: value}))
        dialect.read_conversation(request)
        rewritten = dialect.rewrite(request, "other:1")
    except HerdError:
        return
    assert b'"other:1"' in rewritten


@each_route
@pytest.mark.parametrize(
    "body",
    [
        *[b"", b"{", b"[]", b"null", b'{"model":7}', b'{"model":"a\\nb"}', b'{"model":"m","zz":\xff}'],
        *[b'{"model":"m","zz":' + b"[" * 100_000 + b"]" * 100_000 + b"}", b'{"model":"m","zz":NaN}'],
    ],
    ids=range(9),
)
def test_json_bombs_and_invalid_bodies_are_bad_requests(dialect: Dialect, route: Route, body: bytes) -> None:
    with pytest.raises(BadRequest):
        dialect.parse(route, body)


@each_answer
def test_body_without_needed_changes_is_returned_unchanged(dialect: Dialect, route: Route) -> None:
    request = parsed(dialect, route, a_body(unknown={"x": 1}))
    assert not request.has_extensions
    assert dialect.rewrite(request, "m") is request.body


@each_answer
def test_extensions_are_parsed_and_removed_from_the_body(dialect: Dialect, route: Route) -> None:
    extras = {"fallback_models": ["b"], "metadata": {"tags": ["t"]}}
    request = parsed(dialect, route, a_body(unknown=[1.5], **extras))
    assert (request.fallback_models, request.tags, request.has_extensions) == (("b",), ("t",), True)
    assert json.loads(dialect.rewrite(request, "other:1")) == a_body(unknown=[1.5]) | {"model": "other:1"}


@each_answer
@pytest.mark.parametrize("stream", [True, False])
def test_written_answer_is_complete_for_the_watcher(dialect: Dialect, route: Route, stream: bool) -> None:
    request = parsed(dialect, route, a_body(stream, stream_options={"include_usage": True}))
    chunks = written(dialect, request)
    body = b"".join(chunks)
    whole = watched(dialect, request, chunks)
    assert whole is not None and whole.prompt_tokens in (12, None)
    assert watched(dialect, request, [body[i : i + 1] for i in range(len(body))]) == whole
    if not request.stream:
        assert isinstance(json.loads(body), dict)


@each_answer
@pytest.mark.parametrize("stream", [True, False])
def test_answer_without_its_end_is_incomplete(dialect: Dialect, route: Route, stream: bool) -> None:
    request = parsed(dialect, route, a_body(stream))
    chunks = written(dialect, request)
    body, last = b"".join(chunks), len(chunks[-1])
    assert watched(dialect, request, []) is None
    for end in range(len(body) - (last if request.stream else 2)):
        assert watched(dialect, request, [body[:end]]) is None


@each_answer
def test_error_frame_never_completes_a_stream(dialect: Dialect, route: Route) -> None:
    refusal = Refusal(502, "node_lost", "the node went away")
    quiet = parsed(dialect, route, a_body(stream=False))
    assert dialect.error_frame(quiet, refusal) == b""
    request = parsed(dialect, route, a_body(stream=True))
    if request.stream:
        frame = dialect.error_frame(request, refusal)
        assert b"the node went away" in frame
        assert watched(dialect, request, [*written(dialect, request)[:2], frame]) is None


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
@pytest.mark.parametrize("error", [BadRequest, UnknownModel, MethodNotAllowed, TooLarge, Unavailable, HerdError])
def test_every_refusal_is_rendered_as_json(dialect: Dialect, error: type[HerdError]) -> None:
    answer = dialect.error(error('no "such" thing\n').refusal, "r1")
    assert answer.status == error.status
    assert answer.content_type.startswith("application/json")
    assert 'no "such" thing' in json.dumps(json.loads(answer.body), ensure_ascii=False).replace('\\"', '"')


@pytest.mark.parametrize(("dialect", "method", "path"), LISTINGS, ids=[f"{m} {p}" for _, m, p in LISTINGS])
def test_list_routes_are_answered_from_memory(dialect: Dialect, method: str, path: str) -> None:
    fleet = Fleet()
    if path.endswith("/{name}"):
        with pytest.raises(UnknownModel):
            dialect.listing(method, path.replace("{name}", "nope"), fleet, TIMESTAMP)
    fleet.apply_heartbeat(a_report("alpha", [a_model_info("m", loaded=True)]), 1.0)
    answer = dialect.listing(method, path.replace("{name}", "m"), fleet, TIMESTAMP)
    assert isinstance(answer, HttpResponse) and answer.status == 200
    if answer.content_type.startswith("application/json"):
        json.loads(answer.body)
