"""Tests https on its own port, with the same answers as on the plain port."""

from __future__ import annotations

import datetime
import http.client
import ipaddress
import json
import ssl
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from fakes.fleet import running_fleet, settings_for_tests
from fakes.ollama.server import FakeOllama
from herd.http1 import tls
from herd.http1.tls import BadCertificate, TlsSettings

LONG = datetime.timedelta(days=3650)


def a_certificate(folder: Path, password: bytes | None = None) -> TlsSettings:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "herd.test")])
    now = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - LONG)
        .not_valid_after(now + LONG)
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    locked = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, locked)
    )
    return TlsSettings(folder / "cert.pem", folder / "key.pem", port=0)


@pytest.fixture
def secure(tmp_path: Path) -> Iterator[tuple[int, ssl.SSLContext]]:
    settings = a_certificate(tmp_path)
    with (
        FakeOllama(["m"]) as engine,
        running_fleet({"alpha": engine}, settings=replace(settings_for_tests(), tls=settings)) as fleet,
    ):
        server = fleet.coordinator.tls_server
        assert server is not None
        yield server.port, ssl.create_default_context(cafile=str(settings.certificate))


def test_a_stream_is_answered_over_https(secure: tuple[int, ssl.SSLContext]) -> None:
    port, trusted = secure
    connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=30, context=trusted)
    for _ in range(2):
        connection.request(
            "POST", "/api/chat", json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}]})
        )
        lines = connection.getresponse().read().splitlines()
        assert json.loads(lines[-1])["done"] is True and len(lines) > 1
    connection.close()


def test_plain_http_on_the_https_port_is_not_answered(secure: tuple[int, ssl.SSLContext]) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", secure[0], timeout=30)
    with pytest.raises((http.client.HTTPException, OSError)):
        connection.request("GET", "/health")
        connection.getresponse()
    connection.close()


def test_a_certificate_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadCertificate, match=r"missing\.pem"):
        tls.ssl_context(TlsSettings(tmp_path / "missing.pem", tmp_path / "missing.pem"))
    with pytest.raises(BadCertificate, match="password"):
        tls.ssl_context(a_certificate(tmp_path, password=b"secret"))
    (tmp_path / "cert.pem").write_text("no certificate")
    with pytest.raises(BadCertificate):
        tls.ssl_context(TlsSettings(tmp_path / "cert.pem", tmp_path / "key.pem"))


def test_a_certificate_without_its_key_is_refused() -> None:
    with pytest.raises(ValueError, match="must be set together"):
        TlsSettings(Path("cert.pem"), None)
    assert tls.ssl_context(TlsSettings()) is None


@pytest.mark.parametrize("is_encrypted", [True, False])
def test_a_session_cookie_from_https_is_secure(tmp_path: Path, is_encrypted: bool) -> None:
    settings = a_certificate(tmp_path)
    with running_fleet({}, settings=replace(settings_for_tests(), tls=settings)) as fleet:
        path = json.loads(asked(fleet.port, None, "POST", "/fleet/logins")[1])["path"]
        assert fleet.coordinator.tls_server is not None
        trusted = ssl.create_default_context(cafile=str(settings.certificate))
        headers, _ = (
            asked(fleet.coordinator.tls_server.port, trusted, "GET", path)
            if is_encrypted
            else asked(fleet.port, None, "GET", path)
        )
        assert ("secure" in headers["set-cookie"].lower().split("; ")) is is_encrypted


def asked(port: int, trusted: ssl.SSLContext | None, method: str, path: str) -> tuple[dict[str, str], bytes]:
    connection = (
        http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        if trusted is None
        else http.client.HTTPSConnection("127.0.0.1", port, timeout=30, context=trusted)
    )
    connection.request(method, path, b"{}" if method == "POST" else None, {"Content-Type": "application/json"})
    response = connection.getresponse()
    text = response.read()
    connection.close()
    return {name.lower(): value for name, value in response.getheaders()}, text
