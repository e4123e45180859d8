"""Tests of `herd connect`: the list, what is printed and written, keys, backups and undo."""

from __future__ import annotations

import json
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes.agents.stage import beating
from fakes.fleet import Fleet, running_fleet, settings_of_steady_nodes
from fakes.ollama.server import FakeModel, FakeOllama
from herd.cli.client import CliError
from herd.cli.connect import Client, Connection, Place
from herd.cli.connect.command import CLIENTS, lan_url
from herd.cli.connect.fleet_models import ListedModel, best
from herd.cli.connect.written_files import BACKUP, read_record, record_path, undo, write
from terminal import Done, herd

MODELS = (
    FakeModel(name="talker", capabilities=("completion",)),
    FakeModel(name="coder", capabilities=("completion", "tools"), context_train=32_768),
    FakeModel(name="embedder", capabilities=("embedding",)),
)
A_CONNECTION = Connection(
    url="http://10.0.0.5:11435",
    lan_url="http://10.0.0.5:11435",
    key="herd_secret",
    model="qwen3:8b",
    context_tokens=40_960,
    capabilities=frozenset(("completion", "tools", "vision")),
)


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    with FakeOllama(list(MODELS)) as node, running_fleet({"alpha": node}) as running, beating(running):
        yield running


def connect(home: Path, fleet: Fleet | None, *arguments: str, env: dict[str, str] | None = None) -> Done:
    more = {"HOME": str(home), "XDG_CONFIG_HOME": "", "CLAUDE_CONFIG_DIR": "", "CODEX_HOME": "", "SHELL": "/bin/bash"}
    return herd("connect", *arguments, url=fleet.url if fleet else "http://127.0.0.1:9", env={**more, **(env or {})})


# --- the list ---


def test_the_list_shows_what_is_installed_and_configured_here_without_a_coordinator(tmp_path: Path) -> None:
    (tmp_path / ".codex").mkdir()
    (tmp_path / ".codex/config.toml").write_text('base_url = "http://127.0.0.1:9/v1"\n')
    rows = {row["client"]: row for row in json.loads(connect(tmp_path, None, "--json", env={"PATH": ""}).out)}
    assert set(rows) == set(CLIENTS)
    assert rows["codex"]["is_installed"] and rows["codex"]["is_configured"]
    assert not rows["claude"]["is_installed"] and not rows["claude"]["is_configured"]
    assert "herd connect CLIENT" in connect(tmp_path, None).out


def test_an_unknown_client_is_refused_with_the_known_names(tmp_path: Path) -> None:
    done = connect(tmp_path, None, "emacs")
    assert done.status == 1 and "claude" in done.err


# --- the model ---


def test_a_model_in_memory_that_calls_tools_is_chosen_first() -> None:
    def model(name: str, size: int, loaded: bool, *capabilities: str) -> ListedModel:
        return ListedModel(
            name=name, context_tokens=1, capabilities=frozenset(capabilities), size_bytes=size, is_loaded=loaded
        )

    models = [model("big", 9, False, "tools"), model("hot", 5, True, "tools"), model("plain", 99, True)]
    assert [found.name for found in (best(models), best([models[0], models[2]]), best(models[2:])) if found] == [
        "hot",
        "big",
        "plain",
    ]
    assert best([]) is None


def test_a_model_without_reported_capabilities_may_answer_chats(tmp_path: Path) -> None:
    """Old engines report none; an embedding model says what it is."""
    silent = FakeModel(name="silent", capabilities=())
    settings = settings_of_steady_nodes()
    with FakeOllama([silent, MODELS[2]]) as node, running_fleet({"alpha": node}, settings=settings) as running:
        [file] = json.loads(connect(tmp_path, running, "codex", "--json").out)["files"]
        assert tomllib.loads(file["content"])["model"] == "silent:latest"
        running.ask("POST", "/fleet/keys", b'{"name": "somebody"}')
        [file] = json.loads(connect(tmp_path, running, "codex", "--json").out)["files"]
        assert tomllib.loads(file["content"])["model"] == "silent:latest"


