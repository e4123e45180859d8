"""Tests how headers name the app that sends a request, and that the number of names is bounded."""

from __future__ import annotations

import pytest

from herd.trust.app_names import APP_MAX_CHARS, APPS_MAX, OTHER, AppNames
from herd.trust.identity import Identities, IdentitySettings

AGENTS = (
    ("claude-cli/2.0.14 (external, cli)", "Claude Code"),
    ("codex_cli_rs/0.50.0 (Mac OS 15.1.0; arm64) iTerm.app/3.5", "Codex"),
    ("opencode/0.15.2 ai-sdk/openai-compatible/1.0.1 runtime/bun/1.3", "opencode"),
    ("Zed/0.209.5 (macos; aarch64)", "Zed"),
    ("Continue/1.3.0", "Continue"),
    ("HomeAssistant/2026.1.0 httpx/0.28 Python/3.13", "Home Assistant"),
    ("OpenAI/Python 1.99.0", "OpenAI SDK"),
    ("AsyncOpenAI/Python 1.99.0", "OpenAI SDK"),
    ("OpenAI/JS 6.1.0", "OpenAI SDK"),
    ("Anthropic/JS 0.60.0", "Anthropic SDK"),
    ("curl/8.9.1", "curl"),
    ("ollama/0.13.0 (amd64 linux) Go/go1.24", "Ollama CLI"),
    ("ollama-python/0.6.0 (x86_64 linux) Python/3.12", "Ollama SDK"),
    ("litellm/1.77.0", "LiteLLM"),
    ("MyReader/1.0 (+https://example.org)", "MyReader"),
    ("python-httpx/0.28.1", "Python"),
    ("Mozilla/5.0 (X11; Linux x86_64) Firefox/140.0", "Browser"),
    ("", ""),
    ("/", ""),
)


@pytest.mark.parametrize(("agent", "app"), AGENTS)
def test_user_agent_names_the_app(agent: str, app: str) -> None:
    assert AppNames().name({b"user-agent": agent}) == app


@pytest.mark.parametrize(
    ("headers", "app"),
    [
        ({b"x-title": "Roo Code", b"http-referer": "https://example.org", b"user-agent": "OpenAI/JS 6"}, "Roo Code"),
        ({b"x-title": "Our\t notes <b>", b"user-agent": "curl/8"}, "Our notes b"),
        ({b"http-referer": "https://www.continue.dev/", b"user-agent": "OpenAI/JS 6"}, "Continue"),
        ({b"http-referer": "https://openwebui.com/", b"user-agent": "aiohttp/3"}, "Open WebUI"),
        ({b"http-referer": "https://www.notes.example/app", b"user-agent": "node-fetch"}, "notes.example"),
        ({b"referer": "http://127.0.0.1:11435/chat", b"user-agent": "Mozilla/5.0"}, "Browser"),
        ({b"referer": "http://[::1", b"user-agent": "curl/8"}, "curl"),
        ({b"x-openwebui-user-id": "8d1b", b"user-agent": "Python/3.11 aiohttp/3.12"}, "Open WebUI"),
        ({}, ""),
    ],
)
def test_title_precedes_referer_and_user_agent(headers: dict[bytes, str], app: str) -> None:
    assert AppNames().name(headers) == app


def test_number_and_length_of_unknown_names_are_bounded() -> None:
    names = AppNames()
    found = {names.name({b"x-title": f"{n} {'x' * 900}"}) for n in range(3 * APPS_MAX)}
    assert len(found) == APPS_MAX + 1 and OTHER in found
    assert all(len(name) <= APP_MAX_CHARS for name in found)
    assert names.name({b"user-agent": "claude-cli/2"}) == "Claude Code", "known apps keep their name"


def test_a_library_is_not_an_app_but_divides_turns() -> None:
    identities = Identities(IdentitySettings(), lambda: b"s")
    sender = identities.sender({b"user-agent": "python-httpx/0.28"}, None, "192.168.1.2")
    assert (sender.app, sender.program) == ("", "Python")
