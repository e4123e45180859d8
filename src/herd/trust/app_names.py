"""Names the app that sends a request, from the headers that it adds: X-Title, HTTP-Referer and User-Agent.

The name is not verified: it is shown in statistics, and apps with one key or address take turns by it. One
table of rules names the known apps; the other names are short, and their number is bounded.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final
from urllib.parse import urlsplit

APP_MAX_CHARS: Final = 48
APPS_MAX: Final = 256
"""Names that are not in the table; later ones are counted together as `OTHER`."""
OTHER: Final = "other apps"
BROWSER: Final = "Browser"
HEADER_MAX_CHARS: Final = 512

TITLE, REFERER, AGENT = b"x-title", b"http-referer", b"user-agent"
OPEN_WEBUI_PREFIX: Final = b"x-openwebui-"
APP_HEADERS: Final = frozenset({TITLE, REFERER, b"referer", AGENT, b"x-openwebui-user-id", b"x-openwebui-chat-id"})

# The first rule whose text occurs in the header wins, so that a special client precedes the library that it uses.
RULES: Final[tuple[tuple[str, str], ...]] = (
    ("claude-cli", "Claude Code"),
    ("claude-code", "Claude Code"),
    ("claude code", "Claude Code"),
    ("codex", "Codex"),
    ("opencode", "opencode"),
    ("openwebui", "Open WebUI"),
    ("open-webui", "Open WebUI"),
    ("open webui", "Open WebUI"),
    ("librechat", "LibreChat"),
    ("zed/", "Zed"),
    ("zed.dev", "Zed"),
    ("continue", "Continue"),
    ("homeassistant", "Home Assistant"),
    ("home-assistant", "Home Assistant"),
    ("home assistant", "Home Assistant"),
    ("cline", "Cline"),
    ("roo code", "Roo Code"),
    ("roo-code", "Roo Code"),
    ("roocode", "Roo Code"),
    ("aider", "aider"),
    ("cursor", "Cursor"),
    ("githubcopilot", "GitHub Copilot"),
    ("goose", "goose"),
    ("anythingllm", "AnythingLLM"),
    ("jan.ai", "Jan"),
    ("sillytavern", "SillyTavern"),
    ("n8n", "n8n"),
    ("litellm", "LiteLLM"),
    ("langchain", "LangChain"),
    ("llama_index", "LlamaIndex"),
    ("ai-sdk/", "Vercel AI SDK"),
    ("ollama-python", "Ollama SDK"),
    ("ollama-js", "Ollama SDK"),
    ("ollama/", "Ollama CLI"),
    ("openai/", "OpenAI SDK"),
    ("anthropic/", "Anthropic SDK"),
    ("curl/", "curl"),
    ("wget/", "Wget"),
    ("postmanruntime", "Postman"),
    ("python-requests", "Python"),
    ("python-httpx", "Python"),
    ("aiohttp", "Python"),
    ("python-urllib", "Python"),
    ("go-http-client", "Go"),
    ("node-fetch", "Node.js"),
    ("undici", "Node.js"),
    ("axios", "Node.js"),
)
"""A text in lower case, and the app whose X-Title, HTTP-Referer or User-Agent contains it."""
LIBRARIES: Final = frozenset({"Python", "Node.js", "Go", BROWSER})
"""Names that say how an app sends requests, not which app it is."""
KNOWN: Final = frozenset({name for _, name in RULES} | {BROWSER, OTHER})
_LABEL = re.compile(r"(?:[^\w.()+#-])+")


class AppNames:
    """Remembers the names that are not in the table, to bound their number."""

    def __init__(self) -> None:
        self._seen: set[str] = set()

    def name(self, values: Mapping[bytes, str]) -> str:
        """The app of a request with these headers (`APP_HEADERS`); empty if they say nothing."""
        if any(name.startswith(OPEN_WEBUI_PREFIX) for name in values):
            return "Open WebUI"
        for header, of_header in _READERS:
            if text := values.get(header, ""):
                found = of_header(text[:HEADER_MAX_CHARS])
                if found:
                    return self._bounded(found)
        return ""

    def _bounded(self, name: str) -> str:
        if name in KNOWN or name in self._seen:
            return name
        if len(self._seen) >= APPS_MAX:
            return OTHER
        self._seen.add(name)
        return name


def _of_title(text: str) -> str:
    return _known(text) or _label(text)


def _of_referer(text: str) -> str:
    """The app behind a page, else the page's host. A page of the coordinator's own machine names nothing."""
    try:
        host = urlsplit(text).hostname or ""
    except ValueError:
        return ""
    if host in ("", "localhost") or host.replace(".", "").isdigit() or ":" in host:
        return ""
    return _known(host) or _label(host.removeprefix("www."))


def _of_agent(text: str) -> str:
    """The known client, else the name of the first product, as in "product/1.0 (comment) library/2.0"."""
    if found := _known(text):
        return found
    product = text.split("/", 1)[0].split(" ", 1)[0]
    return BROWSER if product == "Mozilla" else _label(product)


def _known(text: str) -> str:
    text = text.lower()
    return next((name for part, name in RULES if part in text), "")


def _label(text: str) -> str:
    return _LABEL.sub(" ", text).strip()[:APP_MAX_CHARS].rstrip()


_READERS: Final[tuple[tuple[bytes, Callable[[str], str]], ...]] = (
    (TITLE, _of_title),
    (REFERER, _of_referer),
    (b"referer", _of_referer),
    (AGENT, _of_agent),
)
