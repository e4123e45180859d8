"""Runs one real llama.cpp server in this process until SIGTERM; `engines.py` starts it.

Usage: python engine_process.py MODEL.gguf '{"alias": "m", "slots": 1, ...}'. Its first line is its port.
"""

from __future__ import annotations

import json
import signal
import sys
from urllib.parse import urlsplit

import xllamacpp


def serve(path: str, wanted: dict[str, object]) -> xllamacpp.Server:
    """Starts the server on a port that the system chooses."""
    params = xllamacpp.CommonParams()
    params.model.path = path
    params.model_alias = {str(wanted["alias"])}
    params.n_ctx = int(str(wanted["context_tokens"])) * int(str(wanted["slots"]))
    params.n_parallel = int(str(wanted["slots"]))
    params.hostnames = ["127.0.0.1"]
    params.port = int(str(wanted["port"]))
    params.endpoint_metrics = True
    params.endpoint_props = True
    params.embedding = bool(wanted["embedding"])
    if wanted["api_key"]:
        params.api_keys = [str(wanted["api_key"])]
    params.verbosity = 0
    # One thread each, because dozens of busy-waiting engines on two cores would starve each other.
    params.cpuparams.n_threads = 1
    params.cpuparams_batch.n_threads = 1
    params.n_threads_http = 2
    params.cache_ram_mib = 0
    return xllamacpp.Server(params)


def main() -> None:
    # The signal is blocked and received by sigwait, so that the process ends at a known point.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    server = serve(sys.argv[1], json.loads(sys.argv[2]))
    sys.stdout.write(f"port {urlsplit(server.listening_address).port}\n")
    sys.stdout.flush()
    signal.sigwait({signal.SIGTERM})
    del server


if __name__ == "__main__":
    main()
