"""The certificate that clients are shown, where the owner has one. Knows no connection and makes no certificate.

TLS has a port of its own: agents sign what they report and keep to the plain one, clients choose.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """Both files, or neither."""

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
            raise ValueError("FLEET_TLS_CERT and FLEET_TLS_KEY belong together: set both, or neither")


class BadCertificate(Exception):
    """The files cannot be used; the message names them and why."""


def context(settings: TlsSettings) -> ssl.SSLContext | None:
    """What to listen with; None where there is no certificate. TLS 1.2 and later. Raises `BadCertificate`."""
    if settings.certificate is None or settings.key is None:
        return None
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    made.set_alpn_protocols(["http/1.1"])
    try:
        # Without a prompt: a key with a password would stop the start at a question that nobody sees.
        made.load_cert_chain(settings.certificate.expanduser(), settings.key.expanduser(), password=_no_password)
    except (OSError, ssl.SSLError, ValueError) as error:
        raise BadCertificate(f"{settings.certificate} and {settings.key} cannot be used: {error}") from error
    return made


def _no_password() -> str:
    raise ValueError("the key has a password; herd needs one without")
