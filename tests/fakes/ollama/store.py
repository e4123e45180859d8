"""Writes a model store on disk in Ollama's format: blobs by digest, and a manifest that lists them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path


def make(
    store: Path, name: str = "registry.ollama.ai/library/m/latest", layers: tuple[bytes, ...] = (b"weights", b"license")
) -> str:
    """Writes a model in Ollama's format and returns its digest."""
    listed = []
    for layer in layers:
        digest = hashlib.sha256(layer).hexdigest()
        (store / "blobs").mkdir(parents=True, exist_ok=True)
        (store / "blobs" / f"sha256-{digest}").write_bytes(layer)
        listed.append({"digest": f"sha256:{digest}", "size": len(layer)})
    manifest = json.dumps({"schemaVersion": 2, "layers": listed}).encode()
    path = store / "manifests" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(manifest)
    return hashlib.sha256(manifest).hexdigest()
