"""Tests that the coordinator connects only to the sender of a report, for any form of announced engine address."""

from __future__ import annotations

import http.client
import itertools
import json
import socket
import sys
import threading
import time
from dataclasses import replace
from urllib.parse import urlsplit

import pytest

from builders import a_model_info, a_report, an_engine
from fakes.fleet import Fleet, running_fleet, settings_for_tests
from herd.agent_protocol import heartbeat_checks, heartbeat_encode
from herd.core.lifecycle.holding import HoldingSettings
from herd.errors import HerdError

CANARY = "127.0.0.2"
HOSTS = (
    "169.254.169.254",
    "metadata.google.internal",
    "localhost",
    "127.0.0.1",
    "127.1",
    "0",
    "0.0.0.0",
    "[::]",
    "[::1]",
    "[::ffff:169.254.169.254]",
    "[::ffff:a9fe:a9fe]",
    "2852039166",
    "0xa9fea9fe",
    "0251.0376.0251.0376",
    "169.254.43518",
    "evil.example",
    "127.0.0.1.nip.io",
    "user@10.0.0.1",
    "10.0.0.1@evil.example",
    "evil.example#@10.0.0.1",
    "evil.example\\@10.0.0.1",
    "10.0.0.1%00.evil.example",
    "\u2460\u2461\u2466.\u24ea.\u24ea.\u2460",
    "\uff11\uff12\uff17.0.0.1",
    "",
    "[fe80::1%25eth0]",
    "a" * 300,
    "evil.example%2f@x",
    "..",
    "%31%32%37.0.0.1",
)
SHAPES = (
    "http://{}:PORT",
    "http://{}:PORT/",
    "http://{}:PORT/api",
    "https://{}:PORT",
    "HTTP://{}:PORT",
    "http:/{}:PORT",
    "http:\\\\{}:PORT",
    "//{}:PORT",
    "{}:PORT",
    "file://{}/etc/passwd",
    "gopher://{}:PORT/",
    "ftp://{}:PORT",
    "http://{}:PORT@127.0.0.1:1",
    "http://127.0.0.1:1@{}:PORT",
)
PORTS = ("{port}", "0", "-1", "65536", "80", "22", "0x50", "\uff18\uff10")


class Canary:
    """Listens on an address of this machine that sends no report, and counts connections."""

    def __init__(self) -> None:
        self.seen = 0
        self._socket = socket.create_server((CANARY, 0))
        self.port = int(self._socket.getsockname()[1])
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.seen += 1
            connection.close()

    def close(self) -> None:
        self._socket.close()


def forms(port: int) -> list[str]:
    places = [shape.format(host).replace("PORT", str(port)) for shape, host in itertools.product(SHAPES, HOSTS)]
    return places + [f"http://10.0.0.1:{text.format(port=port)}" for text in PORTS]


def test_hundreds_of_address_forms_are_tested() -> None:
    assert len(set(forms(1))) > 300


@pytest.mark.parametrize("source", ["192.168.1.7", "10.0.0.9", "fd00::7"])
def test_the_announced_host_name_is_ignored(source: str) -> None:
    for form in forms(8080):
        try:
            decoded = heartbeat_checks.address(form, source)
        except HerdError:
            continue
        parts = urlsplit(decoded)
        assert (
            parts.scheme == "http"
            and parts.hostname == source
            and 0 <= (parts.port or 0) <= 65535
            and parts.username is None
        ), (form, decoded)


@pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux answers on all of 127.0.0.0/8: CONNECTIONS TO A CANARY ARE NOT TESTED"
)
def test_no_address_form_makes_the_coordinator_connect_to_a_host_other_than_the_sender() -> None:
    """Reports each form with a model and requests it. Reports come from 127.0.0.1; the canary is on 127.0.0.2."""
    canary = Canary()
    accepted_reports = 0
    without_waiting = replace(settings_for_tests(), holding=HoldingSettings(wait_max_s=0.0, start_grace_s=0.0))
    with running_fleet({}, settings=without_waiting) as fleet:
        for number, form in enumerate(forms(canary.port)):
            for text in (form, form.replace("evil.example", CANARY).replace("127.0.0.1", CANARY)):
                report = a_report(
                    "n", [a_model_info(f"m{number}", loaded=True)], boot_id=f"b{number}", engines=(an_engine(),)
                )
                body = json.loads(heartbeat_encode.encode(report, time.time()))
                for engine in body["herd"]["engines"]:
                    engine["url"] = text
                accepted_reports += post(fleet, "/heartbeat", body) == 200
                post(
                    fleet,
                    "/api/chat",
                    {"model": f"m{number}", "messages": [], "stream": False, "options": {"num_predict": 1}},
                )
    seen = canary.seen
    canary.close()
    assert seen == 0 and accepted_reports > 20


def post(fleet: Fleet, path: str, body: object) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", fleet.port, timeout=60)
    connection.request("POST", path, json.dumps(body).encode())
    with connection.getresponse() as response:
        response.read()
    connection.close()
    return response.status
