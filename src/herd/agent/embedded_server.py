"""Serves the embedded engine as a child process: `python -m herd.agent.embedded_server '{"path": ...}'`.

It prints one line: its address, or an error. It ends when its standard input closes. That happens also if the parent
process is killed, so the engine never outlives the agent.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading

import xllamacpp


def serve(options: dict[str, object]) -> xllamacpp.Server:
    """A running server on a free port. Raises `RuntimeError` or `ValueError` if the model cannot be loaded."""
    params = xllamacpp.CommonParams()
    params.model.path = options["path"]
    params.model_alias = {options["name"]}
    params.n_parallel = options["slots"]
    params.n_ctx = int(str(options["context_tokens"])) * int(str(options["slots"]))  # llama.cpp divides it by the slots
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.endpoint_metrics = True
    params.endpoint_props = True
    params.endpoint_slots = True
    params.verbosity = 0
    params.cpuparams.n_threads = options["threads"]
    params.cpuparams_batch.n_threads = options["threads"]
    return xllamacpp.Server(params)


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    # Without waiting for the engine's threads: they have nothing to save.
    os._exit(0)


def main() -> None:
    # Ctrl-C is sent to every process of the terminal; the parent ends this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    watching = threading.Thread(target=_end_with_parent, name="parent", daemon=True)
    watching.start()
    try:
        server = serve(json.loads(sys.argv[1]))
    except (RuntimeError, ValueError, OSError) as error:
        _print_line(" ".join(str(error).split()) or type(error).__name__)
        os._exit(1)
    _print_line(server.listening_address)
    watching.join()


def _print_line(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
