"""Lines and events are the same for every chunking, and sizes are limited."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from herd.protocols.streams import (
    ENDS_BYTES,
    DocumentReader,
    Event,
    EventReader,
    HeadAndTail,
    LastLine,
    LineEnds,
    LineReader,
    Tail,
    event,
)

NDJSON = b'{"a":1}\r\n\n{"b":"x y"}\n  \n{"c":[]}'
SSE = (
    b": hello\n\nevent: ping\ndata: {}\n\nid: 7\ndata:one\r\ndata: two\r\n\r\n"
    b'event: nothing\n\ndata\n\ndata: {"x":"\xc3\xa4"}\n\ndata: [DONE]\n\n'
)
EVENTS = [
    Event(b"ping", b"{}"),
    Event(b"", b"one\ntwo"),
    Event(b"", b""),
    Event(b"", b'{"x":"\xc3\xa4"}'),
    Event(b"", b"[DONE]"),
]
text_lines = st.lists(st.binary(max_size=30).map(lambda b: b.replace(b"\n", b"").replace(b"\r", b"")), max_size=8)


def cuts(data: bytes, points: list[int]) -> list[bytes]:
    edges = [0, *sorted(p % (len(data) + 1) for p in points), len(data)]
    return [data[a:b] for a, b in pairwise(edges)]


def fed(reader: LineReader | EventReader, chunks: list[bytes]) -> list[object]:
    return [piece for chunk in chunks for piece in reader.feed(chunk)] + list(reader.end())


@pytest.mark.parametrize("cut", range(len(NDJSON) + 1))
def test_lines_are_the_same_for_every_cut(cut: int) -> None:
    assert fed(LineReader(), [NDJSON[:cut], NDJSON[cut:]]) == [b'{"a":1}', b'{"b":"x y"}', b'{"c":[]}']


@pytest.mark.parametrize("cut", range(len(SSE) + 1))
def test_events_are_the_same_for_every_cut(cut: int) -> None:
    assert fed(EventReader(), [SSE[:cut], SSE[cut:]]) == EVENTS


def test_single_bytes_give_the_same_events() -> None:
    single = [SSE[i : i + 1] for i in range(len(SSE))]
    assert fed(EventReader(), single) == EVENTS


LINE_ENDS = (b"\n", b"\r", b"\r\n")


@pytest.mark.parametrize("ends", [(one, other) for one in LINE_ENDS for other in LINE_ENDS])
def test_events_are_the_same_for_every_line_end_and_cut(ends: tuple[bytes, bytes]) -> None:
    """One end is that of lines with data, and the other that of empty lines. (CR and LF together are one end.)"""
    stream = b"".join(b"event: e" + ends[0] + b"data: %d" % number + ends[0] + ends[1] for number in range(3))
    if ends == (b"\r", b"\n"):
        stream = stream.replace(b"\r\n", b"\r\r\n")
    expected = [Event(b"e", b"%d" % number) for number in range(3)]
    for cut in range(len(stream) + 1):
        assert fed(EventReader(), [stream[:cut], stream[cut:]]) == expected
        line_ends = LineEnds()
        written = line_ends.feed(stream[:cut]) + line_ends.feed(stream[cut:]) + line_ends.held
        assert fed(EventReader(), [written]) == expected
        assert b"\r" not in written.replace(b"\r\n", b"").removesuffix(b"\r")
    assert fed(EventReader(), [stream[i : i + 1] for i in range(len(stream))]) == expected


def test_an_event_is_complete_with_its_empty_line_whatever_ends_the_lines() -> None:
    for end in LINE_ENDS:
        sent = b"data: x" + end + end
        assert EventReader().feed(sent) == [Event(b"", b"x")]
        assert LineEnds().feed(sent).endswith((b"\n\n", b"\r\n\r\n"))


def test_a_byte_order_mark_is_left_out() -> None:
    events = EventReader().feed(b"\xef\xbb\xbfdata: a\n\ndata: b\n\n")
    assert [event.data for event in events] == [b"a", b"b"]


def test_event_without_its_blank_line_is_returned_at_the_end() -> None:
    reader = EventReader()
    assert reader.feed(b"data: [DONE]\n") == []
    assert reader.end() == [Event(b"", b"[DONE]")]
    assert reader.end() == []


@given(st.binary(max_size=60), st.binary(max_size=8).filter(lambda n: b"\n" not in n and b"\r" not in n))
def test_encoded_event_is_decoded(data: bytes, name: bytes) -> None:
    data, name = data.replace(b"\r", b""), name.removeprefix(b" ")
    assert EventReader().feed(event(data, name)) == [Event(name, data)]


@given(text_lines, st.lists(st.integers(0, 300), max_size=6))
def test_lines_are_the_same_for_every_chunking(lines: list[bytes], points: list[int]) -> None:
    chunks = cuts(b"\n".join(lines), points)
    assert fed(LineReader(), chunks) == [line for line in lines if line.strip()]


@given(text_lines, st.booleans(), st.lists(st.integers(0, 300), max_size=6))
def test_last_line_is_found_for_every_chunking(lines: list[bytes], closed: bool, points: list[int]) -> None:
    watch = LastLine()
    for chunk in cuts(b"\n".join(lines) + b"\n" * closed, points):
        watch.feed(chunk)
    wanted = [line for line in lines if line.strip()]
    assert (watch.line.whole or b"").strip() == (wanted[-1].strip() if wanted else b"")


@given(st.lists(st.binary(max_size=40), max_size=20))
def test_readers_raise_only_value_errors(chunks: list[bytes]) -> None:
    for reader in (LineReader(32), EventReader(32)):
        try:
            fed(reader, chunks)
        except ValueError:
            continue


@pytest.mark.parametrize("reader", [LineReader(100), EventReader(100)], ids=["line", "event"])
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_line_over_the_limit_is_rejected_for_every_chunking(reader: LineReader | EventReader, size: int) -> None:
    data = b"data: " + b"x" * 100 + b"\n\n"
    with pytest.raises(ValueError, match="longer than 100 bytes"):
        for at in range(0, len(data), size):
            reader.feed(data[at : at + size])


def test_event_of_many_lines_over_the_limit_is_rejected() -> None:
    reader = EventReader(100)
    with pytest.raises(ValueError, match="the event is longer than 100 bytes"):
        for _ in range(30):
            reader.feed(b"data: four\n")


def test_line_of_exactly_the_limit_is_accepted() -> None:
    assert LineReader(10).feed(b"x" * 10 + b"\n") == [b"x" * 10]


def test_document_over_the_limit_is_rejected() -> None:
    reader = DocumentReader(10)
    reader.feed(b"x" * 10)
    assert reader.end() == b"x" * 10
    with pytest.raises(ValueError, match="longer than 10 bytes"):
        reader.feed(b"x")


def test_only_head_and_tail_of_a_long_line_are_stored() -> None:
    ends = HeadAndTail(kept_max_bytes=10_000)
    for i in range(1001):
        ends.feed(b"%09d " % i)
        assert len(ends.tail) <= ENDS_BYTES
    assert ends.whole is None
    assert ends.head == b"".join(b"%09d " % i for i in range(1001))[:ENDS_BYTES]
    assert ends.tail.endswith(b"000000999 000001000 ")


def test_short_line_after_a_long_one_is_stored_completely() -> None:
    watch = LastLine(kept_max_bytes=10_000)
    watch.feed(b"x" * 20_000)
    assert watch.line.whole is None
    watch.feed(b"\nshort")
    assert watch.line.whole == b"short"


@given(st.lists(st.binary(max_size=50), max_size=30))
def test_tail_stores_the_last_bytes(chunks: list[bytes]) -> None:
    tail = Tail(keep_bytes=16)
    for chunk in chunks:
        tail.feed(chunk)
    everything = b"".join(chunks)
    assert everything.endswith(bytes(tail))
    assert min(len(everything), 16) <= len(bytes(tail)) <= 32
