"""How the Ollama of this machine was started, since it never tells: its slots, how many models it keeps, and where its store is.

Looked for, the first that tells: the running process, the service manager (launchctl, systemd), the agent's own
environment. Nothing needs a special right; what may not be read is not known. Blocks: meant for a thread.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import psutil

SLOTS = "OLLAMA_NUM_PARALLEL"
MODELS = "OLLAMA_MAX_LOADED_MODELS"
STORE = ("OLLAMA_MODELS", "HOME", "USERPROFILE")
"""By which its models are found."""
SLOTS_MAX = 4096
QUICK_S = 1.0

Source = Callable[[], Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class OllamaSetup:
    """What is known of it; None where nobody tells, or Ollama decides by itself (0)."""

    slots: int | None = None
    models_max: int | None = None
    store: Mapping[str, str] = field(default_factory=dict)
    """What its environment says of STORE."""


def read_setup() -> OllamaSetup:
    """What this machine tells now."""
    return setup_from(_of_processes, _of_service, lambda: dict(os.environ))


def setup_from(*sources: Source) -> OllamaSetup:
    """Asks one source after the other for what is still unknown."""
    slots: int | None = None
    models_max: int | None = None
    store: dict[str, str] = {}
    for source in sources:
        if slots is not None and models_max is not None:
            break
        told = source()
        store = store or {name: told[name] for name in STORE if told.get(name)}
        slots = slots if slots is not None else whole(told.get(SLOTS, ""))
        models_max = models_max if models_max is not None else whole(told.get(MODELS, ""))
    return OllamaSetup(slots, models_max, store)


def whole(text: str) -> int | None:
    """A number as Ollama reads it from its environment; 0 means "decide yourself"."""
    bare = text.strip().strip("\"'")
    return int(bare) if bare.isascii() and bare.isdigit() and 0 < int(bare[:9]) <= SLOTS_MAX else None


def from_systemd(text: str) -> dict[str, str]:
    """`systemctl show ollama --property=Environment` prints `Environment=A=1 "B=two words"`."""
    line = next((line for line in text.splitlines() if line.startswith("Environment=")), "")
    try:
        words = shlex.split(line.removeprefix("Environment="))
    except ValueError:
        return {}
    return {key: value for key, equals, value in (word.partition("=") for word in words) if equals}


def _of_processes() -> dict[str, str]:
    for process in psutil.process_iter(["name", "cmdline"]):
        try:
            if is_server(process.info["name"] or "", process.info["cmdline"] or []):
                return dict(process.environ())
        except (psutil.Error, OSError):
            continue  # another user's, or gone
    return {}


def is_server(name: str, command: list[str]) -> bool:
    """Whether a process is `ollama serve`; clients and runners are the same program with another verb."""
    return name.lower().removesuffix(".exe") == "ollama" and command[1:2] == ["serve"]


def _of_service() -> dict[str, str]:
    if sys.platform == "darwin":
        return {name: _printed_by("launchctl", "getenv", name).strip() for name in (SLOTS, MODELS, STORE[0])}
    if sys.platform == "linux":
        return from_systemd(_printed_by("systemctl", "show", "ollama", "--property=Environment"))
    return {}


def _printed_by(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=QUICK_S, check=False).stdout
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError):
        return ""
