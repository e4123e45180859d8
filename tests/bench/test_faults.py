"""The fault benchmark notices every broken promise; its own clients, engines and comparison are right."""

from __future__ import annotations

import json
import sqlite3
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2]))  # benchmarks are not part of the installed package

from bench.faults.answers import WORDS, Answer, Kind, count_tokens, find_answer, rest_of
from bench.faults.apis import APIS, Api, Read, body_of, is_embedding, read
from bench.faults.checking import (
    Attempt,
    Row,
    Run,
    detections,
    free_slots,
    is_right_thinking,
    problems,
    read_attempts,
    read_rows,
)
from bench.faults.clients import History
from bench.faults.engines import asked
from bench.faults.engines.asked import TURN
from bench.faults.engines.failures import failures_of
from bench.faults.engines.formats import Written, format_of
from bench.faults.engines.steps import Does, Step, add, steps_of
from bench.faults.fleet import NodePlan
from bench.faults.injecting import Fault
from bench.faults.injecting import Kind as FaultKind
from bench.faults.plot import ENDS, plot
from bench.faults.report import report

ANSWER = Answer(7, 20, 100)
CHAT = next(api for api in APIS if api.path == "/v1/chat/completions" and api.is_stream)
DIRECT = [api for api in APIS if not is_embedding(api) and api.path != "/v1/responses"]


def kinds_of(api: Api) -> list[Kind]:
    return [Kind.TEXT] + [Kind.CALL] * api.has_tools + [Kind.THOUGHT] * api.has_thinking


def served(api: Api, answer: Answer, limit: int | None = None) -> bytes:
    """The bytes of a scripted engine for a client's request."""
    request = asked.read(api.path, body_of(api, answer, limit), continues_turns=True)
    wire = format_of(api.path)
    assert request is not None and wire is not None and request.is_stream is api.is_stream
    steps, finish = steps_of(request)
    written = Written("history", finish=finish)
    pieces = [wire.start("history")]
    for step in steps:
        add(written, step, answer.arguments)
        pieces.append(written_step(wire, step, answer))
    return b"".join([*pieces, wire.end(written)]) if api.is_stream else wire.whole(written)


def written_step(wire: object, step: Step, answer: Answer) -> bytes:
    if step.does is Does.CALL:
        return wire.call(answer.arguments)  # type: ignore[attr-defined, no-any-return]
    if step.does is Does.THINKING:
        return wire.thinking(step.word)  # type: ignore[attr-defined, no-any-return]
    return wire.text(step.word)  # type: ignore[attr-defined, no-any-return]


def a_history(api: Api = CHAT, answer: Answer = ANSWER, end: str = "complete", **more: object) -> History:
    history = History(api=api, answer=answer, limit=None, sent_at=100.0, end=end, ended_at=110.0, status=200)
    history.read = Read(text="".join(answer.words), end="stop") if end == "complete" else Read()
    for name, value in more.items():
        setattr(history, name, value)
    return history


def a_run(*histories: History, rows: list[Row] | None = None, faults: list[Fault] | None = None) -> Run:
    statuses = {"complete": "completed", "refused": "failed", "broken": "failed_midstream", "lost": "failed"}
    expected = [Row(one.tag, statuses.get(one.end, "client_cancelled"), "a", "", "", 0) for one in histories]
    plans = [NodePlan("a", "llamacpp", 2, True), NodePlan("b", "ollama", 2, True)]
    attempts = [Attempt("a", one.answer.seed, 100.0, 110.0, "end") for one in histories]
    return Run(
        histories=list(histories),
        rows=expected if rows is None else rows,
        attempts=attempts,
        faults=faults or [],
        plans=plans,
    )


def broken(run: Run) -> list[str]:
    return [problem.promise for problem in problems(run)]


# --- answers ---


def test_every_word_is_one_token_and_the_mark_gives_the_answer_back() -> None:
    assert all(count_tokens(f"{word}3") == 1 for word in WORDS)
    assert count_tokens("".join(ANSWER.words)) == ANSWER.words_count
    assert find_answer(f"<<1:2:3:text>> and {ANSWER.mark}") == ANSWER
    assert find_answer("no mark") is None


def test_the_rest_of_an_answer_begins_at_any_character_and_only_after_its_own_beginning() -> None:
    text = "".join(ANSWER.words)
    for cut in range(len(text) + 1):
        rest = rest_of(ANSWER.words, text[:cut])
        assert rest is not None and text[:cut] + "".join(rest) == text
        assert rest_of(ANSWER.words, text[:cut] + "#") is None


@pytest.mark.parametrize(("api", "kind"), [(api, kind) for api in DIRECT for kind in kinds_of(api)])
@pytest.mark.parametrize("limit", [None, 3])
def test_clients_read_what_engines_write(api: Api, kind: Kind, limit: int | None) -> None:
    answer = replace(ANSWER, kind=kind)
    history = a_history(api, answer, limit=limit if kind is Kind.TEXT else None)
    history.read = read(api, served(api, answer, history.limit))
    assert not history.read.error and broken(a_run(history)) == []


