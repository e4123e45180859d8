"""Tests that a working engine that is silent for a while is not cut, and one that is silent for too long is."""

from __future__ import annotations

from typing import Any

import pytest

from fakes.raw_server import RawServer, chunked, refused_url, stalls
from herd.coordinator.proxy.relay import Relay
from herd.coordinator.upstream.connection import SWEEP_EVERY_S
from herd.coordinator.upstream.contract import UpstreamSettings
from herd.core.lifecycle.retries import RetrySettings
from relay_fixtures import RelaySetup, a_relay_setup, run

TOOLS = [{"type": "function", "function": {"name": "write", "parameters": {"type": "object", "properties": {}}}}]
LINE = b'{"model":"m","created_at":"t","message":{"role":"assistant","content":"Let me see."},"done":false}\n'
BEGUN = chunked(LINE).removesuffix(b"0\r\n\r\n")


def is_silent_for(setup: RelaySetup, seconds: float) -> None:
    for _ in range(int(seconds / SWEEP_EVERY_S)):
        setup.pool.sweep()


@pytest.mark.parametrize("more", [{"tools": TOOLS}, {"format": "json"}, {"think": True}])
def test_a_silent_engine_is_not_cut_while_it_may_be_working(more: dict[str, Any]) -> None:
    async def test() -> None:
        settings, retries = UpstreamSettings(stall_timeout_s=10.0), RetrySettings(retries_max=0, silence_max_s=600.0)
        async with (
            RawServer(stalls(BEGUN)) as server,
            a_relay_setup({"alpha": server.url}, upstream=settings, retries=retries) as setup,
        ):
            client = setup.ask(**more)
            await client.begun.wait()
            setup.pool.sweep()
            is_silent_for(setup, 60.0)
            assert not client.over.done(), "it is building a tool call"
            is_silent_for(setup, 600.0)
            await client.over
            assert not client.is_whole, "its silence has lasted longer than any answer could take"

    run(test)


def test_an_engine_that_sends_every_token_is_cut_when_it_stalls() -> None:
    async def test() -> None:
        settings, retries = UpstreamSettings(stall_timeout_s=10.0), RetrySettings(retries_max=0)
        async with (
            RawServer(stalls(BEGUN)) as server,
            a_relay_setup({"alpha": server.url}, upstream=settings, retries=retries) as setup,
        ):
            client = setup.ask()
            await client.begun.wait()
            setup.pool.sweep()
            is_silent_for(setup, 15.0)
            await client.over
            assert not client.is_whole

    run(test)


@pytest.mark.replaces_methods
def test_an_exception_about_a_silent_stream_ends_it_with_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(self: Relay, quiet_s: float) -> None:
        raise ValueError(quiet_s)

    async def test() -> None:
        monkeypatch.setattr(Relay, "_on_quiet", fails)
        upstream, retries = UpstreamSettings(stall_timeout_s=7200.0), RetrySettings(retries_max=0)
        async with (
            RawServer(stalls(BEGUN)) as server,
            a_relay_setup({"alpha": server.url}, upstream=upstream, retries=retries) as setup,
        ):
            setup.add_node("beta", refused_url())
            client = setup.ask()
            await client.begun.wait()
            setup.pool.sweep()
            is_silent_for(setup, 3600.0)
            await client.over
            assert not client.is_whole and client.last is not None and client.last.startswith(b'{"error":')
            setup.expected_alarms = 1

    run(test)
