"""Compiles the modules that `compiled.toml` selects, with mypyc; uncompiled, the same files do the same.

`hatch_build.py` calls it for wheels with HERD_COMPILE=1, and `dev.py` to test and measure the compiled form. It needs
mypy, setuptools and a C compiler. HERD_COMPILE_LEVEL sets the optimization of the C compiler.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import tomllib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from setuptools import Extension

ROOT: Final = Path(__file__).resolve().parent
SOURCES: Final = ROOT / "src"
SELECTION: Final = ROOT / "compiled.toml"
BUILT: Final = ROOT / "build/compiled"
"""A copy of the package with the compiled modules beside its files."""
CACHE: Final = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "herd-tests/compiled"
GROUP: Final = "herd"
"""The name of the shared library, `herd__mypyc`, that has the code of all compiled modules."""
LEVEL: Final = os.environ.get("HERD_COMPILE_LEVEL", "2")


def selected() -> tuple[str, ...]:
    """The paths of all compiled modules below `src/`, in order."""
    choice = tomllib.loads(SELECTION.read_text("utf-8"))
    uncompiled = {module for modules in choice["pure"].values() for module in modules}
    found = [
        path.relative_to(SOURCES)
        for package in choice["packages"]
        for path in sorted((SOURCES / package.replace(".", "/")).rglob("*.py"))
    ]
    found += [Path(*module.split(".")).with_suffix(".py") for module in choice["modules"]]
    return tuple(path.as_posix() for path in found if module_name(path) not in uncompiled)


def module_name(path: Path) -> str:
    """The name of a module from its path below `src/`."""
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def compiled_modules() -> Path:
    """The folder in the user's cache with the compiled modules of exactly these sources. Compiles them if needed."""
    folder = CACHE / "modules" / digest()
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as unfinished:
            compile_into(Path(unfinished) / "lib")
            # If another process was faster, its folder is the same.
            if not folder.exists():
                (Path(unfinished) / "lib").rename(folder)
    return folder


def digest() -> str:
    """A hash of what the compiled modules depend on: also of uncompiled modules, whose types the compiler reads."""
    paths = [Path(__file__), SELECTION, *sorted((SOURCES / "herd").rglob("*.py"))]
    return hash_of(paths, version("mypy"), platform.platform(), LEVEL)


def hash_of(paths: Iterable[Path], *others: str) -> str:
    found = hashlib.sha256(repr((sys.version, c_compiler(), others)).encode())
    for path in paths:
        found.update(path.name.encode() + b"\0")
        found.update(hashlib.sha256(path.read_bytes()).digest())
    return found.hexdigest()[:24]


@cache
def c_compiler() -> str:
    """The command of the C compiler with its version: an update of the compiler makes other objects."""
    command = os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc"
    try:
        done = subprocess.run([*shlex.split(command), "--version"], capture_output=True, text=True, check=False)
    except OSError:
        return str(command)
    return f"{command}: {done.stdout}"


def compile_into(target: Path) -> None:
    """Writes the compiled modules below the folder, where a wheel has them."""
    from mypyc.build import mypycify  # noqa: PLC0415 - only a build needs these packages
    from setuptools import Distribution  # noqa: PLC0415
    from setuptools.command.build_ext import build_ext  # noqa: PLC0415

    class Build(build_ext):  # type: ignore[misc]
        """Compiles as many C files at a time as there are processors, and only those that have changed."""

        def build_extension(self, ext: Extension) -> None:
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                ext.extra_objects = list(pool.map(lambda source: self.object_of(ext, source), ext.sources))
            ext.sources = []
            super().build_extension(ext)

        def object_of(self, ext: Extension, source: str) -> str:
            headers = (path for folder in ext.include_dirs for path in sorted(Path(folder).rglob("*.h")))
            known = CACHE / "objects" / f"{hash_of([Path(source), *headers], *ext.extra_compile_args)}.o"
            if not known.exists():
                [made] = self.compiler.compile(
                    [source], self.build_temp, include_dirs=ext.include_dirs, extra_postargs=ext.extra_compile_args
                )
                known.parent.mkdir(parents=True, exist_ok=True)
                # Renamed, so that no other process reads half of a file.
                shutil.copyfile(made, f"{known}.{os.getpid()}")
                Path(f"{known}.{os.getpid()}").replace(known)
            return str(known)

    os.chdir(SOURCES)
    options = ["--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(ROOT / ".mypy_cache/compiled")]
    with tempfile.TemporaryDirectory() as folder:
        extensions = mypycify(
            [*options, *selected()],
            opt_level=LEVEL,
            debug_level="0",
            multi_file=True,
            target_dir=f"{folder}/c",
            group_name=GROUP,
        )
        build = Build(Distribution({"name": "herd", "ext_modules": extensions}))
        build.build_lib, build.build_temp, build.parallel = str(target), f"{folder}/o", os.cpu_count()
        build.ensure_finalized()
        build.run()


def assemble() -> Path:
    """The folder from which tests and benchmarks import the compiled form."""
    modules = compiled_modules()
    shutil.rmtree(BUILT, ignore_errors=True)
    shutil.copytree(SOURCES / "herd", BUILT / "herd", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(modules, BUILT, dirs_exist_ok=True)
    return BUILT


def main(arguments: list[str]) -> int:
    """Writes the compiled modules into the folder named by the argument; without one, assembles `build/compiled`."""
    if arguments:
        shutil.copytree(compiled_modules(), arguments[0], dirs_exist_ok=True)
    else:
        assemble()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
