"""Builds the commands that fix a problem, for each operating system.

Commands follow Ollama's own installation notes: a systemd unit on Linux, the menu-bar app with `launchctl setenv` on
macOS, the tray app with `setx` on Windows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from herd.health import Command
from herd.health.snapshot import NodeNow
from herd.text import join_names

NAMES_SHOWN_MAX = 4
SYSTEMS = ("linux", "macos", "windows")
_RESTART_LINUX = "sudo systemctl restart ollama"
_RESTART_MACOS = "osascript -e 'quit app \"Ollama\"'; sleep 2; open -a Ollama"
_RESTART_WINDOWS = (
    'taskkill /F /IM "ollama app.exe" /IM ollama.exe & start "" "%LOCALAPPDATA%\\Programs\\Ollama\\ollama app.exe"'
)


def system_of(node: NodeNow) -> str:
    """One of `SYSTEMS`. An agent that reports no system is assumed to run Linux, unless its chip is from Apple."""
    reported = node.report.os.lower()
    if reported in ("darwin", "macos") or "apple" in node.report.chip.lower():
        return "macos"
    return "windows" if reported.startswith("win") else "linux"


def on_each(nodes: Iterable[NodeNow], command: Callable[[str], str]) -> tuple[Command, ...]:
    """The command for each operating system of these nodes."""
    systems = {system_of(node) for node in nodes}
    return tuple(Command(system, command(system)) for system in SYSTEMS if system in systems)


def anywhere(command: str) -> tuple[Command, ...]:
    return (Command("any", command),)


def restart(system: str) -> str:
    """Restarts Ollama."""
    return _for(system, _RESTART_LINUX, _RESTART_MACOS, _RESTART_WINDOWS)


def upgrade(system: str) -> str:
    """Upgrades Ollama to the newest version."""
    return _for(
        system,
        "curl -fsSL https://ollama.com/install.sh | sh",
        "brew upgrade ollama || open https://ollama.com/download",
        "winget upgrade Ollama.Ollama",
    )


def variable(name: str, value: str) -> Callable[[str], str]:
    """Sets an environment variable of Ollama permanently, and restarts Ollama."""
    unit = "/etc/systemd/system/ollama.service.d"
    linux = (
        f"sudo mkdir -p {unit} && printf '[Service]\\nEnvironment=\"{name}={value}\"\\n'"
        f" | sudo tee {unit}/{name.lower()}.conf"
        f" && sudo systemctl daemon-reload && {_RESTART_LINUX}"
    )
    macos, windows = f"launchctl setenv {name} {value}; {_RESTART_MACOS}", f"setx {name} {value} & {_RESTART_WINDOWS}"
    return lambda system: _for(system, linux, macos, windows)


def largest_processes(system: str) -> str:
    """Lists the processes that use most memory."""
    return _for(
        system,
        "ps -eo rss,pid,comm --sort=-rss | head",
        "top -l 1 -o mem -n 10",
        'powershell "Get-Process | Sort-Object WS -Descending | Select-Object -First 10"',
    )


def set_clock(system: str) -> str:
    """Synchronizes the clock with the network."""
    return _for(system, "sudo timedatectl set-ntp true", "sudo sntp -sS time.apple.com", "w32tm /resync")


def names(values: Iterable[str]) -> str:
    """Every name once, in order, at most four of them."""
    return join_names(sorted(set(values)), NAMES_SHOWN_MAX)


def numbers(version: str) -> tuple[int, ...]:
    """0.32.15-rc1 as (0, 32, 15); empty for a text that is not a version."""
    found = re.match(r"v?(\d+(?:\.\d+)*)", version.strip())
    return tuple(int(part) for part in found[1].split(".")) if found else ()


def _for(system: str, linux: str, macos: str, windows: str) -> str:
    return macos if system == "macos" else windows if system == "windows" else linux
