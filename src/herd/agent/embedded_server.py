"""The child that is the embedded engine: `python -m herd.agent.embedded_server '{"path": ...}'`. Knows no agent.

Its one line of output is its address, or what went wrong. It ends when its standard input closes, which happens whatever
ends its parent, so that no engine is ever left behind.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading

import xllamacpp


def serve(wish: dict[str, object]) -> xllamacpp.Server:
    """A running server on a port of its own choice. Raises RuntimeError or ValueError when the model cannot be loaded."""
    params = xllamacpp.CommonParams()
    params.model.path = wish["path"]
    params.model_alias = {wish["name"]}
    params.n_parallel = wish["slots"]
    params.n_ctx = int(str(wish["context_tokens"])) * int(str(wish["slots"]))  # llama.cpp divides it by the slots
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.endpoint_metrics = True
    params.endpoint_props = True
    params.endpoint_slots = True
    params.verbosity = 0
    params.cpuparams.n_threads = wish["threads"]
    params.cpuparams_batch.n_threads = wish["threads"]
    return xllamacpp.Server(params)


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    # The engine's threads are not worth waiting for: nothing of theirs outlives the process.
    os._exit(0)


def main() -> None:
    # Ctrl-C reaches every process of a terminal; the parent decides what it means for this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    watching = threading.Thread(target=_end_with_parent, name="parent", daemon=True)
    watching.start()
    try:
        server = serve(json.loads(sys.argv[1]))
    except (RuntimeError, ValueError, OSError) as error:
        _say(" ".join(str(error).split()) or type(error).__name__)
        os._exit(1)
    _say(server.listening_address)
    watching.join()


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
