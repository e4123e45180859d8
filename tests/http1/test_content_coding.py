"""Tests that compressed bodies are unpacked up to a limit, and damaged ones refused in words."""

from __future__ import annotations

import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from herd.errors import BadRequest, HerdError, TooLarge
from herd.http1.content_coding import GZIP_MEMBERS_MAX, UnsupportedCoding, content_coding, unpack

TEXT = b'{"model": "m"}' * 50


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        ("gzip", gzip.compress(TEXT, mtime=0)),
        ("x-gzip", gzip.compress(TEXT, mtime=0)),
        ("gzip", b"".join(gzip.compress(part, mtime=0) for part in (TEXT[:99], b"", TEXT[99:]))),
        ("deflate", zlib.compress(TEXT)),
        ("deflate", zlib.compress(TEXT, wbits=9)),
        ("deflate", raw_deflate(TEXT)),
    ],
)
def test_the_limit_is_the_number_of_unpacked_bytes(coding: str, body: bytes) -> None:
    assert unpack(body, coding, len(TEXT)) == TEXT
    for limit in (len(TEXT) - 1, 100, 99, 1, 0):
        with pytest.raises(TooLarge, match=f"over {limit} bytes after unpacking"):
            unpack(body, coding, limit)


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_an_empty_body_needs_no_unpacking(coding: str) -> None:
    assert unpack(b"", coding, 0) == b""


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        ("gzip", b"{}"),
        ("gzip", TEXT),
        ("gzip", gzip.compress(TEXT, mtime=0)[:-1]),
        ("gzip", gzip.compress(TEXT, mtime=0)[:20]),
        ("gzip", gzip.compress(TEXT, mtime=0) + b"\0"),
        ("gzip", gzip.compress(TEXT, mtime=0)[:-8] + b"\0" * 8),
        ("gzip", zlib.compress(TEXT)),
        ("deflate", b"{}"),
        ("deflate", zlib.compress(TEXT)[:-1]),
        ("deflate", zlib.compress(TEXT) + b"x"),
        ("deflate", raw_deflate(TEXT)[:-1]),
        ("deflate", b"x"),
    ],
)
def test_a_damaged_body_is_a_bad_request(coding: str, body: bytes) -> None:
    with pytest.raises(BadRequest):
        unpack(body, coding, 10**6)


def test_the_number_of_gzip_members_is_limited() -> None:
    empty = gzip.compress(b"")
    assert unpack(empty * GZIP_MEMBERS_MAX, "gzip", 9) == b""
    with pytest.raises(BadRequest, match=f"more than {GZIP_MEMBERS_MAX} members"):
        unpack(empty * (GZIP_MEMBERS_MAX + 1), "gzip", 9)


@pytest.mark.parametrize("coding", ["br", "zstd", "compress", "gzip, gzip", "\x00", "gzip;q=1"])
def test_another_coding_is_named(coding: str) -> None:
    with pytest.raises(UnsupportedCoding, match="send the body uncompressed, or with gzip or deflate"):
        unpack(TEXT, coding, 10**6)


@pytest.mark.parametrize(
    ("values", "coding"),
    [
        ([], ""),
        ([b""], ""),
        ([b"identity"], ""),
        ([b" GZip "], "gzip"),
        ([b"identity, gzip,"], "gzip"),
        ([b"gzip", b"br"], "gzip, br"),
    ],
)
def test_the_coding_is_read_from_all_its_headers(values: list[bytes], coding: str) -> None:
    assert content_coding([(b"host", b"x"), *((b"content-encoding", value) for value in values)]) == coding


@given(st.binary(max_size=200), st.sampled_from(["gzip", "deflate"]))
def test_any_bytes_are_unpacked_or_refused(body: bytes, coding: str) -> None:
    try:
        assert len(unpack(body, coding, 50)) <= 50
    except HerdError as error:
        assert error.refusal.status in (400, 413)
