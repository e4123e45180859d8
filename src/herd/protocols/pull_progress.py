"""Reads the progress lines of a model download, and builds the model names for copies from another node.

Ollama's /api/pull (transcripts of 0.32.15) sends {"status":"pulling 3b69...","digest":"sha256:..","total":N,
"completed":N} and finally {"status":"success"}. A failure after the first line is {"error":".."} with status 200.
"""

from __future__ import annotations

from urllib.parse import urlsplit

import msgspec

SUCCESS = "success"


class PullProgress(msgspec.Struct, omit_defaults=True):
    """One progress line. `error` is empty unless the download failed."""

    status: str = ""
    digest: str = ""
    total: int = 0
    completed: int = 0
    error: str = ""


_DECODER = msgspec.json.Decoder(PullProgress)


def read_progress(line: bytes) -> PullProgress | None:
    """The progress in this line, or None if the line is not a progress line."""
    try:
        return _DECODER.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def registry_pull_name(library_url: str, digest: str) -> str:
    """The name by which an engine pulls the model with this digest from another node's agent over plain HTTP."""
    return f"http://{urlsplit(library_url).netloc}/herd/{digest}:latest"


def pulled_name(library_url: str, digest: str) -> str:
    """The name under which the engine stores the pulled model until it is renamed."""
    return f"{urlsplit(library_url).netloc}/herd/{digest}:latest"
