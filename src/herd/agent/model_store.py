"""Finds the model store of Ollama on this machine and reads its manifests and blobs.

    OLLAMA_MODELS/manifests/HOST/NAMESPACE/MODEL/TAG      a JSON list of layers
    OLLAMA_MODELS/blobs/sha256-HEX                        each layer once, also if several models share it

The layout is the same on Linux, macOS and Windows (measured with Ollama 0.32.15 on Linux; for the others see the FAQ of
Ollama's documentation, "Where are models stored"). Models and layers are requested by digest; a name from a request
never becomes part of a path.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

MANIFEST_MAX_BYTES = 1 << 20
MANIFESTS_MAX = 4096
"""Maximum number of manifests that are searched; further models are not available for copying."""
DEPTH = 4
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}\Z")


@dataclass(frozen=True, slots=True)
class Blob:
    path: Path
    size_bytes: int


class ModelStore:
    """One model store. Its methods block: call them in a thread."""

    def __init__(self, folder: Path) -> None:
        self._manifests = folder / "manifests"
        self._blobs = folder / "blobs"
        self._digests: dict[Path, tuple[tuple[int, int], str]] = {}
        """The digest of each manifest, valid while the file's time and size are the same."""

    def manifest(self, digest: str) -> bytes | None:
        """The manifest with this digest (64 hex digits, the model's digest in /api/tags) if all its layers are here."""
        for path in islice(_files(self._manifests, DEPTH), MANIFESTS_MAX):
            if self._digest_of(path) == digest:
                data = _content(path)
                return data if data is not None and self._is_complete(data) else None
        return None

    def blob(self, digest: str) -> Blob | None:
        """A layer by its digest, "sha256:" and 64 hex digits. None for an unfinished download."""
        if _DIGEST.match(digest) is None:
            return None
        path = self._blobs / digest.replace(":", "-")
        try:
            return Blob(path, path.stat().st_size) if path.is_file() and not path.is_symlink() else None
        except OSError:
            return None

    def _digest_of(self, path: Path) -> str:
        try:
            status = path.stat()
        except OSError:
            return ""
        stamp = (status.st_mtime_ns, status.st_size)
        known = self._digests.get(path)
        if known is None or known[0] != stamp:
            data = _content(path)
            known = (stamp, hashlib.sha256(data).hexdigest() if data is not None else "")
            if len(self._digests) >= MANIFESTS_MAX:
                self._digests.clear()
            self._digests[path] = known
        return known[1]

    def _is_complete(self, manifest: bytes) -> bool:
        listed = set(re.findall(rb'"(sha256:[0-9a-f]{64})"', manifest))
        return bool(listed) and all(self.blob(digest.decode()) is not None for digest in listed)


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes() if path.stat().st_size <= MANIFEST_MAX_BYTES else None
    except OSError:
        return None


def _files(folder: Path, depth: int) -> Iterator[Path]:
    try:
        entries = sorted(folder.iterdir())
    except OSError:
        return
    for entry in entries:
        if entry.is_symlink():
            continue
        if depth > 1 and entry.is_dir():
            yield from _files(entry, depth - 1)
        elif depth == 1 and entry.is_file():
            yield entry


def find_store(environment: Mapping[str, str], home: Path, platform: str = sys.platform) -> Path | None:
    """Ollama's model folder: from its environment, else one of the default folders; None if none is readable."""
    configured = environment.get("OLLAMA_MODELS", "")
    own = Path(environment.get("HOME") or environment.get("USERPROFILE") or home) / ".ollama" / "models"
    folders = [Path(configured)] if configured else [own, home / ".ollama" / "models"]
    if platform == "linux" and not configured:
        folders.append(Path("/usr/share/ollama/.ollama/models"))
    for folder in folders:
        if (
            (folder / "blobs").is_dir()
            and os.access(folder / "blobs", os.R_OK | os.X_OK)
            and (folder / "manifests").is_dir()
        ):
            return folder
    return None
