"""Every other reader of external input accepts or rejects arbitrary input, and raises nothing else.

Other tests cover dialects and engines (`test_dialects.py`, `test_engines.py`), heads and bodies of requests
(`http1/test_hostile_requests.py`), streams, request fields (`protocols/`), heartbeats (`agent_protocol/`)
and keys, signatures, addresses and pages (`trust/test_anything.py`).
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from zeroconf.asyncio import AsyncServiceInfo

import herd.dialects
from fakes.raw_server import RawServer, answers
from herd import mdns
from herd.agent import availability, coordinator_link, node_identity, ollama_environment
from herd.agent.sensors import chip, memory, thermal
from herd.agent_protocol import heartbeat_checks
from herd.agent_protocol.join import JoinAnswer, JoinRequest
from herd.cli import client
from herd.cli.client import CliError
from herd.config import read_env_file
from herd.coordinator.api import login
from herd.coordinator.auth import access_control
from herd.coordinator.storage.credential_store import (
    IDENTITY_FILE,
    KEYS_FILE,
    LOCAL_CODE_FILE,
    NODES_FILE,
    CredentialStore,
    CredentialStoreDamaged,
)
from herd.coordinator.upstream import tls_pinning
from herd.dialects import Dialect, Timestamp
from herd.discover import discover
from herd.errors import HerdError
from herd.http1 import client as http_client
from herd.protocols.conversation import Delta

DEEP = b"[" * 100_000
JSON_BOMBS = (
    DEEP,
    b'{"a":' * 50_000,
    b'{"keys":' + DEEP,
    b"\xff\xfe",
    b"1e999",
    b'"\\ud800"',
    b"NaN",
    b"{}",
    b"[]",
    b"null",
    b'{"private":"zz","key":"0"}',
)
TIMESTAMP = Timestamp("2026-11-23T09:13:03.960297886Z", 1795338783)
DIALECTS = discover(herd.dialects, Dialect, "DIALECT")  # type: ignore[type-abstract]

bytes_ = st.binary(max_size=200) | st.sampled_from([bomb for bomb in JSON_BOMBS if len(bomb) < 100])
texts = st.text(max_size=200) | st.binary(max_size=200).map(lambda raw: raw.decode("latin-1"))
quick = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

READ_BYTES: dict[str, tuple[Callable[[bytes], object], tuple[type[Exception], ...]]] = {
    "learned availability": (availability.decode, (ValueError,)),
    "a coordinator's answer to the command line": (lambda raw: client._object("http://x", raw), (CliError,)),
    "a denial": (lambda raw: coordinator_link._denial(http_client.Response(401, raw)), ()),
    "an error text": (lambda raw: coordinator_link._error_text(http_client.Response(500, raw)), ()),
    "a field of an answer": (lambda raw: coordinator_link._field(http_client.Response(200, raw), "node_id"), ()),
    "the login form": (login._key_of_form, ()),
    "a join request": (
        lambda raw: msgspec.json.decode(raw, type=JoinRequest),
        (msgspec.MsgspecError, RecursionError, UnicodeDecodeError),
    ),
    "the answer to a join request": (
        lambda raw: msgspec.json.decode(raw, type=JoinAnswer),
        (msgspec.MsgspecError, RecursionError, UnicodeDecodeError),
    ),
}
READ_TEXTS: dict[str, tuple[Callable[[str], object], tuple[type[Exception], ...]]] = {
    "a session's cookie": (access_control._session, ()),
    "a time limit": (access_control._seconds, ()),
    "Basic credentials": (access_control._password, ()),
    "a bearer token": (lambda text: access_control.presented_keys({b"authorization": text, b"x-api-key": text}), ()),
    "a pinned engine URL": (tls_pinning.parse_engine_url, (ValueError,)),
    "an engine's URL": (lambda text: heartbeat_checks.address(text, "10.0.0.1"), (HerdError,)),
    "a host": (http_client.full_url, ()),
    "systemd's environment": (ollama_environment.from_systemd, ()),
    "a number in an environment": (ollama_environment.parse_count, ()),
    "/proc/cpuinfo": (chip.from_cpuinfo, ()),
    "memory stall information": (memory.from_stall_information, ()),
    "memory pressure of macOS": (memory.from_macos, ()),
    "pmset": (thermal.from_pmset, ()),
    "a coordinator's address": (client.coordinator_at, (CliError,)),
}


@pytest.mark.parametrize("name", READ_BYTES)
@quick
@given(raw=bytes_)
def test_arbitrary_bytes_are_accepted_or_rejected(name: str, raw: bytes) -> None:
    read, expected_errors = READ_BYTES[name]
    try:
        read(raw)
    except expected_errors:
        return


@pytest.mark.parametrize("name", READ_BYTES)
@pytest.mark.parametrize("raw", JSON_BOMBS, ids=range(len(JSON_BOMBS)))
def test_json_bombs_are_accepted_or_rejected(name: str, raw: bytes) -> None:
    read, expected_errors = READ_BYTES[name]
    try:
        read(raw)
    except expected_errors:
        return


@pytest.mark.parametrize("name", READ_TEXTS)
@quick
@example(text="http://[")
@example(text="http://a:99999999999999999999")
@example(text='"\\')
@example(text="9" * 5000)
@given(text=texts)
def test_arbitrary_texts_are_accepted_or_rejected(name: str, text: str) -> None:
    read, expected_errors = READ_TEXTS[name]
    try:
        read(text)
    except expected_errors:
        return


@quick
@given(raw=bytes_)
def test_arbitrary_settings_file_is_read_or_reported(raw: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "env"
        path.write_bytes(raw)
        problems: list[str] = []
        found = read_env_file(path, problems)
        assert all(key.isidentifier() for key in found) and all(isinstance(problem, str) for problem in problems)


@quick
@given(raw=bytes_)
def test_arbitrary_node_identity_file_is_valid_or_ignored(raw: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "passport.json"
        path.write_bytes(raw)
        kept = node_identity._read(path)
        assert kept is None or len(kept.private) == 64


@pytest.mark.parametrize("name", [IDENTITY_FILE, KEYS_FILE, NODES_FILE, LOCAL_CODE_FILE])
@quick
@given(raw=bytes_)
def test_credential_store_with_an_arbitrary_file_opens_or_names_the_damaged_file(name: str, raw: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        CredentialStore(Path(folder)).open(b"i" * 32, b"c" * 10)
        path = Path(folder) / "trust" / name
        path.write_bytes(raw)
        try:
            CredentialStore(Path(folder)).open(b"j" * 32, b"d" * 10)
        except CredentialStoreDamaged as damaged:
            assert name in str(damaged)
            assert path.read_bytes() == raw, "a damaged file is not changed"


@pytest.mark.parametrize("bomb", [DEEP, b'{"a":' * 50_000], ids=["lists", "objects"])
def test_deeply_nested_file_counts_as_damaged(tmp_path: Path, bomb: bytes) -> None:
    (tmp_path / "passport.json").write_bytes(bomb[:60_000])
    assert node_identity._read(tmp_path / "passport.json") is None
    CredentialStore(tmp_path).open(b"i" * 32, b"c" * 10)
    for name in (IDENTITY_FILE, KEYS_FILE, NODES_FILE):
        kept = (tmp_path / "trust" / name).read_bytes() if (tmp_path / "trust" / name).exists() else b"[]"
        (tmp_path / "trust" / name).write_bytes(bomb)
        with pytest.raises(CredentialStoreDamaged, match=name):
            CredentialStore(tmp_path).open(b"i" * 32, b"c" * 10)
        (tmp_path / "trust" / name).write_bytes(kept)


HEADS = st.sampled_from(
    [
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"",
    ]
)
PIECES = st.lists(
    st.sampled_from([b"5\r\nhello\r\n", b"0\r\n\r\n", b"abc", b"\r\n", b"X: y\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"])
    | st.binary(max_size=30),
    max_size=6,
)


@quick
@given(head=HEADS, parts=PIECES)
def test_arbitrary_answer_to_the_agent_is_an_answer_or_an_error(head: bytes, parts: list[bytes]) -> None:
    async def go() -> http_client.Response:
        reader = asyncio.StreamReader()
        reader.feed_data(head + b"".join(parts))
        reader.feed_eof()
        try:
            return await http_client.read_response(reader)
        except (ValueError, http_client.httptools.HttpParserError) as error:
            return http_client.Response(0, problem=str(error) or type(error).__name__)

    answer = asyncio.run(go())
    assert answer.status >= 100 or answer.problem


def test_invalid_answer_over_a_real_connection_is_reported_as_a_text() -> None:
    async def go() -> None:
        for raw in (
            b"",
            b"\0\0\0",
            b"HTTP/1.1 200",
            b"HTTP/9.9 ??\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc",
        ):
            async with RawServer(_once(raw)) as server:
                answer = await http_client.request("GET", server.url)
                assert answer.status == 0 and answer.problem, raw

    asyncio.run(go())


def _once(raw: bytes):  # noqa: ANN202
    async def script(peer) -> None:  # noqa: ANN001
        await peer.request()
        await peer.send(raw)

    return script


@quick
@given(
    name=st.text(max_size=40),
    properties=st.dictionaries(st.binary(min_size=1, max_size=20), st.none() | st.binary(max_size=40), max_size=5),
)
def test_arbitrary_mdns_announcement_gives_a_url_and_two_texts(
    name: str, properties: dict[bytes, bytes | None]
) -> None:
    """Reads a record of an attacker, without a network."""

    class Answered(AsyncServiceInfo):
        async def async_request(self, zc: object, timeout: float, *more: object) -> bool:  # type: ignore[override]
            return True

    addresses, every_property = [b"\x0a\0\0\1"], dict(properties)
    info = Answered(mdns.SERVICE, f"x.{mdns.SERVICE}", port=1, addresses=addresses, properties=every_property)
    found = mdns.coordinators_in(info, name)
    assert [coordinator.url for coordinator in found] == ["http://10.0.0.1:1"]
    assert all(isinstance(text, str) for coordinator in found for text in (coordinator.version, coordinator.fleet_id))


STREAMS = st.sampled_from(
    [
        b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n',
        b'{"message":{"content":"a"},"done":false}\n',
        b'{"response":"a"}\n',
        b"event: content_block_delta\n"
        b'data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"a"}}\n\n',
        b"data: [DONE]\n\n",
        b"data: null\n\n",
        b"null\n",
        b'data: {"choices":7}\n\n',
        b'{"message":[]}\n',
        b": comment\n\n",
    ]
)


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: str(dialect.name))
@quick
@given(
    lines=st.lists(STREAMS | st.binary(max_size=60).map(lambda raw: raw + b"\n"), max_size=6), index=st.integers(0, 20)
)
def test_arbitrary_interrupted_stream_is_resumed_or_not(dialect: Dialect, lines: list[bytes], index: int) -> None:
    """Forwarded bytes come from a node, so they can be arbitrary."""
    route = dialect.routes[index % len(dialect.routes)]
    body = json.dumps(
        {
            "model": "m",
            "stream": True,
            "max_tokens": 5,
            "messages": [{"role": "user", "content": "x"}],
            "prompt": "x",
            "input": "x",
        }
    )
    request = dialect.parse(route, body.encode())
    sent = dialect.sent_stream(request)
    if sent is None:
        return
    try:
        sent.feed(b"".join(lines))
    except ValueError:
        return
    writer = dialect.resumed_writer(request, "m", "r1", TIMESTAMP, sent, "note")
    assert isinstance(sent.partial_answer.text, str) and isinstance(writer.write(Delta(is_last=True)), bytes)
    assert isinstance(dialect.ending(request, sent), bytes | None)


def test_valid_answer_of_the_raw_server_is_read() -> None:
    """Checks the raw server itself with a valid answer."""

    async def go() -> None:
        async with RawServer(answers(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")) as server:
            assert (await http_client.request("GET", server.url)).body == b"ok"

    asyncio.run(go())
