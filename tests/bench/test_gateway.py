"""The gateway benchmark measures what it says: whole answers are whole, broken ones are noticed, ratios are ratios."""

from __future__ import annotations

import http.client
import json
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2]))  # benchmarks are no part of the installed package

from bench.gateway import table
from bench.gateway.gateways import heartbeat
from bench.gateway.instruments import CHUNKS, Load, Reading, Tools, compiled, compiler, measured, read, stub
from bench.gateway.machine import Trouble
from bench.gateway.scenarios import MODEL, PATH, SCENARIOS, Scenario, body
from bench.gateway.table import Cell
from herd.agent_protocol.heartbeat_decode import decode

needs_instruments = pytest.mark.skipif(
    compiler() is None or sys.platform != "linux",
    reason="THE STUB AND THE LOAD GENERATOR ARE NOT TESTED: they need Linux and a C compiler (cc, gcc or clang)",
)


@pytest.fixture(scope="module")
def tools() -> Tools:
    return compiled()


@pytest.fixture
def port(tools: Tools, tmp_path: Path) -> Iterator[int]:
    with stub(tools, None, tmp_path) as port:
        yield port


def asked(port: int, path: str, question: dict[str, object] | None = None) -> tuple[http.client.HTTPResponse, bytes]:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10.0)) as connection:
        connection.request("POST" if question else "GET", path, json.dumps(question) if question else None)
        answer = connection.getresponse()
        return answer, answer.read()


@needs_instruments
def test_stub_answers_whole_and_counts_its_tokens(port: int) -> None:
    _, answer = asked(port, PATH, body(MODEL, stream=False))
    assert json.loads(answer)["usage"]["completion_tokens"] == CHUNKS
    assert 550 <= len(answer) <= 650


@needs_instruments
def test_stub_streams_events_that_end_with_done(port: int) -> None:
    answer, stream = asked(port, PATH, body(MODEL, stream=True))
    events = stream.decode().split("\n\n")
    assert answer.getheader("Content-Type") == "text/event-stream"
    assert events[-2:] == ["data: [DONE]", ""]
    assert [json.loads(event.removeprefix("data: "))["object"] for event in events[:-2]] == [
        "chat.completion.chunk"
    ] * CHUNKS


@needs_instruments
def test_stub_streams_lines_on_ollamas_path(port: int) -> None:
    _, stream = asked(port, "/api/chat", body(MODEL, stream=True))
    lines = [json.loads(line) for line in stream.splitlines()]
    assert [line["done"] for line in lines] == [False] * CHUNKS + [True]


@needs_instruments
@pytest.mark.parametrize("path", ["/api/version", "/api/tags", "/api/ps", "/v1/models", "/health"])
def test_stub_answers_what_gateways_ask_beforehand(port: int, path: str) -> None:
    answer, told = asked(port, path)
    assert answer.status == 200 and json.loads(told)


@needs_instruments
@pytest.mark.parametrize("scenario", [s for s in SCENARIOS if s.key in ("c32", "streams")], ids=lambda s: s.key)
def test_generator_finds_the_stubs_answers_whole_and_keeps_its_connections(
    scenario: Scenario, tools: Tools, port: int, tmp_path: Path
) -> None:
    load = scenario.load
    reading = measured(tools, load, port, 0.1, 0.0, tmp_path)
    assert reading.answers > 0 and reading.errors == 0
    assert reading.connects == load.connections


@needs_instruments
@pytest.mark.parametrize(
    ("lines", "tail", "path"),
    [
        (7, "data: [DONE]\n\n", PATH),
        ((CHUNKS + 1) * 2, "something else", PATH),
        ((CHUNKS + 1) * 2, "data: [DONE]\n\n", "/health"),
    ],
    ids=["other length", "other end", "other answer"],
)
def test_generator_counts_an_answer_that_is_not_what_was_wanted(
    lines: int, tail: str, path: str, tools: Tools, port: int, tmp_path: Path
) -> None:
    reading = measured(tools, Load(1, path, body(MODEL, stream=True), lines, tail), port, 0.1, 0.0, tmp_path)
    assert reading.errors > 0 and reading.answers == 0
    assert reading.reason


@needs_instruments
def test_generator_that_finds_nobody_says_so(tools: Tools, tmp_path: Path) -> None:
    with pytest.raises(Trouble, match="refused"):
        measured(tools, SCENARIOS[0].load, 1, 0.1, 0.0, tmp_path)


