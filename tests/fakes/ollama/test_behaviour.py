"""The fake Ollama behaves like a real one over several requests: loads, slots, queues, keep_alive and faults."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
from typing import Any

import pytest

from fakes.answer_comparison import ask
from fakes.clock import ManualClock
from fakes.faults import Counting, Cut, EndsEarly, Garbage, Gate, Hang, How, RunnerDies, Status
from fakes.ollama.reloads import RELOADS
from fakes.ollama.server import FakeModel, FakeOllama, FakeSettings

MESSAGES = [{"role": "user", "content": "Say hi."}]


def post(fake: FakeOllama, path: str, **body: Any) -> tuple[int, Any]:
    """The status and the JSON of a complete answer; NDJSON as a list."""
    answer = ask(fake.port, "POST", path, json.dumps(body).encode())
    lines = answer.body.splitlines()
    return answer.status, json.loads(answer.body) if len(lines) == 1 else [json.loads(line) for line in lines]


def chat(fake: FakeOllama, model: str = "m", **more: Any) -> Any:
    status, value = post(fake, "/api/chat", model=model, messages=more.pop("messages", MESSAGES), stream=False, **more)
    assert status == 200, value
    return value


def test_fake_reloads_exactly_when_real_ollama_does() -> None:
    with FakeOllama(["m"]) as fake:
        observed = []
        for more, _ in RELOADS:
            before = len(fake.loads)
            chat(fake, **more)
            observed.append((more, len(fake.loads) > before))
        assert observed == RELOADS
        assert fake.reloads == len(fake.loads) - 1


def test_two_names_of_one_file_share_a_runner_and_reload_if_their_windows_differ() -> None:
    models = [FakeModel(name="a", blob="b" * 64), FakeModel(name="b", blob="b" * 64, parameters={"num_ctx": 1024})]
    with FakeOllama(models) as fake:
        chat(fake, "a")
        chat(fake, "b")
        assert fake.loaded == ["b:latest"]
        assert [load.settings.num_ctx for load in fake.loads] == [4096, 1024]


def test_fourth_model_evicts_the_model_that_expires_first() -> None:
    with FakeOllama(["a", "b", "c", "d"]) as fake:
        for name, keep_alive in (("a", "10m"), ("b", "1m"), ("c", -1), ("d", "5m")):
            chat(fake, name, keep_alive=keep_alive)
        assert fake.loaded == ["c:latest", "a:latest", "d:latest"]


def test_idle_model_is_unloaded_after_its_keep_alive() -> None:
    clock = ManualClock()
    with FakeOllama([FakeModel(name="m", load_s=0)], clock=clock) as fake:
        chat(fake, keep_alive="2m")
        clock.advance(119)
        assert fake.loaded == ["m:latest"]
        clock.advance(2)
        assert fake.loaded == []


def test_request_without_prompt_loads_and_keep_alive_0_unloads() -> None:
    with FakeOllama(["m"]) as fake:
        assert post(fake, "/api/generate", model="m")[1]["done_reason"] == "load"
        assert fake.loaded == ["m:latest"]
        assert post(fake, "/api/chat", model="m", keep_alive=0)[1]["done_reason"] == "unload"
        assert fake.loaded == []


@pytest.mark.parametrize(
    ("given", "text"), [("bogus", 'time: invalid duration "bogus"'), (True, "Unsupported type: 'bool'")]
)
def test_invalid_keep_alive_is_rejected_with_gos_message(given: Any, text: str) -> None:
    with FakeOllama(["m"]) as fake:
        assert post(fake, "/api/chat", model="m", messages=MESSAGES, keep_alive=given) == (400, {"error": text})


def test_requests_for_a_loaded_model_get_slots_in_order() -> None:
    async def scenario() -> None:
        async with FakeOllama(["m"], FakeSettings(num_parallel=1, max_queue=1)) as fake:
            await asyncio.to_thread(chat, fake)
            gate = fake.fail(Gate(at="chunk", chunk=0))
            waiting = [asyncio.create_task(asyncio.to_thread(chat, fake)) for _ in range(4)]
            await fake.until(lambda: len(fake.running) == 4 and gate.reached == 1)
            gate.release()
            await asyncio.gather(*waiting)
            assert [seen.status for seen in fake.requests] == [200] * 5

    asyncio.run(scenario())


def test_full_load_queue_answers_503() -> None:
    async def scenario() -> None:
        async with FakeOllama(["m", "other"], FakeSettings(max_loaded=1, max_queue=2)) as fake:
            gate = fake.fail(Gate(at="chunk", chunk=1, model="m"))
            busy = asyncio.create_task(asyncio.to_thread(chat, fake))
            await fake.until(lambda: gate.reached == 1)
            body = json.dumps({"model": "other", "messages": MESSAGES}).encode()
            asked = [
                asyncio.create_task(asyncio.to_thread(ask, fake.port, "POST", "/api/chat", body)) for _ in range(8)
            ]
            await fake.until(lambda: sum(seen.status == 503 for seen in fake.requests) == 5)
            gate.release()
            answers = await asyncio.gather(*asked)
            await busy
            assert sorted(answer.status for answer in answers) == [200] * 3 + [503] * 5
            text = "server busy, please try again.  maximum pending requests exceeded"
            assert {answer.body for answer in answers if answer.status == 503} == {b'{"error":"%s"}' % text.encode()}

    asyncio.run(scenario())


def test_loading_model_is_not_listed() -> None:
    with FakeOllama(["m"]) as fake:
        gate = fake.fail(Gate(at="load"))
        with socket.create_connection(("127.0.0.1", fake.port)) as client:
            client.sendall(b'POST /api/generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: 13\r\n\r\n{"model":"m"}')
            fake.wait(lambda: gate.reached, "the load")
            assert json.loads(ask(fake.port, "GET", "/api/ps").body) == {"models": []}
            gate.release()
            fake.wait(lambda: fake.loaded, "the model")


@pytest.mark.parametrize("seed", range(20))
def test_answer_continued_from_any_prefix_equals_the_uninterrupted_answer(seed: int) -> None:
    with FakeOllama(["m"]) as fake, FakeOllama(["m"]) as another:
        whole = chat(fake, options={"seed": seed})["message"]["content"]
        for cut in range(1, len(whole)):
            begun = [*MESSAGES, {"role": "assistant", "content": whole[:cut]}]
            rest = chat(another, messages=begun, options={"seed": seed})["message"]["content"]
            assert whole[:cut] + rest == whole, f"seed {seed}, cut {cut}"
            if seed:
                break


def test_answer_depends_only_on_model_conversation_and_seed() -> None:
    def text_of(fake: FakeOllama, **more: Any) -> str:
        return str(chat(fake, **more)["message"]["content"])

    with FakeOllama(["m", "n"]) as fake, FakeOllama(["m"]) as another:
        first = text_of(fake, options={"seed": 1})
        assert text_of(another, options={"seed": 1, "temperature": 2}) == first
        assert text_of(fake, model="m:latest", options={"seed": 1}) == first
        assert text_of(fake, options={"seed": 2}) != first
        assert text_of(fake, model="n", options={"seed": 1}) != first
        assert text_of(fake, messages=[{"role": "user", "content": "Say ho."}], options={"seed": 1}) != first


def test_streamed_chunks_equal_the_complete_answer_in_every_api() -> None:
    with FakeOllama(["m"]) as fake:
        whole = chat(fake)["message"]["content"]
        pieces = post(fake, "/api/chat", model="m", messages=MESSAGES)[1]
        assert "".join(piece["message"]["content"] for piece in pieces) == whole
        openai = post(fake, "/v1/chat/completions", model="m", messages=MESSAGES)[1]
        assert openai["choices"][0]["message"]["content"] == whole
        anthropic = post(fake, "/v1/messages", model="m", messages=MESSAGES, max_tokens=1000)[1]
        assert anthropic["content"] == [{"type": "text", "text": whole}]


def test_disconnected_client_frees_its_slot_and_is_recorded() -> None:
    with FakeOllama(["m"]) as fake:
        gate = fake.fail(Gate(at="chunk", chunk=2))
        connection = http.client.HTTPConnection("127.0.0.1", fake.port)
        connection.request("POST", "/api/chat", json.dumps({"model": "m", "messages": MESSAGES}))
        fake.wait(lambda: gate.reached, "the stream")
        connection.close()
        fake.wait(lambda: fake.aborted, "the client's leaving")
        fake.heal()
        assert fake.aborted[0].path == "/api/chat"
        assert chat(fake)["done"] is True


def raw_answer(fake: FakeOllama, stream: bool = True) -> bytes:
    """All received bytes of one chat answer."""
    body = json.dumps({"model": "m", "messages": MESSAGES, "stream": stream}).encode()
    head = f"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    received = b""
    with socket.create_connection(("127.0.0.1", fake.port)) as client:
        client.sendall(head.encode() + body)
        while data := client.recv(65536):
            received += data
    return received


@pytest.mark.parametrize("counting", list(Counting))
def test_cut_happens_after_the_exact_number_of_bytes(counting: Counting) -> None:
    with FakeOllama(["m"]) as fake:
        chat(fake)
        whole = raw_answer(fake, stream=False)
        head_length = whole.index(b"\r\n\r\n") + 4
        for after in (0, 1, 50, 200):
            fake.fail(Cut(how=How.FIN, after_bytes=after, counting=counting, times=1))
            sent = len(raw_answer(fake, stream=False))
            assert sent == after + (head_length if counting is Counting.BODY else 0)
        assert len(raw_answer(fake, stream=False)) == len(whole)


def test_reset_is_not_a_normal_end() -> None:
    with FakeOllama(["m"]) as fake:
        fake.fail(Cut(how=How.RESET, after_bytes=120, times=1))
        with pytest.raises(ConnectionResetError):
            raw_answer(fake)
        assert raw_answer(fake).endswith(b"0\r\n\r\n")


def test_stall_delays_the_rest_until_it_is_released() -> None:
    async def scenario() -> None:
        async with FakeOllama(["m"]) as fake:
            await asyncio.to_thread(chat, fake)
            whole = await asyncio.to_thread(raw_answer, fake, False)
            stall = fake.fail(Cut(how=How.STALL, after_bytes=130, times=1))
            slow = asyncio.create_task(asyncio.to_thread(raw_answer, fake, False))
            await fake.until(lambda: fake.requests[-1].outcome == "running" and len(fake.requests) == 3)
            stall.release()
            assert len(await slow) == len(whole)

    asyncio.run(scenario())


def test_hangs_invalid_data_and_statuses() -> None:
    with FakeOllama(["m"]) as fake:
        fake.fail(Garbage(data=b"nonsense", times=1))
        assert raw_answer(fake) == b"nonsense"
        fake.fail(Status(status=503, body=b"{}", times=1, path="/api/chat"))
        assert raw_answer(fake).startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
        hang = fake.fail(Hang(times=1))
        with socket.create_connection(("127.0.0.1", fake.port)) as client:
            client.sendall(b"GET /api/tags HTTP/1.1\r\nHost: localhost\r\n\r\n")
            fake.wait(lambda: hang.used, "the hang")
        fake.wait(lambda: fake.aborted, "the client's leaving")


def test_lost_runner_is_an_error_line_after_the_first_chunk_and_a_500_before_it() -> None:
    with FakeOllama(["m"]) as fake:
        fake.fail(RunnerDies(after_chunks=2, times=1))
        status, lines = post(fake, "/api/chat", model="m", messages=MESSAGES)
        assert (status, len(lines)) == (200, 3)
        assert lines[-1] == {"error": "an error was encountered while running the model: unexpected EOF"}
        fake.fail(RunnerDies(after_chunks=0, times=1))
        assert post(fake, "/api/chat", model="m", messages=MESSAGES)[0] == 500
        fake.fail(EndsEarly(after_chunks=2, times=1))
        assert [line["done"] for line in post(fake, "/api/chat", model="m", messages=MESSAGES)[1]] == [False, False]


def test_fake_that_refuses_connections_returns_on_the_same_port() -> None:
    with FakeOllama(["m"]) as fake:
        fake.refuse_now()
        with pytest.raises(ConnectionRefusedError):
            ask(fake.port, "GET", "/api/tags")
        fake.listen_now()
        assert ask(fake.port, "GET", "/api/tags").status == 200


def test_fault_for_one_model_does_not_affect_others() -> None:
    with FakeOllama(["m", "n"]) as fake:
        fake.fail(Status(model="m"))
        assert post(fake, "/api/chat", model="m:latest", messages=MESSAGES, stream=False)[0] == 500
        assert chat(fake, "n")["done"] is True


def test_pull_reports_progress_and_adds_the_model() -> None:
    registry = {"new:latest": FakeModel(name="new")}
    with FakeOllama([], FakeSettings(registry=registry)) as fake:
        lines = post(fake, "/api/pull", model="new")[1]
        assert lines[0] == {"status": "pulling manifest"}
        assert lines[-1] == {"status": "success"}
        completed = [line["completed"] for line in lines if "completed" in line]
        assert len(completed) > 1
        assert completed == sorted(completed)
        assert chat(fake, "new")["done"] is True
        unknown = post(fake, "/api/pull", model="old")[1]
        assert unknown[-1] == {"error": "pull model manifest: file does not exist"}
