"""The repository contains no local path, index host, or large file, and its links are valid."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from project.ratchet import budget, grown
from project.source import ROOT, repository_files

FILE_MAX_BYTES = 512 * 1024
FOLDER_MAX_FILES = 22
SOURCES = frozenset({".py", ".ts", ".svelte", ".css"})
PARTS = ("src/", "tests/", "frontend/")
LOCAL_PATH = re.compile(r"(?<![\w.~/-])/(?:work|root|tmp/lab|home/[a-z]+)/[\w.]")
EXAMPLE_HOMES = re.compile(r"/home/(?:ann|you|user|me|someone|herd)/")
INDEX_HOSTS = tuple(
    ".".join(parts)
    for parts in (("pypi", "org"), ("pythonhosted", "org"), ("npmjs", "org"), ("proxy", "golang", "org"))
)
"""Each reader chooses the package index."""
LOCK_FILE = re.compile(r"(?:.*[.-])?lock(?:\.(?:json|yaml|toml))?|npm-shrinkwrap\.json", re.IGNORECASE)
LINK = re.compile(r"(?<!!)\[[^\]\n]*\]\(([^)\s]+)[^)\n]*\)|!\[[^\]\n]*\]\(([^)\s]+)[^)\n]*\)")
FENCED = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
SCHEME = re.compile(r"[a-z][a-z0-9+.-]*:")
TEXT = frozenset(
    {
        ".py",
        ".md",
        ".toml",
        ".ini",
        ".txt",
        ".json",
        ".js",
        ".css",
        ".html",
        ".sh",
        ".yml",
        ".yaml",
        ".env",
        ".example",
        "",
    }
)


def shown(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def text_of(path: Path) -> str:
    return path.read_text("utf-8", errors="replace") if path.suffix in TEXT else ""


def local_paths(text: str) -> list[str]:
    return [found[0] for found in LOCAL_PATH.finditer(EXAMPLE_HOMES.sub("", text))]


def test_no_file_names_a_local_path() -> None:
    here = Path(__file__).resolve()
    named = {
        shown(path): found for path in repository_files() if path != here and (found := local_paths(text_of(path)))
    }
    assert not named


WORK = "work"
"""Joined below, so that this file contains no such path itself."""


@pytest.mark.parametrize("text", [f"see /{WORK}/x", "open('/root/x')", '"/tmp/lab/v"', "/home/joe/x"])
def test_a_local_path_is_found(text: str) -> None:
    assert local_paths(text)


@pytest.mark.parametrize(
    "text", [f"src/{WORK}/x", "https://host/root/x", "/home/ann/.fleet-manager/env", "/tmp/x", "at /root"]
)
def test_other_paths_are_not_found(text: str) -> None:
    assert not local_paths(text)


def test_no_file_names_the_host_of_a_package_index() -> None:
    named = {shown(path): host for path in repository_files() for host in INDEX_HOSTS if host in text_of(path)}
    assert not named


def test_no_lock_file_holds_addresses() -> None:
    locks = [path for path in repository_files() if LOCK_FILE.fullmatch(path.name)]
    assert not [shown(path) for path in locks if "://" in path.read_text("utf-8", errors="replace")]


def test_pins_are_hashed_and_name_no_address() -> None:
    for path in sorted((ROOT / "constraints").glob("*.txt")):
        text = path.read_text("utf-8")
        assert "://" not in text, shown(path)
        pinned = re.findall(r"^[A-Za-z0-9][\w.-]*==\S+.*$", text, re.MULTILINE)
        assert pinned and all(line.endswith("\\") for line in pinned), shown(path)
        assert text.count("--hash=sha256:") >= len(pinned), shown(path)


def test_no_file_is_large() -> None:
    assert not [shown(path) for path in repository_files() if path.stat().st_size > FILE_MAX_BYTES]


def test_no_folder_holds_too_many_sources() -> None:
    folders = Counter(
        shown(path.parent) for path in repository_files() if path.suffix in SOURCES and shown(path).startswith(PARTS)
    )
    crowded = {folder: count for folder, count in folders.items() if count > FOLDER_MAX_FILES}
    assert not grown(crowded, budget().get("crowded_folder", {})), crowded


def test_every_relative_link_names_an_existing_file() -> None:
    broken = []
    for path in repository_files():
        if path.suffix == ".md":
            for link in LINK.finditer(FENCED.sub("", path.read_text("utf-8"))):
                target = (link[1] or link[2]).partition("#")[0].strip("<>")
                if target and not SCHEME.match(target) and not (path.parent / target).exists():
                    broken.append(f"{shown(path)}: {target}")
    assert not broken
