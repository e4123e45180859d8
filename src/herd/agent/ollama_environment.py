"""Reads Ollama's slots, maximum number of loaded models and model folder from its environment, as its API lacks them.

The sources in order: the running process, the service manager (launchctl, systemd), the agent's own environment. No
source needs special permissions; a source that cannot be read is skipped. `read_setup` blocks: call it in a thread.
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
"""The variables that determine the model folder."""
VISIBLE_GPUS = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")
PORT_DEFAULT = 11434
SLOTS_MAX = 4096
COMMAND_TIMEOUT_S = 1.0

Source = Callable[[], Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class OllamaSetup:
    """A value is None if no source has it, or if it is 0, which means that Ollama decides."""

    slots: int | None = None
    models_max: int | None = None
    store: Mapping[str, str] = field(default_factory=dict)
    """The variables of `STORE` from Ollama's environment."""
    gpus: tuple[int, ...] | None = None
    """The numbers of the graphics cards that it may use; None: all."""


def read_setup(port: int, is_only: bool) -> OllamaSetup:
    """Reads the sources of this machine for the Ollama on this port.

    `is_only`: it is this machine's only one, or its first, so that the service and the agent's environment are its own.
    """
    if not is_only:
        return setup_from(lambda: _of_processes(port, is_only))
    return setup_from(lambda: _of_processes(port, is_only), _of_service, lambda: dict(os.environ))


def setup_from(*sources: Source) -> OllamaSetup:
    """Reads the sources in order until all values are known."""
    slots: int | None = None
    models_max: int | None = None
    store: dict[str, str] = {}
    gpus: tuple[int, ...] | None = None
    for source in sources:
        if slots is not None and models_max is not None:
            break
        environment = source()
        gpus = gpus if gpus is not None else parse_gpus(environment)
        store = store or {name: environment[name] for name in STORE if environment.get(name)}
        slots = slots if slots is not None else parse_count(environment.get(SLOTS, ""))
        models_max = models_max if models_max is not None else parse_count(environment.get(MODELS, ""))
    return OllamaSetup(slots, models_max, store, gpus)


def parse_gpus(environment: Mapping[str, str]) -> tuple[int, ...] | None:
    """The graphics cards to which this environment limits a program; None if it does not, or names them by UUID."""
    listed = next((environment[name] for name in VISIBLE_GPUS if environment.get(name)), "")
    numbers = [part.strip() for part in listed.split(",")]
    return tuple(map(int, numbers)) if all(number.isdecimal() for number in numbers) else None


def port_of(environment: Mapping[str, str]) -> int:
    """The port on which an Ollama with this environment listens."""
    tail = environment.get("OLLAMA_HOST", "").strip().rstrip("/").rpartition(":")[2]
    return int(tail) if tail.isdecimal() else PORT_DEFAULT


def parse_count(text: str) -> int | None:
    """A number as Ollama reads it; None for 0, which means that Ollama decides."""
    bare = text.strip().strip("\"'")
    return int(bare) if bare.isascii() and bare.isdigit() and 0 < int(bare[:9]) <= SLOTS_MAX else None


def from_systemd(text: str) -> dict[str, str]:
    """`systemctl show ollama --property=Environment` prints `Environment=A=1 "B=two words"`."""
    line = next((line for line in text.splitlines() if line.startswith("Environment=")), "")
    try:
        assignments = shlex.split(line.removeprefix("Environment="))
    except ValueError:
        return {}
    return {key: value for key, equals, value in (one.partition("=") for one in assignments) if equals}


def _of_processes(port: int, is_only: bool) -> dict[str, str]:
    """The environment of the server on this port, or else of any if there is only one."""
    environments = []
    for process in psutil.process_iter(["name", "cmdline"]):
        try:
            if is_server(process.info["name"] or "", process.info["cmdline"] or []):
                environments.append(dict(process.environ()))
        except (psutil.Error, OSError):
            continue  # another user's process, or it has ended
    matching = [environment for environment in environments if port_of(environment) == port]
    return next(iter(matching or (environments if is_only else ())), {})


def is_server(name: str, command: list[str]) -> bool:
    """Whether a process is `ollama serve`; clients and runners are the same program with another verb."""
    return name.lower().removesuffix(".exe") == "ollama" and command[1:2] == ["serve"]


def _of_service() -> dict[str, str]:
    if sys.platform == "darwin":
        return {name: _output_of("launchctl", "getenv", name).strip() for name in (SLOTS, MODELS, STORE[0])}
    if sys.platform == "linux":
        return from_systemd(_output_of("systemctl", "show", "ollama", "--property=Environment"))
    return {}


def _output_of(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S, check=False).stdout
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError):
        return ""