def test_the_printed_settings_name_the_best_model_and_its_window(fleet: Fleet, tmp_path: Path) -> None:
    [file] = json.loads(connect(tmp_path, fleet, "codex", "--json").out)["files"]
    settings = tomllib.loads(file["content"])
    assert (settings["model"], settings["model_context_window"]) == ("coder:latest", 32_768)
    assert settings["model_providers"]["herd"]["base_url"] == f"{fleet.url}/v1"
    assert list(tmp_path.rglob("*")) == []


def test_another_model_an_alias_or_a_smaller_window_can_be_chosen(fleet: Fleet, tmp_path: Path) -> None:
    plain = connect(tmp_path, fleet, "claude", "--model", "talker", "--context", "5000")
    assert '"ANTHROPIC_MODEL": "talker:latest"' in plain.out and '_CONTEXT_TOKENS": "5000"' in plain.out
    assert "not known to call tools" in plain.err
    assert (
        '"ANTHROPIC_MODEL": "claude-opus-4-8"' in connect(tmp_path, fleet, "claude", "--model", "claude-opus-4-8").out
    )
    unknown = connect(tmp_path, fleet, "claude", "--model", "nope")
    assert unknown.status == 1 and "coder:latest" in unknown.err


def test_a_shell_can_evaluate_the_environment_variables(fleet: Fleet, tmp_path: Path) -> None:
    lines = connect(tmp_path, fleet, "env").lines
    assert f"export OLLAMA_HOST={fleet.url}" in lines
    assert all(line.startswith("export ") for line in lines)
    assert "$env:OPENAI_MODEL = 'coder:latest'" in connect(tmp_path, fleet, "env", "--shell", "powershell").lines
    assert connect(tmp_path, fleet, "env", "--shell", "csh").status == 1


def test_other_machines_get_an_address_of_the_network() -> None:
    assert lan_url("http://herd.lan:11435") == "http://herd.lan:11435"
    assert lan_url("http://127.0.0.1:11435").endswith(":11435")


# --- writing and undo ---


def test_an_existing_file_is_restored_byte_for_byte(fleet: Fleet, tmp_path: Path) -> None:
    path = tmp_path / ".claude/settings.json"
    path.parent.mkdir()
    old = b'{\r\n\t"theme": "dark", "env": {"A": "\xc3\xa9"}}'
    path.write_bytes(old)
    path.chmod(0o640)
    written = connect(tmp_path, fleet, "claude", "--write")
    assert written.status == 0 and BACKUP in written.out
    env = json.loads(path.read_text())["env"]
    assert (env["A"], env["ANTHROPIC_BASE_URL"]) == ("é", fleet.url)
    again = connect(tmp_path, fleet, "claude", "--write", "--model", "talker")
    assert again.status == 0
    undone = connect(tmp_path, fleet, "claude", "--undo")
    assert undone.status == 0 and path.read_bytes() == old and path.stat().st_mode & 0o777 == 0o640
    assert connect(tmp_path, fleet, "claude", "--undo").status == 1


def test_what_herd_created_is_removed(fleet: Fleet, tmp_path: Path) -> None:
    assert connect(tmp_path, fleet, "opencode", "--write").status == 0
    assert (tmp_path / ".config/opencode/opencode.json").exists()
    assert connect(tmp_path, fleet, "opencode", "--undo").status == 0
    assert not (tmp_path / ".config").exists()


def test_a_changed_file_is_restored_only_on_request(fleet: Fleet, tmp_path: Path) -> None:
    path = tmp_path / ".codex/config.toml"
    path.parent.mkdir()
    path.write_text("# before\n")
    connect(tmp_path, fleet, "codex", "--write")
    path.write_text(path.read_text() + "# later\n")
    refused = connect(tmp_path, fleet, "codex", "--undo")
    assert refused.status == 1 and "--force" in refused.err and path.read_text().endswith("# later\n")
    connect(tmp_path, fleet, "codex", "--write")
    assert connect(tmp_path, fleet, "codex", "--undo").status == 1
    assert connect(tmp_path, fleet, "codex", "--undo", "--force").status == 0
    assert path.read_text() == "# before\n"