@pytest.mark.parametrize("api", [api for api in DIRECT if api.is_stream], ids=lambda api: api.title)
def test_a_stream_that_is_cut_anywhere_is_never_complete(api: Api) -> None:
    whole = served(api, ANSWER).rstrip()
    for cut in range(len(whole)):
        found = read(api, whole[:cut])
        assert not found.end or found.error, whole[:cut][-80:]


def test_engines_continue_a_turn_a_prompt_and_a_rendered_prompt_and_notice_a_wrong_beginning() -> None:
    begun = "".join(ANSWER.words[:5])
    messages = [{"role": "user", "content": ANSWER.mark}, {"role": "assistant", "content": begun}]
    turn = asked.read("/v1/chat/completions", {"model": "m", "messages": messages}, continues_turns=True)
    prompt = asked.read("/v1/completions", {"model": "m", "prompt": ANSWER.mark + begun}, continues_turns=True)
    rendered = {"model": "m", "prompt": f"{ANSWER.mark}{TURN}{begun}", "raw": True}
    raw = asked.read("/api/generate", rendered, continues_turns=False)
    for request in (turn, prompt, raw):
        assert request is not None and len(steps_of(request)[0]) == ANSWER.words_count - 5
    new_turn = asked.read("/api/chat", {"model": "m", "messages": messages}, continues_turns=False)
    assert new_turn is not None and len(steps_of(new_turn)[0]) == ANSWER.words_count
    assert turn is not None and "WRONG" in steps_of(replace(turn, beginning="something else"))[0][0].word


@pytest.mark.parametrize("api", DIRECT, ids=lambda api: api.title)
def test_no_failure_of_an_engine_looks_like_the_end_of_an_answer(api: Api) -> None:
    begun = served(api, ANSWER)[:200].rpartition(b"\n\n" if b"\n\n" in served(api, ANSWER) else b"\n")[0] + b"\n\n"
    for failure in failures_of(api.path, api.is_stream):
        seen = failure.body if failure.status or not api.is_stream else begun + failure.body
        found = read(api, seen)
        known = found.end in ("stop", "length", "call") and not found.error
        assert not known, failure.name


def test_a_failed_response_keeps_what_was_streamed_and_is_not_complete() -> None:
    responses = next(api for api in APIS if api.path == "/v1/responses" and api.is_stream)
    events = [
        {"type": "response.reasoning_summary_text.delta", "delta": "Hm"},
        {"type": "response.output_text.delta", "delta": "Hi"},
        {"type": "response.failed", "response": {"status": "failed", "error": {"message": "x"}, "output": []}},
    ]
    found = read(responses, b"".join(f"data: {json.dumps(event)}\n\n".encode() for event in events))
    assert (found.thinking, found.text, found.end, found.error) == ("Hm", "Hi", "", '{"message": "x"}')


# --- what is noticed ---


def test_an_undisturbed_run_has_no_problem() -> None:
    assert broken(a_run(a_history(), a_history(answer=replace(ANSWER, seed=8), end="left"))) == []


@pytest.mark.parametrize(
    "seen",
    [
        Read(text="".join(ANSWER.words[:-1]), end="stop"),
        Read(text="".join(ANSWER.words) + " x", end="stop"),
        Read(text="".join(ANSWER.words), end="length"),
        Read(text="".join(ANSWER.words), end="stop", completion_tokens=19),
        Read(text="".join(ANSWER.words), end="stop", thinking="hm"),
    ],
)
def test_a_wrong_answer_is_noticed(seen: Read) -> None:
    assert broken(a_run(a_history(read=seen))) == ["the right text"]


@pytest.mark.parametrize("seed", range(40))
def test_thinking_that_was_begun_again_is_right_and_any_other_thinking_is_wrong(seed: int) -> None:
    answer = Answer(seed, 24, 100, Kind.THOUGHT)
    thinking = answer.words[: answer.thinking_words]
    whole, begun = "".join(thinking), "".join(thinking[: 1 + seed % 10])
    for right in (whole, f"{begun}\n\n{whole}", f"{begun}\n\n{begun}\n\n{whole}"):
        assert is_right_thinking(whole, right)
    for wrong in (begun, whole + "x", begun + whole, f"{begun}\n\n{begun}", f"{begun}x\n\n{whole}"):
        assert not is_right_thinking(whole, wrong)


def test_a_text_that_was_cut_after_its_thinking_is_counted_and_no_problem() -> None:
    answer = Answer(7, 20, 100, Kind.THOUGHT)
    begun = Read(text=answer.words[15], thinking="".join(answer.words[:15]))
    run = a_run(a_history(answer=answer, end="broken", read=begun))
    assert broken(run) == [] and "1 streams were cut in the text" in report(run, [], "a run")
    run.histories[0].read = Read(thinking="".join(answer.words[:15]))
    assert broken(run) == ["every begun answer is completed"]


def test_a_broken_answer_with_a_wrong_part_is_noticed_twice() -> None:
    promises = broken(a_run(a_history(end="broken", read=Read(text="wrong"))))
    assert promises == ["the right text", "every begun answer is completed"]


