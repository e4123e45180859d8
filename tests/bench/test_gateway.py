"""The gateway benchmark counts only correct answers, and computes its medians, ratios and warnings correctly."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2]))  # benchmarks are not part of the installed package

from bench.gateway import table
from bench.gateway.gateways import ollama_heartbeat, openai_heartbeat
from bench.gateway.instructions import grown_figures, read_totals
from bench.gateway.instruments import CHUNKS, Load, Reading, Tools, compiled, compiler, measured, read, stub
from bench.gateway.machine import BenchmarkError
from bench.gateway.offline import Fleet, run
from bench.gateway.offline_answers import CASES
from bench.gateway.probe import probe
from bench.gateway.scenarios import MODEL, OPENAI, OPENAI_URL_PATH, SCENARIOS, TRANSLATED, Scenario, body
from bench.gateway.stages import STAGES
from bench.gateway.table import Cell
from herd.agent_protocol.heartbeat_decode import decode

ROOT = Path(__file__).resolve().parents[2]

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


def ask(port: int, path: str, question: dict[str, object] | None = None) -> tuple[http.client.HTTPResponse, bytes]:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10.0)) as connection:
        connection.request("POST" if question else "GET", path, json.dumps(question) if question else None)
        answer = connection.getresponse()
        return answer, answer.read()


@needs_instruments
def test_the_stub_gives_a_complete_answer_with_its_token_count(port: int) -> None:
    _, answer = ask(port, OPENAI_URL_PATH, body(OPENAI_URL_PATH, MODEL, stream=False))
    assert json.loads(answer)["usage"]["completion_tokens"] == CHUNKS
    assert 550 <= len(answer) <= 650


@needs_instruments
def test_the_stub_streams_events_that_end_with_done(port: int) -> None:
    answer, stream = ask(port, OPENAI_URL_PATH, body(OPENAI_URL_PATH, MODEL, stream=True))
    events = stream.decode().split("\n\n")
    assert answer.getheader("Content-Type") == "text/event-stream"
    assert events[-2:] == ["data: [DONE]", ""]
    assert [json.loads(event.removeprefix("data: "))["object"] for event in events[:-2]] == [
        "chat.completion.chunk"
    ] * CHUNKS


@needs_instruments
def test_the_stub_streams_lines_in_ollamas_format(port: int) -> None:
    _, stream = ask(port, "/api/chat", body("/api/chat", MODEL, stream=True))
    lines = [json.loads(line) for line in stream.splitlines()]
    assert [line["done"] for line in lines] == [False] * CHUNKS + [True]


@needs_instruments
@pytest.mark.parametrize("path", ["/api/version", "/api/tags", "/api/ps", "/v1/models", "/health"])
def test_the_stub_answers_the_health_checks_of_gateways(port: int, path: str) -> None:
    answer, content = ask(port, path)
    assert answer.status == 200 and json.loads(content)


DIRECT = [scenario for scenario in SCENARIOS if scenario.path is not TRANSLATED]


@needs_instruments
@pytest.mark.parametrize("scenario", DIRECT, ids=lambda scenario: scenario.key)
def test_the_probe_accepts_the_stubs_answers(scenario: Scenario, port: int) -> None:
    answer = probe(port, scenario)
    assert answer.lines == {"openai": 2 * (CHUNKS + 1), "ollama": CHUNKS + 1}[scenario.path.key] * scenario.is_stream


@needs_instruments
def test_the_probe_refuses_another_text_and_another_format(port: int) -> None:
    complete, stream = (next(s for s in SCENARIOS if s.key == key) for key in ("c1", "streams"))
    with pytest.raises(BenchmarkError, match="not the stub's"):
        probe(port, replace(complete, is_stream=True))
    with pytest.raises(BenchmarkError, match="not valid"):
        probe(port, replace(stream, path=replace(OPENAI, url_path="/health")))


@needs_instruments
@pytest.mark.parametrize("key", ["c32", "streams", "ollama-c32", "ollama-streams"])
def test_the_generator_accepts_the_stubs_answers_and_keeps_its_connections(
    key: str, tools: Tools, port: int, tmp_path: Path
) -> None:
    scenario = next(one for one in SCENARIOS if one.key == key)
    load = replace(scenario.load, connections=8, lines=probe(port, scenario).lines)
    reading = measured(tools, load, port, 0.2, 0.0, tmp_path)
    assert reading.answers > 0 and reading.errors == 0
    assert reading.connects == load.connections


@needs_instruments
@pytest.mark.parametrize(
    ("lines", "end", "url_path"),
    [
        (7, "data: [DONE]\n\n", OPENAI_URL_PATH),
        ((CHUNKS + 1) * 2, "something else", OPENAI_URL_PATH),
        ((CHUNKS + 1) * 2, "data: [DONE]\n\n", "/health"),
    ],
    ids=["other length", "other end", "other answer"],
)
def test_the_generator_counts_an_incorrect_answer_as_an_error(
    lines: int, end: str, url_path: str, tools: Tools, port: int, tmp_path: Path
) -> None:
    reading = measured(
        tools, Load(1, url_path, body(url_path, MODEL, stream=True), end, lines), port, 0.1, 0.0, tmp_path
    )
    assert reading.errors > 0 and reading.answers == 0
    assert reading.reason


@needs_instruments
def test_the_generator_reports_a_refused_connection(tools: Tools, tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="refused"):
        measured(tools, SCENARIOS[0].load, 1, 0.1, 0.0, tmp_path)


def test_without_a_compiler_the_error_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(BenchmarkError, match=r"^no C compiler .* was found.*$"):
        compiled()


def test_unexpected_output_of_the_generator_is_an_error() -> None:
    with pytest.raises(BenchmarkError, match="something unexpected"):
        read("Segmentation fault")


@pytest.mark.parametrize(("heartbeat", "models"), [(openai_heartbeat, 3), (ollama_heartbeat, 3)])
def test_the_benchmarks_nodes_send_valid_heartbeats(heartbeat: Callable[[int], bytes], models: int) -> None:
    report = decode(heartbeat(1234), "127.0.0.1")
    assert report.engines[0].slots == 512
    assert all(model_info.loaded is not None for model_info in report.models.values()) and len(report.models) == models


# --- from readings to a table ---


def a_reading(**changed: object) -> Reading:
    fields = dict.fromkeys(Reading.__dataclass_fields__, 0) | {"seconds": 2.0, "reason": ""} | changed
    return read(json.dumps(fields))


def a_cell(answers_per_s: float = 1000.0, **changed: float) -> Cell:
    return Cell(
        **dict.fromkeys(Cell.__dataclass_fields__, 0.0) | {"answers_per_s": answers_per_s, "core_share": 1.0} | changed
    )


def test_rates_are_of_the_window_and_cpu_time_is_of_the_complete_run() -> None:
    reading = a_reading(answers=2000, all_answers=2500, p50_us=250, connects=33, errors=1, stuck=2)
    found = table.cell(reading, Load(32, OPENAI_URL_PATH, {}, ""), cpu_s=1.25, wall_s=2.5)
    assert (found.answers_per_s, found.core_share) == (1000.0, 0.5)
    assert found.cpu_us == pytest.approx(500.0)
    assert (found.p50_ms, found.reconnects, found.errors, found.chunks_per_s) == (0.25, 1, 3, 0.0)


def test_the_last_event_of_a_stream_is_not_counted_as_a_chunk() -> None:
    load = Load(256, OPENAI_URL_PATH, {}, "", lines=(CHUNKS + 1) * 2)
    found = table.cell(a_reading(lines=load.lines * 10, all_lines=load.lines * 10), load, cpu_s=1.0, wall_s=2.0)
    assert found.chunks_per_s == pytest.approx(CHUNKS * 10 / 2.0)
    assert found.cpu_us == pytest.approx(1e5)


def test_a_median_ignores_one_bad_round_but_keeps_its_errors() -> None:
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


def test_goals_are_met_missed_or_not_measured() -> None:
    found = {
        "direct": {"c1": a_cell(p50_ms=0.1)},
        "herd": {"c1": a_cell(p50_ms=0.3), "paced": a_cell(first_p99_ms=9.0)},
    }
    text = "\n".join(table.goals(found, {"herd": 50 << 20}))
    assert "added p50 with one connection, ms: 0.20 (met)" in text
    assert "first byte p99 of 256 paced streams, ms: 9.00 (MISSED)" in text
    assert "x nginx: not measured" in text


def test_a_warning_names_the_generator_as_the_limit() -> None:
    found = {"direct": {"c32": a_cell(1500.0)}, "herd": {"c32": a_cell(1000.0, core_share=0.5)}}
    assert ["generator's limit" in warning for warning in table.warnings(found)] == [True]
    found["direct"]["c32"] = a_cell(9000.0)
    found["herd"]["c32"] = a_cell(1000.0)
    assert table.warnings(found) == []


def test_tables_have_a_row_for_every_gateway_even_with_cells_missing() -> None:
    drawn = table.tables({"direct": {}, "herd": {"c32": a_cell(7000.0)}}, {})
    assert drawn.count("| herd") == 3 and drawn.count("| direct") == 2 and drawn.count("7.0k") == 2


def test_a_translated_answer_is_compared_with_a_direct_one() -> None:
    found = {"direct": {"c32": a_cell(1500.0)}, "herd": {"translated-c32": a_cell(1000.0, core_share=0.5)}}
    assert ["generator's limit" in warning for warning in table.warnings(found)] == [True]


@needs_instruments
def test_every_stage_is_passed_by_every_kind_of_request() -> None:
    argv = [sys.executable, "-m", "bench.gateway", "--stages", "--smoke"]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(title in done.stdout for title, _, _ in STAGES)


def test_only_a_figure_that_has_grown_by_more_than_the_limit_fails() -> None:
    before = {"a": 1000, "b": 1000, "no longer counted": 1000}
    assert grown_figures({"a": 1030, "b": 900, "new": 5000}, before) == []
    assert grown_figures({"a": 1040, "b": 900}, before) == ["a: 1040 instructions, +4.0%: more than +3%"]


def test_the_counts_of_the_first_thread_are_read_by_name(tmp_path: Path) -> None:
    (tmp_path / "out.7.1-01").write_text("desc: Trigger: Client Request: openai 64 1\nevents: Ir\ntotals: 12\n")
    (tmp_path / "out.7.1-02").write_text("desc: Trigger: Client Request: openai 64 1\nevents: Ir\ntotals: 99\n")
    (tmp_path / "out.7.2-01").write_text("desc: Trigger: Program termination\nevents: Ir\ntotals: 5\n")
    assert dict(read_totals(tmp_path)) == {"openai 64 1": 12}


@needs_instruments
def test_every_counted_request_gets_the_expected_answer() -> None:
    async def check(fleet: Fleet) -> None:
        for case in CASES:
            for stream in (True, False) if case.whole else (True,):
                await fleet.check(case, stream)

    run(check)
