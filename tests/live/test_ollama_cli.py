"""The real `ollama` command does the same with a coordinator as with an Ollama: output and exit status."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from fakes.fleet import running_fleet
from fakes.llamacpp.tiny_gguf import TinyModel, tiny_gguf
from fakes.real_ollama import CHAT_MODEL, NOT_FOUND, OTHER_MODEL, RealOllama, find_ollama

NOWHERE = {"HTTPS_PROXY": "http://127.0.0.1:9"}
"""No registry can be reached."""
CONTROL = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]|[⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏] ?|\r")
TIME = re.compile(r"(?:Less than a|About an?|\d+) (?:second|minute|hour)s? (?:ago|from now)")


class Done(NamedTuple):
    status: int
    output: str
    error: str


class Cli:
    """The `ollama` command with one server."""

    def __init__(self, binary: str, url: str, home: Path) -> None:
        self._binary = binary
        self._home = home
        self._environment = {"PATH": os.environ["PATH"], "HOME": str(home), "OLLAMA_HOST": url, "OLLAMA_NO_CLOUD": "1"}

    def __call__(self, *arguments: str, given: str = "") -> Done:
        done = subprocess.run(
            [self._binary, *arguments],
            input=given,
            env=self._environment,
            cwd=self._home,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        return Done(done.returncode, readable(done.stdout), readable(done.stderr))


def readable(text: str) -> str:
    """The text without progress, control sequences and times, each line once, sorted.

    Lines are sorted: Ollama's order of parameters, and of models of the same second, is random.
    """
    lines = [TIME.sub("TIME", line).rstrip() for line in CONTROL.sub("\n", text).splitlines()]
    kept = dict.fromkeys(line for line in lines if line and not line.startswith(("copying file", "gathering")))
    return "\n".join(sorted(kept))


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[str, RealOllama, RealOllama]]:
    binary = find_ollama()
    if binary is None:
        pytest.skip(NOT_FOUND)
    with RealOllama(binary, NOWHERE) as first, RealOllama(binary, NOWHERE) as second:
        yield binary, first, second


MISSING = {"Missing": "./missing.gguf", "Elsewhere": "/nowhere/x.gguf", "Above": "../x", "NoModel": "a b"}
"""Files for `ollama create` whose model does not exist."""


def scenario(cli: Cli, home: Path) -> dict[str, Done]:
    """What a person does with one server, each result by its command line."""
    (home / "tiny.gguf").write_bytes(tiny_gguf(TinyModel(seed=4, mean_tokens=9)).read_bytes())
    (home / "Modelfile").write_text("FROM ./tiny.gguf\nPARAMETER temperature 0\nSYSTEM Be brief.\nLICENSE free\n")
    (home / "Derived").write_text(f"FROM {CHAT_MODEL}\nPARAMETER num_predict 4\nPARAMETER temperature 0\n")
    for name, source in MISSING.items():
        (home / name).write_text(f"FROM {source}\n")
    commands: tuple[tuple[str, ...], ...] = (
        *(("create", "new", "-f", name) for name in MISSING),
        ("list",),
        ("ps",),
        ("show", CHAT_MODEL),
        ("create", "made", "-f", "Modelfile"),
        ("create", "made", "-f", "Modelfile"),
        ("show", "made"),
        *(("show", "made", flag) for flag in ("--parameters", "--system", "--license", "--template")),
        ("create", "derived", "-f", "Derived"),
        ("cp", "derived", "second"),
        ("rm", "derived"),
        ("show", "derived"),
        ("show", "second", "--parameters"),
        ("run", "second", "Say hi."),
        ("stop", "second"),
        ("ps",),
        ("stop", "second"),
        ("list",),
        ("rm", "second", "made"),
        ("rm", "second"),
        ("cp", "second", "third"),
        ("stop", "second"),
        ("show", "second"),
        ("pull", "evil name"),
        ("list",),
    )
    return {f"{number}: {' '.join(command)}": cli(*command) for number, command in enumerate(commands)}


UNKNOWN = re.compile(r"model ['\"](?:second|derived)(?::latest)?['\"] not found.*")
"""herd's message for an unknown name also has the most similar names."""


def comparable(done: Done) -> Done:
    return done._replace(error=UNKNOWN.sub("model not found", done.error), output=UNKNOWN.sub("", done.output))


def test_commands_have_the_same_output_and_status_as_with_an_ollama(
    servers: tuple[str, RealOllama, RealOllama], tmp_path: Path
) -> None:
    binary, first, second = servers
    homes = tmp_path / "direct", tmp_path / "herd"
    for home in homes:
        home.mkdir()
    direct = scenario(Cli(binary, first.url, homes[0]), homes[0])
    with running_fleet({"alpha": second}) as fleet:
        through = scenario(Cli(binary, fleet.url, homes[1]), homes[1])
    different = {
        command: (comparable(done), comparable(through[command]))
        for command, done in direct.items()
        if comparable(done) != comparable(through[command])
    }
    assert not different, "\n".join(f"{command}\n  {a}\n  {b}" for command, (a, b) in different.items())
    assert any(done.output for command, done in direct.items() if command.endswith("run second Say hi."))


def test_deletions_and_stops_are_for_both_nodes(servers: tuple[str, RealOllama, RealOllama], tmp_path: Path) -> None:
    binary, first, second = servers
    with running_fleet({"alpha": first, "beta": second}) as fleet:
        cli = Cli(binary, fleet.url, tmp_path)
        assert cli("cp", OTHER_MODEL, "copied").status == 0
        for server in (first, second):
            server.ask("POST", "/api/generate", b'{"model": "copied", "keep_alive": "10m"}')
        fleet.beat()
        assert "copied" in cli("ps").output
        assert cli("stop", "copied").status == 0
        for server in (fleet, first, second):
            assert "copied" not in Cli(binary, server.url, tmp_path)("ps").output
        pushed = cli("push", "copied")
        assert pushed.status == 1 and "on the node that has the model" in pushed.error
        assert cli("rm", "copied").output == "deleted 'copied'"
        for server in (first, second):
            assert "copied" not in Cli(binary, server.url, tmp_path)("list").output
