"""Loads the TLS certificate of the coordinator, if one is configured.

TLS has its own port. Agents sign their heartbeats and use the plain port; clients choose.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """Both files are set, or none."""

    certificate: Path | None = field(
        default=None,
        metadata={"env": "FLEET_TLS_CERT", "help": "TLS certificate file for HTTPS (PEM, including the chain)."},
    )
    key: Path | None = field(
        default=None,
        metadata={"env": "FLEET_TLS_KEY", "help": "Private key file of the certificate (PEM, without a password)."},
    )
    port: int = field(
        default=11443,
        metadata={
            "env": "FLEET_TLS_PORT",
            "help": "Port for HTTPS, used when a certificate is set; 0 picks a free port.",
            "min": 0,
            "max": 65535,
        },
    )

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("FLEET_TLS_CERT and FLEET_TLS_KEY must be set together, or both be unset")


class BadCertificate(Exception):
    """The files cannot be used; the message gives their paths and the reason."""


def ssl_context(settings: TlsSettings) -> ssl.SSLContext | None:
    """The TLS context to listen with, for TLS 1.2 and later; None without a certificate. Raises `BadCertificate`."""
    if settings.certificate is None or settings.key is None:
        return None
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.minimum_version = ssl.TLSVersion.TLSv1_2
    tls.set_alpn_protocols(["http/1.1"])
    try:
        # No prompt: with an encrypted key, a service would otherwise wait for a password at the terminal.
        tls.load_cert_chain(settings.certificate.expanduser(), settings.key.expanduser(), password=_no_password)
    except (OSError, ssl.SSLError, ValueError) as error:
        raise BadCertificate(f"{settings.certificate} and {settings.key} cannot be used: {error}") from error
    return tls


def _no_password() -> str:
    raise ValueError("the key is encrypted with a password; herd needs an unencrypted key")
