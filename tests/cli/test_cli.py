"""Tests of the commands as processes: plain text in a pipe, JSON on request, colors on a terminal, clear errors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from fakes.child_process import Child, free_port
from fakes.faults import Gate
from fakes.fleet import Fleet, running_fleet, settings_for_tests
from fakes.ollama.server import FakeModel, FakeOllama
from herd import __version__
from herd.build_form import build_form
from herd.core.state.liveness import LivenessSettings
from terminal import ESCAPE, IS_POSIX, Terminal, command, environment, herd

MODELS = [
    FakeModel(name="m", answer="The herd is well."),
    FakeModel(name="a-model-with-a-rather-long-name:70b-instruct-q4_K_M"),
]
on_terminals = pytest.mark.skipif(
    not IS_POSIX, reason="no pseudo-terminals on this system: COLORS AND CTRL-C ARE NOT TESTED"
)


@pytest.fixture(scope="module")
def fake() -> Iterator[FakeOllama]:
    with FakeOllama(MODELS) as fake:
        yield fake


@pytest.fixture(scope="module")
def fleet(fake: FakeOllama) -> Iterator[Fleet]:
    patient = replace(
        settings_for_tests(), liveness=LivenessSettings(degraded_after_s=3600.0, offline_after_s=3600.0)
    )  # no heartbeats are sent while the terminal tests run
    with running_fleet({"alpha": fake, "a-second-machine-with-a-long-name.local": fake}, settings=patient) as running:
        done = herd("chat", "m", "How are you?", url=running.url)
        assert done.status == 0, done.err
        running.settle()
        running.coordinator.store.flush()
        running.beat()
        yield running


READ_COMMANDS = (("status",), ("models",), ("top",), ("why", "last"))


@pytest.mark.parametrize("arguments", READ_COMMANDS)
def test_piped_output_is_plain_text(fleet: Fleet, arguments: tuple[str, ...]) -> None:
    done = herd(*arguments, url=fleet.url)
    assert (done.status, done.err) == (0, "")
    assert ESCAPE not in done.out and done.out.isprintable() is False and "alpha" in done.out
    done.out.encode("cp1252")


@pytest.mark.parametrize("arguments", [*READ_COMMANDS, ("doctor",), ("config",), ("config", "--agent")])
def test_json_output_is_valid_json(fleet: Fleet, arguments: tuple[str, ...]) -> None:
    done = herd(*arguments, "--json", url=None if arguments[0] == "config" else fleet.url)
    assert json.loads(done.out)
    assert ESCAPE not in done.out


@on_terminals
@pytest.mark.parametrize("columns", [80, 140])
@pytest.mark.parametrize("arguments", [*READ_COMMANDS[:2], ("why", "last"), ("config", "port")])
def test_terminal_output_has_colors_and_no_wrapped_line(fleet: Fleet, arguments: tuple[str, ...], columns: int) -> None:
    with Terminal(*arguments, url=None if arguments[0] == "config" else fleet.url, columns=columns) as screen:
        assert screen.end() == 0
    assert ESCAPE in screen.raw
    assert [line for line in screen.text.splitlines() if len(line) > columns] == []


@on_terminals
def test_top_updates_until_ctrl_c_and_restores_the_terminal(fleet: Fleet) -> None:
    with Terminal("top", url=fleet.url) as screen:
        screen.until("Recent")
        screen.until("2 nodes online")
        screen.type("\x03")
        assert screen.end() == 0
    assert screen.raw.count("\x1b[2J") == 0, "the screen flickers"
    entered, left = screen.raw.find("\x1b[?1049h"), screen.raw.rfind("\x1b[?1049l")
    assert 0 <= entered < left
    assert screen.raw.rfind("\x1b[?25h") > screen.raw.rfind("\x1b[?25l"), "the cursor stays hidden"


# --- why ---


def test_why_shows_seconds_and_finds_a_request_by_a_prefix_of_its_id(fleet: Fleet) -> None:
    request_id = fleet.get("/dashboard/api/traces")["traces"][-1]["request_id"]
    done = herd("why", request_id[:-1] + request_id[-1:], url=fleet.url)
    assert done.lines[0].startswith(request_id)
    assert any("-> " in line and " s = " in line for line in done.lines), done.out


def test_an_unknown_request_is_reported_with_the_next_command(fleet: Fleet) -> None:
    done = herd("why", "zzz", url=fleet.url)
    assert done.status == 1 and done.err.splitlines()[0] == "no request 'zzz' is stored" and "herd why last" in done.err


def test_without_requests_why_shows_how_to_send_one() -> None:
    with running_fleet({}) as empty:
        done = herd("why", url=empty.url)
    assert done.status == 1 and done.err.splitlines() == [
        "there are no requests yet",
        "  send one with: herd chat MODEL",
    ]


# --- chat ---


def test_chat_prints_the_answer_the_node_and_the_command_that_explains_it(fleet: Fleet) -> None:
    done = herd("chat", "m", "How are you?", url=fleet.url)
    assert (done.status, done.out) == (0, "The herd is well.\n")
    assert "Routing decision: herd why r" in done.err


def test_chat_reads_a_piped_prompt_and_prints_json(fleet: Fleet) -> None:
    done = herd("chat", "m", "--json", url=fleet.url, stdin="How are you?\n")
    assert done.status == 0, done.err
    answer = json.loads(done.out)
    assert answer["answer"] == "The herd is well." and answer["node"] and answer["retries"] == 0


def test_an_unknown_model_is_reported_with_the_command_that_explains_it(fleet: Fleet) -> None:
    done = herd("chat", "nope", "x", url=fleet.url)
    assert (done.status, done.out) == (1, "")
    assert "model 'nope' not found" in done.err and "herd why r" in done.err


def test_an_empty_prompt_is_an_error(fleet: Fleet) -> None:
    done = herd("chat", "m", url=fleet.url, stdin="\n")
    assert done.status == 1 and "the prompt is empty" in done.err


@on_terminals
def test_a_conversation_continues_after_ctrl_c_and_the_engine_is_cancelled() -> None:
    model = FakeModel(name="m", answer="one two three four five six")
    with (
        FakeOllama([model]) as fake,
        running_fleet({"alpha": fake}) as fleet,
        Terminal("chat", "m", url=fleet.url) as screen,
    ):
        gate = fake.fail(Gate(at="chunk", chunk=2))
        screen.until("> ")
        screen.type("count\r")
        screen.until("one")
        screen.type("\x03")
        screen.until("Stopped. This answer is not kept in the conversation.")
        fake.wait(lambda: fake.aborted, "the engine to be cancelled")
        gate.times = 0
        gate.release()
        screen.until("> ")
        screen.type("again\r")
        screen.until("six")
        screen.until("> ")
        assert [message["content"] for message in fake.inference[-1].json["messages"]] == ["again"]
        screen.type("\x04")
        assert screen.end() == 0


@on_terminals
def test_ctrl_c_ends_a_single_question_without_a_traceback() -> None:
    with (
        FakeOllama(MODELS[:1]) as fake,
        running_fleet({"alpha": fake}) as fleet,
        Terminal("chat", "m", "hello", url=fleet.url) as screen,
    ):
        gate = fake.fail(Gate(at="request"))
        fake.wait(lambda: gate.reached, "the question")
        screen.type("\x03")
        assert screen.end() == 130
        assert "Traceback" not in screen.text
        fake.wait(lambda: fake.aborted, "the engine to be cancelled")


@on_terminals
def test_a_conversation_with_an_unknown_model_does_not_start(fleet: Fleet) -> None:
    with Terminal("chat", "nope", url=fleet.url) as screen:
        assert screen.end() == 1
    assert "no node has nope" in screen.text and "for example: herd chat" in screen.text


# --- errors ---


@pytest.mark.parametrize("arguments", [*READ_COMMANDS, ("chat", "m", "x"), ("top", "--json")])
def test_without_a_coordinator_every_command_shows_how_to_start_one(arguments: tuple[str, ...]) -> None:
    done = herd(*arguments, url=f"http://127.0.0.1:{free_port()}")
    assert (done.status, done.out) == (1, "")
    assert done.err.startswith("no coordinator answers at") and "start it with: herd" in done.err


def test_the_coordinator_of_the_settings_is_used(fleet: Fleet) -> None:
    for env in ({"FLEET_PORT": str(fleet.port)}, {"FLEET_NODE_ROUTER_URL": fleet.url}, {"HERD_URL": fleet.url}):
        assert herd("status", env=env).status == 0


def test_an_invalid_setting_stops_the_start_with_a_suggestion() -> None:
    done = herd(env={"FLEET_PROT": "1", "FLEET_PORT": "many"})
    assert done.status == 1
    assert "FLEET_PROT (environment) is not a setting, did you mean FLEET_PORT?" in done.err
    assert "FLEET_PORT='many' (environment): expected a whole number from 0 to 65535" in done.err


def test_read_commands_work_with_an_invalid_setting(fleet: Fleet) -> None:
    assert herd("status", url=fleet.url, env={"FLEET_PROT": "1"}).status == 0


def test_read_commands_report_an_invalid_setting_and_the_address_that_they_use_instead() -> None:
    done = herd("status", env={"FLEET_PORT": "many", "FLEET_NODE_ROUTER_URL": "http://127.0.0.1:1"})
    assert "FLEET_PORT='many' (environment): expected a whole number" in done.err
    assert "Using http://127.0.0.1:11435." in done.err


def test_config_shows_all_settings_and_marks_the_invalid_one() -> None:
    done = herd("config", "port", env={"FLEET_PORT": "many"})
    assert done.status == 1 and "FLEET_PORT='many' (environment): expected a whole number" in done.err
    assert "FLEET_PORT = 11435  default, because the value from environment is invalid" in done.lines
    assert "FLEET_TLS_PORT = 11443  default" in done.lines


def test_a_port_used_by_a_coordinator_is_reported_in_one_line(fleet: Fleet, tmp_path: Path) -> None:
    done = herd("serve", "--port", str(fleet.port), "--host", "127.0.0.1", "--data-dir", str(tmp_path))
    assert done.status == 1 and "Traceback" not in done.err
    problems = [line for line in done.err.splitlines() if "coordinator already listens" in line]
    assert problems == [f"a coordinator already listens on port {fleet.port}"]
    assert f"herd --port {fleet.port + 1} --data-dir FOLDER" in done.err


def test_a_port_used_by_another_program_is_reported_in_one_line(fake: FakeOllama, tmp_path: Path) -> None:
    done = herd("--port", str(fake.port), "--host", "127.0.0.1", "--data-dir", str(tmp_path))
    assert done.status == 1 and f"port {fake.port} is in use by an Ollama" in done.err
    assert f"herd-node --ollama-host http://127.0.0.1:{fake.port}" in done.err


def test_a_data_folder_in_use_is_reported_with_the_process(tmp_path: Path) -> None:
    port = free_port()
    first = command("--host", "127.0.0.1", "--port", str(port), "--data-dir", str(tmp_path))
    with Child(first, environment()) as running:
        running.wait_for_get(port, "/health")
        done = herd("--host", "127.0.0.1", "--port", str(free_port()), "--data-dir", str(tmp_path))
        assert done.status == 1
        assert f"another coordinator (process {running.pid}) already uses {tmp_path}" in done.err
        running.terminate()
        assert running.wait() == 0


def test_listening_on_the_address_of_another_machine_is_an_error(tmp_path: Path) -> None:
    done = herd("--host", "192.0.2.1", "--port", "0", "--data-dir", str(tmp_path))
    assert done.status == 1 and "cannot listen on 192.0.2.1" in done.err and "Traceback" not in done.err


def test_options_before_a_command_are_an_error() -> None:
    done = herd("--port", "1", "status")
    assert done.status == 2 and "put options after the command: herd status" in done.err


def test_a_mistyped_command_is_reported_with_a_suggestion() -> None:
    done = herd("statu")
    assert done.status == 2 and "status" in done.err


def test_an_unknown_engine_is_reported_with_the_known_ones(tmp_path: Path) -> None:
    done = herd("node", "--engine", "bogus", "--data-dir", str(tmp_path))
    assert done.status == 1 and "unknown engine 'bogus'" in done.err and "ollama" in done.err


def test_characters_that_the_console_cannot_show_are_replaced() -> None:
    windows = {"PYTHONUTF8": "0", "PYTHONIOENCODING": "cp1252:strict"}
    with FakeOllama([FakeModel(name="m", answer="naïve 東京 🙂 end")]) as fake, running_fleet({"alpha": fake}) as fleet:
        done = herd("chat", "m", "x", url=fleet.url, env=windows, encoding="cp1252")
    assert (done.status, done.out) == (0, "naïve ?? ? end\n")


def test_both_commands_print_the_same_version_and_the_form_that_runs() -> None:
    expected = f"herd {__version__} ({build_form()})\n"
    assert [herd("--version").out, herd("node", "--version").out] == [expected] * 2


def test_config_shows_the_source_of_a_value(tmp_path: Path) -> None:
    (tmp_path / "env").write_text("FLEET_PORT=12000\n", "utf-8")
    done = herd("config", "port", env={"FLEET_ENV_FILE": str(tmp_path / "env")})
    assert f"FLEET_PORT = 12000  {tmp_path / 'env'} line 1" in done.lines
    assert herd("config", "no-such-word").status == 1
