"""The lines by which an engine tells how a download goes, and the name by which a model is asked from another node. Fetches nothing.

Ollama's /api/pull (transcripts of 0.32.15): {"status":"pulling 3b69...","digest":"sha256:..","total":N,"completed":N}, at last
{"status":"success"}; a failure after the first line is {"error":".."} under status 200.
"""

from __future__ import annotations

from urllib.parse import urlsplit

import msgspec

SUCCESS = "success"


class PullProgress(msgspec.Struct, omit_defaults=True):
    """One line. `error` empty unless it failed."""

    status: str = ""
    digest: str = ""
    total: int = 0
    completed: int = 0
    error: str = ""


_DECODER = msgspec.json.Decoder(PullProgress)


def read_progress(line: bytes) -> PullProgress | None:
    """None for what is no such line."""
    try:
        return _DECODER.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def registry_pull_name(library_url: str, digest: str) -> str:
    """How an engine asks another node's agent for the model with this digest; plain HTTP has to be partial_answer."""
    return f"http://{urlsplit(library_url).netloc}/herd/{digest}:latest"


def pulled_name(library_url: str, digest: str) -> str:
    """How the engine then calls it, until it gets its own name."""
    return f"{urlsplit(library_url).netloc}/herd/{digest}:latest"