def test_missing_doubled_wrong_and_foreign_rows_are_noticed() -> None:
    one = a_history()
    row = Row(one.tag, "completed", "a", "", "", 0)
    retried = replace(row, status="retried")
    assert broken(a_run(one, rows=[retried, row])) == []
    assert broken(a_run(one, rows=[retried])) == ["every request has a row"]
    assert broken(a_run(one, rows=[row, row])) == ["no request has two rows"]
    assert broken(a_run(one, rows=[replace(row, status="failed")])) == ["the row says what happened"]
    assert broken(a_run(one, rows=[row, replace(row, tag="h99")])) == ["every row has a request"]


def test_only_the_kill_of_the_coordinator_excuses_a_lost_request_and_its_row_must_say_so() -> None:
    lost = a_history(end="lost", status=0, error="ConnectionResetError")
    kill = Fault(FaultKind.COORDINATOR_KILLED, "", 109.9, 112.0, dead_at=109.95)
    lost_rows = [Row(lost.tag, "coordinator_lost", "", "", "", 0)]
    assert broken(a_run(lost, rows=lost_rows, faults=[kill])) == []
    assert broken(a_run(lost, rows=[], faults=[kill])) == ["every request has a row"]
    earlier = replace(kill, began_at=50.0, dead_at=50.1)
    assert broken(a_run(lost, rows=lost_rows, faults=[earlier])) == [
        "every begun answer is completed",
        "the row says what happened",
    ]


def test_a_refusal_is_judged_by_the_slots_that_were_free() -> None:
    refused = a_history(end="refused", status=503)
    run = a_run(refused)
    assert free_slots(run, 105.0) == 3 and broken(run) == ["no refusal with a free slot"]
    run.faults += [Fault(FaultKind.ENGINE_FROZEN, name, 100.0, 120.0) for name in "ab"]
    assert free_slots(run, 105.0) == 0 and broken(run) == ["every request is answered"]


def test_a_client_that_waits_for_ever_and_an_attempt_left_without_a_cause_are_noticed() -> None:
    assert "no client waits for ever" in broken(a_run(a_history(end="")))
    run = a_run(a_history())
    run.attempts[0].ended_at, run.attempts[0].how = 105.0, "cut"
    assert broken(run) == ["no false alarm"]
    run.faults.append(Fault(FaultKind.UNLOADED, "a", 101.0, 108.0))
    assert broken(run) == ["no false alarm"]
    run.faults.append(Fault(FaultKind.MODEL_FROZEN, "a", 101.0, 108.0))
    assert broken(run) == []


def test_a_freeze_is_detected_when_the_first_request_continues_elsewhere() -> None:
    run = a_run(a_history(ended_at=130.0), faults=[Fault(FaultKind.ENGINE_FROZEN, "a", 104.0, 120.0)])
    run.attempts[0].ended_at, run.attempts[0].how = 120.0, "cut"
    assert detections(run) == {FaultKind.ENGINE_FROZEN: [None]}
    run.attempts.append(Attempt("b", 7, 110.5, 128.0, "end"))
    assert detections(run) == {FaultKind.ENGINE_FROZEN: [6.5]}
    text = report(run, problems(run), "a run")
    assert "| engine frozen | 1 | 1 | 6.5 | 6.5 | 6.5 |" in text and "No promise is broken." in text


def test_rows_and_logs_are_read_from_outside(tmp_path: Path) -> None:
    database, log = tmp_path / "latency.db", tmp_path / "a.engine"
    with closing(sqlite3.connect(database)) as connection:
        connection.execute(
            "CREATE TABLE request_traces (id INTEGER PRIMARY KEY, tags, status, node_id, failure, error_message,"
            " retry_count)"
        )
        rows = [('["h7"]', "retried", "a", "frozen", None, 0), ('["h7"]', "completed", "b", None, None, 1)]
        connection.executemany("INSERT INTO request_traces VALUES (NULL, ?, ?, ?, ?, ?, ?)", rows)
        connection.commit()
    assert [row.status for row in read_rows(database)] == ["retried", "completed"]
    log.write_text("".join(json.dumps(line) + "\n" for line in [[1.0, "start", 7, "/"], [2.0, "cut", 7, "/"]]))
    assert read_attempts({"a": log, "b": tmp_path / "none"}) == [Attempt("a", 7, 1.0, 2.0, "cut")]


def test_the_plot_shows_each_fault_and_how_answers_ended() -> None:
    faults = [Fault(FaultKind.CUT, "a", 101.0, 104.0), Fault(FaultKind.CLOCK, "", 102.0, 103.0)]
    run = a_run(a_history(), a_history(answer=replace(ANSWER, seed=8), end="broken"), faults=faults)
    picture = ElementTree.fromstring(plot(run, problems(run)))
    titles = [title.text for title in picture.iter("{http://www.w3.org/2000/svg}title")]
    assert titles == ["network cut", "coordinator's clock jumps"]
    fills = [box.get("fill") for box in picture.iter("{http://www.w3.org/2000/svg}rect") if box.get("height") == "55.0"]
    assert sorted(map(str, fills)) == sorted([ENDS["complete"], ENDS["broken promise"]])
