"""Tests that compressed bodies are unpacked up to a limit, and damaged ones refused in words."""

from __future__ import annotations

import gzip
import sys
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from herd.errors import BadRequest, HerdError, TooLarge
from herd.http1.content_coding import MEMBERS_MAX, ZSTD_WINDOW_LOG_MAX, UnsupportedCoding, content_coding, unpack

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

TEXT = b'{"model": "m"}' * 50


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


def streamed_zstd(data: bytes) -> bytes:
    """Without the size in its header, as clients send it that compress while they write."""
    packer = zstd.ZstdCompressor()
    return b"".join(packer.compress(data[at : at + 100]) for at in range(0, len(data), 100)) + packer.flush()


ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
LAST_RUN_OF_A = (1 | 1 << 1 | 5 << 3).to_bytes(3, "little") + b"a"
"""The last block of a frame: "aaaaa"."""


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        ("gzip", gzip.compress(TEXT, mtime=0)),
        ("x-gzip", gzip.compress(TEXT, mtime=0)),
        ("gzip", b"".join(gzip.compress(part, mtime=0) for part in (TEXT[:99], b"", TEXT[99:]))),
        ("deflate", zlib.compress(TEXT)),
        ("deflate", zlib.compress(TEXT, wbits=9)),
        ("deflate", raw_deflate(TEXT)),
        ("zstd", zstd.compress(TEXT)),
        ("zstd", streamed_zstd(TEXT)),
        ("zstd", b"".join(zstd.compress(part) for part in (TEXT[:99], b"", TEXT[99:]))),
    ],
)
def test_the_limit_is_the_number_of_unpacked_bytes(coding: str, body: bytes) -> None:
    assert unpack(body, coding, len(TEXT)) == TEXT
    for limit in (len(TEXT) - 1, 100, 99, 1, 0):
        with pytest.raises(TooLarge, match=f"over {limit} bytes after unpacking"):
            unpack(body, coding, limit)


@pytest.mark.parametrize("coding", ["gzip", "deflate", "zstd"])
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
        ("zstd", b"{}"),
        ("zstd", TEXT),
        ("zstd", gzip.compress(TEXT, mtime=0)),
        ("zstd", zstd.compress(TEXT)[:-1]),
        ("zstd", streamed_zstd(TEXT)[:-3]),
        ("zstd", zstd.compress(TEXT) + b"x"),
        ("zstd", zstd.compress(TEXT)[:4]),
        ("zstd", ZSTD_MAGIC + bytes((0, ZSTD_WINDOW_LOG_MAX + 1 - 10 << 3)) + LAST_RUN_OF_A),
    ],
)
def test_a_damaged_body_is_a_bad_request(coding: str, body: bytes) -> None:
    with pytest.raises(BadRequest):
        unpack(body, coding, 10**6)


@pytest.mark.parametrize(("coding", "empty"), [("gzip", gzip.compress(b"", mtime=0)), ("zstd", zstd.compress(b""))])
def test_the_number_of_members_is_limited(coding: str, empty: bytes) -> None:
    assert unpack(empty * MEMBERS_MAX, coding, 9) == b""
    with pytest.raises(BadRequest, match=f"more than {MEMBERS_MAX} members"):
        unpack(empty * (MEMBERS_MAX + 1), coding, 9)


def test_a_zstd_window_is_allocated_up_to_its_limit() -> None:
    assert unpack(ZSTD_MAGIC + bytes((0, ZSTD_WINDOW_LOG_MAX - 10 << 3)) + LAST_RUN_OF_A, "zstd", 9) == b"aaaaa"


@pytest.mark.parametrize("coding", ["br", "zstd, gzip", "compress", "gzip, gzip", "\x00", "gzip;q=1"])
def test_another_coding_is_named(coding: str) -> None:
    with pytest.raises(UnsupportedCoding, match="send the body uncompressed, or with gzip, deflate or zstd"):
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


@given(st.binary(max_size=200), st.sampled_from(["gzip", "deflate", "zstd"]))
def test_any_bytes_are_unpacked_or_refused(body: bytes, coding: str) -> None:
    try:
        assert len(unpack(body, coding, 50)) <= 50
    except HerdError as error:
        assert error.refusal.status in (400, 413)
