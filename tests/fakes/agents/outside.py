"""Provides a proxy that refuses everything and records who asked, so that tests see every attempt to leave the machine.

Agents reach the server under test without it, because loopback addresses are excluded from proxies.
"""

from __future__ import annotations

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

LOCAL = "127.0.0.1,localhost,::1"


class Outside:
    """A context manager; `asked` has the request lines."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        asked = self.asked

        class Refusing(BaseHTTPRequestHandler):
            def handle_one_request(self) -> None:
                asked.append(self.rfile.readline(65_536).decode("latin-1").strip())
                self.wfile.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                self.close_connection = True

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
        self._thread = Thread(target=self._server.serve_forever, name="outside", daemon=True)

    @property
    def environment(self) -> dict[str, str]:
        """The variables that make a program use it."""
        url = f"http://127.0.0.1:{self._server.server_address[1]}"
        proxies = dict.fromkeys(
            ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"), url
        )
        return {**proxies, "NO_PROXY": LOCAL, "no_proxy": LOCAL}

    def __enter__(self) -> Outside:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
