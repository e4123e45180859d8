"""Finds the real aider, which lives in an environment of its own in the cache folder of the tests (about 670 MB).

No test run installs it; without it its tests are skipped, with the command that installs it.
"""

from __future__ import annotations

from pathlib import Path

from fakes.llamacpp.tiny_gguf import cache_folder

VERSION = "0.86.2"
PACKAGE = f"aider-chat=={VERSION}"


class Unavailable(Exception):
    """It is not installed. The message has the command that installs it."""


def folder() -> Path:
    return cache_folder().parent / f"aider-chat-{VERSION}"


def find() -> Path:
    """The Python that has it; `python -m aider` starts it. Raises `Unavailable`."""
    python = folder() / "bin" / "python"
    if not (folder() / "bin" / "aider").exists():
        command = f"python3.12 -m venv {folder()} && {folder()}/bin/pip install {PACKAGE}"
        raise Unavailable(f"{PACKAGE} is not installed; to test with it: {command}")
    return python