def test_without_a_compiler_there_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(Trouble, match=r"^no C compiler .* was found.*$"):
        compiled()


def test_what_is_no_reading_is_refused() -> None:
    with pytest.raises(Trouble, match="something else"):
        read("Segmentation fault")


def test_the_benchmarks_node_is_one_the_coordinator_believes() -> None:
    report = decode(heartbeat(1234), "127.0.0.1")
    assert report.engines[0].slots == 512
    assert all(card.loaded is not None for card in report.models.values()) and len(report.models) == 2


# --- from readings to a table ---


def a_reading(**changed: object) -> Reading:
    told = dict.fromkeys(Reading.__dataclass_fields__, 0) | {"seconds": 2.0, "reason": ""} | changed
    return read(json.dumps(told))


def a_cell(answers_per_s: float = 1000.0, **changed: float) -> Cell:
    return Cell(
        **dict.fromkeys(Cell.__dataclass_fields__, 0.0) | {"answers_per_s": answers_per_s, "core_share": 1.0} | changed
    )


def test_a_cell_counts_per_second_of_the_window_and_cpu_per_answer_of_the_whole_run() -> None:
    reading = a_reading(answers=2000, all_answers=2500, p50_us=250, connects=33, errors=1, stuck=2)
    found = table.cell(reading, connections=32, cpu_s=1.25, wall_s=2.5, is_stream=False)
    assert (found.answers_per_s, found.core_share) == (1000.0, 0.5)
    assert found.cpu_us == pytest.approx(500.0)
    assert (found.p50_ms, found.reconnects, found.errors, found.chunks_per_s) == (0.25, 1, 3, 0.0)


def test_a_stream_counts_its_chunks_without_the_last_event() -> None:
    lines = (CHUNKS + 1) * 2 * 10
    found = table.cell(a_reading(lines=lines, all_lines=lines), 256, cpu_s=1.0, wall_s=2.0, is_stream=True)
    assert found.chunks_per_s == pytest.approx(CHUNKS * 10 / 2.0)
    assert found.cpu_us == pytest.approx(1e5)


def test_medians_hide_one_bad_round_but_no_error() -> None:
    cells = [a_cell(10.0), a_cell(1.0, errors=3.0), a_cell(11.0)]
    found = table.medians({"herd": {"c32": cells}})["herd"]["c32"]
    assert (found.answers_per_s, found.errors) == (10.0, 3.0)


def test_ratios_compare_chunks_of_streams_and_answers_otherwise() -> None:
    found = {
        "nginx": {"c32": a_cell(4000.0), "streams": a_cell(1.0, chunks_per_s=200.0)},
        "herd": {"c32": a_cell(1000.0), "streams": a_cell(1.0, chunks_per_s=300.0)},
    }
    assert table.rate_ratio(found, "herd", "nginx", "c32") == 0.25
    assert table.rate_ratio(found, "herd", "nginx", "streams") == 1.5
    assert table.rate_ratio(found, "herd", "sglang-router", "c32") is None


def test_aims_say_which_were_met_and_which_not_measured() -> None:
    found = {
        "direct": {"c1": a_cell(p50_ms=0.1)},
        "herd": {"c1": a_cell(p50_ms=0.3), "paced": a_cell(first_p99_ms=9.0)},
    }
    told = "\n".join(table.aims(found, {"herd": 50 << 20}))
    assert "added p50 with one connection, ms: 0.20 (met)" in told
    assert "first byte p99 of 256 paced streams, ms: 9.00 (MISSED)" in told
    assert "x nginx: not measured" in told


def test_a_warning_is_given_where_the_generator_is_the_limit() -> None:
    found = {"direct": {"c32": a_cell(1500.0)}, "herd": {"c32": a_cell(1000.0, core_share=0.5)}}
    assert ["generator's limit" in warning for warning in table.warnings(found)] == [True]
    found["direct"]["c32"] = a_cell(9000.0)
    found["herd"]["c32"] = a_cell(1000.0)
    assert table.warnings(found) == []


def test_tables_have_a_row_for_everybody_even_with_cells_missing() -> None:
    drawn = table.tables({"direct": {}, "herd": {"c32": a_cell(7000.0)}}, {})
    assert drawn.count("| herd") == 2 and drawn.count("| direct") == 2 and "7.0k" in drawn
