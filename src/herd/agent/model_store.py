"""What an Ollama on this machine has on disk, read only: where its store is, its manifests and its blobs. Serves nothing itself.

    OLLAMA_MODELS/manifests/HOST/NAMESPACE/MODEL/TAG      a JSON list of layers
    OLLAMA_MODELS/blobs/sha256-HEX                        each layer once, however many models share it

The same on Linux, macOS and Windows (measured with 0.32.15 on Linux; the others by Ollama's documentation, docs/faq.md, "Where are models
stored"). What is asked for from outside are digests; no path is ever made of a name.
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
"""So many models are shared; a store with more is shared in part."""
DEPTH = 4
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}\Z")


@dataclass(frozen=True, slots=True)
class Blob:
    path: Path
    size_bytes: int


class ModelStore:
    """One store. Blocks: meant for a thread."""

    def __init__(self, folder: Path) -> None:
        self._manifests = folder / "manifests"
        self._blobs = folder / "blobs"
        self._known: dict[Path, tuple[tuple[int, int], str]] = {}
        """Each manifest's digest, as long as its time and size stay the same."""

    def manifest(self, digest: str) -> bytes | None:
        """The manifest with this digest (64 hex digits: what /api/tags calls the model's), if everything that it lists is there."""
        for path in islice(_files(self._manifests, DEPTH), MANIFESTS_MAX):
            if self._digest_of(path) == digest:
                data = _content(path)
                return data if data is not None and self._is_complete(data) else None
        return None

    def blob(self, digest: str) -> Blob | None:
        """A layer by its digest, "sha256:" and 64 hex digits; a download that is not finished is none."""
        if _DIGEST.match(digest) is None:
            return None
        path = self._blobs / digest.replace(":", "-")
        try:
            return Blob(path, path.stat().st_size) if path.is_file() and not path.is_symlink() else None
        except OSError:
            return None

    def _digest_of(self, path: Path) -> str:
        try:
            about = path.stat()
        except OSError:
            return ""
        stamp = (about.st_mtime_ns, about.st_size)
        known = self._known.get(path)
        if known is None or known[0] != stamp:
            data = _content(path)
            known = (stamp, hashlib.sha256(data).hexdigest() if data is not None else "")
            if len(self._known) >= MANIFESTS_MAX:
                self._known.clear()
            self._known[path] = known
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
    """Where Ollama keeps its models: where its environment says, else in the places of this system; None where it cannot be read."""
    told = environment.get("OLLAMA_MODELS", "")
    own = Path(environment.get("HOME") or environment.get("USERPROFILE") or home) / ".ollama" / "models"
    places = [Path(told)] if told else [own, home / ".ollama" / "models"]
    if platform == "linux" and not told:
        places.append(Path("/usr/share/ollama/.ollama/models"))
    for place in places:
        if (
            (place / "blobs").is_dir()
            and os.access(place / "blobs", os.R_OK | os.X_OK)
            and (place / "manifests").is_dir()
        ):
            return place
    return None
