"""Creates the self-signed TLS certificate of the engine forwarders, a new one at every start of the agent.

The node sends the certificate's fingerprint in its signed heartbeat, and the coordinator accepts only that certificate.
The private key is on disk only while the TLS library reads it.
"""

from __future__ import annotations

import datetime
import hashlib
import os
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

NAME = "herd-node"
BEGINS = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
ENDS = datetime.datetime(2120, 1, 1, tzinfo=datetime.UTC)
"""The validity does not matter: the coordinator checks the fingerprint, and a restart creates a new certificate."""


@dataclass(frozen=True, slots=True)
class TlsIdentity:
    """The certificate of the forwarders. `pin` is its SHA-256 in hex.

    `proof()` returns the first bytes that the coordinator sends, empty while the node is not paired.
    """

    context: ssl.SSLContext
    pin: str
    proof: Callable[[], str]


def create_identity(folder: Path, proof_for: Callable[[str], str]) -> TlsIdentity:
    """A new key and certificate. `proof_for` is `NodeIdentity.forwarder_proof`. Raises `OSError` if writing fails."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, NAME)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(BEGINS)
        .not_valid_after(ENDS)
        .sign(key, hashes.SHA256())
    )
    encoding = serialization.Encoding
    secret = key.private_bytes(encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    pin = hashlib.sha256(certificate.public_bytes(encoding.DER)).hexdigest()
    return TlsIdentity(_context(folder, secret + certificate.public_bytes(encoding.PEM)), pin, lambda: proof_for(pin))


def _context(folder: Path, pem: bytes) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    path = folder / f"forwarder-{os.getpid()}.pem"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    try:
        with os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
            file.write(pem)
        context.load_cert_chain(path)
    finally:
        path.unlink(missing_ok=True)
    return context