@pytest.mark.parametrize(
    ("name", "path", "text"),
    [
        ("claude", ".claude/settings.json", b'{"env": '),
        ("claude", ".claude/settings.json", b'{"env": "none"}'),
        ("codex", ".codex/config.toml", b"model = \n"),
        ("opencode", ".config/opencode/opencode.json", b"\xff\xfe{}"),
    ],
)
def test_an_invalid_file_is_never_overwritten(fleet: Fleet, tmp_path: Path, name: str, path: str, text: bytes) -> None:
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).write_bytes(text)
    done = connect(tmp_path, fleet, name, "--write")
    assert done.status == 1 and "not changed" in done.err
    assert (tmp_path / path).read_bytes() == text
    assert [one.name for one in (tmp_path / path).parent.iterdir()] == [Path(path).name]


def test_a_link_to_a_file_stays_a_link(tmp_path: Path) -> None:
    real, link = tmp_path / "dotfiles.json", tmp_path / "settings.json"
    real.write_text("old")
    link.symlink_to(real)
    record = record_path(tmp_path, "claude")
    write(record, {link: "new"}, "", "http://h:1")
    assert link.is_symlink() and real.read_text() == "new"
    undo(record, False)
    assert link.is_symlink() and real.read_text() == "old"


def test_a_damaged_record_is_ignored(tmp_path: Path) -> None:
    record = record_path(tmp_path, "claude")
    record.parent.mkdir(parents=True)
    for text in ("", "[]", '{"files": [1]}', '{"files": [], "more": 1}'):
        record.write_text(text)
        assert read_record(record) is None
        with pytest.raises(CliError, match="nothing"):
            undo(record, False)


# --- keys ---


def test_a_client_gets_its_own_key_where_keys_are_required(tmp_path: Path) -> None:
    with FakeOllama(list(MODELS)) as node, running_fleet({"alpha": node}) as fleet, beating(fleet):
        other = fleet.ask("POST", "/fleet/keys", b'{"name": "somebody else"}')["key"]
        assert '"YOUR_KEY"' in connect(tmp_path, fleet, "claude").out
        assert len(fleet.get("/fleet/keys")["keys"]) == 1
        connect(tmp_path, fleet, "claude", "--write")
        text = (tmp_path / ".claude/settings.json").read_text()
        [mine] = [key for key in fleet.get("/fleet/keys")["keys"] if key["name"].startswith("claude on ")]
        assert f"herd_{mine['id']}_" in text and other not in text and mine["scopes"] == ["chat"]
        # A second time it gets a new key, and the old one is revoked.
        connect(tmp_path, fleet, "claude", "--write")
        valid = {key["id"] for key in fleet.get("/fleet/keys")["keys"] if key["is_valid"]}
        assert mine["id"] not in valid and len(valid) == 2
        assert "revoked" in connect(tmp_path, fleet, "claude", "--undo").out
        assert len([key for key in fleet.get("/fleet/keys")["keys"] if key["is_valid"]]) == 1
        given = connect(tmp_path, fleet, "env", "--key", other)
        assert f"export OPENAI_API_KEY={other}" in given.lines


# --- every client ---


@pytest.mark.parametrize("client", CLIENTS.values(), ids=CLIENTS)
@pytest.mark.parametrize("platform", ["linux", "darwin", "win32"])
def test_the_settings_of_every_client_name_the_fleet_the_key_and_the_model(
    client: Client, platform: str, tmp_path: Path
) -> None:
    place = Place(tmp_path, tmp_path, {}, platform)
    texts = [file.edit("", A_CONNECTION) for file in client.files(place)] + list(client.steps(A_CONNECTION))
    whole = "\n".join(texts)
    assert "10.0.0.5:11435" in whole and "qwen3:8b" in whole and A_CONNECTION.key in whole
    for file in client.files(place):
        assert str(file.path).startswith(str(tmp_path))
        assert file.edit(file.edit("", A_CONNECTION), A_CONNECTION) == file.edit("", A_CONNECTION)


def test_homes_named_by_variables_are_used(tmp_path: Path) -> None:
    place = Place(tmp_path, tmp_path, {"CODEX_HOME": str(tmp_path / "c")}, sys.platform)
    assert [file.path for file in CLIENTS["codex"].files(place)] == [tmp_path / "c/config.toml"]
