"""The verbs as processes against a running coordinator: plain when piped, JSON on request, coloured on a terminal; clear when wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from fakes.child import Child, free_port
from fakes.faults import Gate
from fakes.fleet import Fleet, running_fleet, settings_for_tests
from fakes.ollama.server import FakeModel, FakeOllama
from herd import __version__
from herd.core.state.liveness import LivenessSettings
from terminal import ESCAPE, IS_POSIX, Terminal, command, environment, herd

MODELS = [FakeModel("m", answer="The herd is well."), FakeModel("a-model-with-a-rather-long-name:70b-instruct-q4_K_M")]
on_terminals = pytest.mark.skipif(
    not IS_POSIX, reason="there are no pseudo-terminals here: COLOURS AND CTRL-C ARE NOT TRIED"
)


@pytest.fixture(scope="module")
def fake() -> Iterator[FakeOllama]:
    with FakeOllama(MODELS) as fake:
        yield fake


@pytest.fixture(scope="module")
def fleet(fake: FakeOllama) -> Iterator[Fleet]:
    patient = replace(
        settings_for_tests(), liveness=LivenessSettings(degraded_after_s=3600.0, offline_after_s=3600.0)
    )  # nobody sends heartbeats while terminals are looked at
    with running_fleet({"alpha": fake, "a-second-machine-with-a-long-name.local": fake}, settings=patient) as running:
        done = herd("chat", "m", "How are you?", url=running.url)
        assert done.status == 0, done.err
        running.settle()
        running.coordinator.store.flush()
        running.beat()
        yield running


LOOKING = (("status",), ("models",), ("top",), ("why", "last"))


@pytest.mark.parametrize("verb", LOOKING)
def test_what_is_piped_is_plain_and_says_something(fleet: Fleet, verb: tuple[str, ...]) -> None:
    done = herd(*verb, url=fleet.url)
    assert (done.status, done.err) == (0, "")
    assert ESCAPE not in done.out and done.out.isprintable() is False and "alpha" in done.out
    done.out.encode("cp1252")


@pytest.mark.parametrize("verb", [*LOOKING, ("doctor",), ("config",), ("config", "--agent")])
def test_json_is_json(fleet: Fleet, verb: tuple[str, ...]) -> None:
    done = herd(*verb, "--json", url=None if verb[0] == "config" else fleet.url)
    assert json.loads(done.out)
    assert ESCAPE not in done.out


@on_terminals
@pytest.mark.parametrize("columns", [80, 140])
@pytest.mark.parametrize("verb", [*LOOKING[:2], ("why", "last"), ("config", "port")])
def test_on_a_terminal_it_is_coloured_and_no_line_is_wrapped(fleet: Fleet, verb: tuple[str, ...], columns: int) -> None:
    with Terminal(*verb, url=None if verb[0] == "config" else fleet.url, columns=columns) as screen:
        assert screen.end() == 0
    assert ESCAPE in screen.raw
    assert [line for line in screen.text.splitlines() if len(line) > columns] == []


@on_terminals
def test_top_follows_the_fleet_until_ctrl_c_and_leaves_the_terminal_as_it_was(fleet: Fleet) -> None:
    with Terminal("top", url=fleet.url) as screen:
        screen.until("Lately")
        screen.until("2 nodes online")
        screen.type("\x03")
        assert screen.end() == 0
    assert screen.raw.count("\x1b[2J") == 0, "it flickers"
    entered, left = screen.raw.find("\x1b[?1049h"), screen.raw.rfind("\x1b[?1049l")
    assert 0 <= entered < left
    assert screen.raw.rfind("\x1b[?25h") > screen.raw.rfind("\x1b[?25l"), "the cursor stays hidden"


# --- why ---


def test_why_tells_seconds_and_finds_a_request_by_the_beginning_of_its_id(fleet: Fleet) -> None:
    request_id = fleet.get("/dashboard/api/traces")["traces"][-1]["request_id"]
    done = herd("why", request_id[:-1] + request_id[-1:], url=fleet.url)
    assert done.lines[0].startswith(request_id)
    assert any("-> " in line and " s = " in line for line in done.lines), done.out


def test_an_unknown_request_is_told_with_what_to_type(fleet: Fleet) -> None:
    done = herd("why", "zzz", url=fleet.url)
    assert (
        done.status == 1 and done.err.splitlines()[0] == "no request 'zzz' is on record" and "herd why last" in done.err
    )


def test_before_the_first_request_why_says_how_to_make_one() -> None:
    with running_fleet({}) as empty:
        done = herd("why", url=empty.url)
    assert done.status == 1 and done.err.splitlines() == [
        "no request has been made yet",
        "  make one with: herd chat MODEL",
    ]


# --- chat ---


def test_a_question_is_answered_with_the_node_and_the_way_to_ask_why(fleet: Fleet) -> None:
    done = herd("chat", "m", "How are you?", url=fleet.url)
    assert (done.status, done.out) == (0, "The herd is well.\n")
    assert "Why there: herd why r" in done.err


def test_a_piped_question_is_answered_too_and_as_json(fleet: Fleet) -> None:
    done = herd("chat", "m", "--json", url=fleet.url, stdin="How are you?\n")
    assert done.status == 0, done.err
    answer = json.loads(done.out)
    assert answer["answer"] == "The herd is well." and answer["node"] and answer["retries"] == 0


def test_a_wrong_model_names_those_there_are(fleet: Fleet) -> None:
    done = herd("chat", "nope", "x", url=fleet.url)
    assert (done.status, done.out) == (1, "")
    assert "model 'nope' not found" in done.err and "herd why r" in done.err


def test_nothing_to_ask_is_no_question(fleet: Fleet) -> None:
    done = herd("chat", "m", url=fleet.url, stdin="\n")
    assert done.status == 1 and "there is nothing to ask" in done.err


@on_terminals
def test_a_conversation_goes_on_after_ctrl_c_in_mid_answer_and_the_node_is_told() -> None:
    talker = FakeModel("m", answer="one two three four five six")
    with (
        FakeOllama([talker]) as fake,
        running_fleet({"alpha": fake}) as fleet,
        Terminal("chat", "m", url=fleet.url) as screen,
    ):
        gate = fake.fail(Gate(at="piece", piece=2))
        screen.until("> ")
        screen.type("count\r")
        screen.until("one")
        screen.type("\x03")
        screen.until("stopped; not part of the conversation")
        fake.wait(lambda: fake.aborted, "the engine's being told")
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
        fake.wait(lambda: fake.aborted, "the engine's being told")


@on_terminals
def test_a_conversation_with_an_unknown_model_does_not_begin(fleet: Fleet) -> None:
    with Terminal("chat", "nope", url=fleet.url) as screen:
        assert screen.end() == 1
    assert "no node has nope" in screen.text and "for example: herd chat" in screen.text


# --- what is wrong ---


@pytest.mark.parametrize("verb", [*LOOKING, ("chat", "m", "x"), ("top", "--json")])
def test_without_a_coordinator_every_verb_says_so_and_how_to_start_one(verb: tuple[str, ...]) -> None:
    done = herd(*verb, url=f"http://127.0.0.1:{free_port()}")
    assert (done.status, done.out) == (1, "")
    assert done.err.startswith("no coordinator answers at") and "start it with: herd" in done.err


def test_the_coordinator_that_the_settings_name_is_the_one_that_is_asked(fleet: Fleet) -> None:
    for env in ({"FLEET_PORT": str(fleet.port)}, {"FLEET_NODE_ROUTER_URL": fleet.url}, {"HERD_URL": fleet.url}):
        assert herd("status", env=env).status == 0


def test_a_wrong_setting_stops_the_start_and_names_the_right_one() -> None:
    done = herd(env={"FLEET_PROT": "1", "FLEET_PORT": "many"})
    assert done.status == 1
    assert "FLEET_PROT (environment) is not a setting, did you mean FLEET_PORT?" in done.err
    assert "FLEET_PORT='many' (environment): expected a whole number from 0 to 65535" in done.err


def test_a_wrong_setting_keeps_nobody_from_looking(fleet: Fleet) -> None:
    assert herd("status", url=fleet.url, env={"FLEET_PROT": "1"}).status == 0


def test_a_port_that_a_coordinator_holds_is_told_in_one_line(fleet: Fleet, tmp_path: Path) -> None:
    done = herd("serve", "--port", str(fleet.port), "--host", "127.0.0.1", "--data-dir", str(tmp_path))
    assert done.status == 1 and "Traceback" not in done.err
    told = [line for line in done.err.splitlines() if "coordinator already listens" in line]
    assert told == [f"a coordinator already listens on port {fleet.port}"]
    assert f"herd --port {fleet.port + 1} --data-dir FOLDER" in done.err


def test_a_port_that_another_program_holds_is_told_in_one_line(fake: FakeOllama, tmp_path: Path) -> None:
    done = herd("--port", str(fake.port), "--host", "127.0.0.1", "--data-dir", str(tmp_path))
    assert done.status == 1 and f"port {fake.port} is in use by another program" in done.err


def test_a_folder_that_a_coordinator_uses_is_told_with_the_process(tmp_path: Path) -> None:
    port = free_port()
    first = command("--host", "127.0.0.1", "--port", str(port), "--data-dir", str(tmp_path))
    with Child(first, environment()) as running:
        running.wait_for_get(port, "/health")
        done = herd("--host", "127.0.0.1", "--port", str(free_port()), "--data-dir", str(tmp_path))
        assert done.status == 1
        assert f"another coordinator (process {running.pid}) already uses {tmp_path}" in done.err
        running.terminate()
        assert running.wait() == 0


def test_an_address_of_another_machine_cannot_be_listened_on(tmp_path: Path) -> None:
    done = herd("--host", "192.0.2.1", "--port", "0", "--data-dir", str(tmp_path))
    assert done.status == 1 and "cannot listen on 192.0.2.1" in done.err and "Traceback" not in done.err


def test_flags_before_a_verb_are_not_lost_in_silence() -> None:
    done = herd("--port", "1", "status")
    assert done.status == 2 and "write it behind the command: herd status" in done.err


def test_a_mistyped_verb_is_told_with_the_likely_one() -> None:
    done = herd("statu")
    assert done.status == 2 and "status" in done.err


def test_an_unknown_engine_names_those_there_are(tmp_path: Path) -> None:
    done = herd("node", "--engine", "bogus", "--data-dir", str(tmp_path))
    assert done.status == 1 and "there is no engine 'bogus'" in done.err and "ollama" in done.err


def test_an_answer_that_a_console_cannot_show_is_shown_as_far_as_it_can() -> None:
    windows = {"PYTHONUTF8": "0", "PYTHONIOENCODING": "cp1252:strict"}
    with FakeOllama([FakeModel("m", answer="naïve 東京 🙂 end")]) as fake, running_fleet({"alpha": fake}) as fleet:
        done = herd("chat", "m", "x", url=fleet.url, env=windows, encoding="cp1252")
    assert (done.status, done.out) == (0, "naïve ?? ? end\n")


def test_the_versions_agree() -> None:
    assert [herd("--version").out, herd("node", "--version").out] == [f"herd {__version__}\n"] * 2


def test_config_shows_where_a_value_is_from(tmp_path: Path) -> None:
    (tmp_path / "env").write_text("FLEET_PORT=12000\n", "utf-8")
    done = herd("config", "port", env={"FLEET_ENV_FILE": str(tmp_path / "env")})
    assert f"FLEET_PORT = 12000  {tmp_path / 'env'} line 1" in done.lines
    assert herd("config", "no-such-word").status == 1
