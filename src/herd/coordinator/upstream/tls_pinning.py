"""Checks the certificate of a node's engine forwarder against its fingerprint, and parses engine URLs.

    https://192.0.2.7:40123#<SHA-256 of the certificate, in hex>

The fingerprint came in a heartbeat that the node signed. Once per connection the coordinator also sends a proof of its
own identity to the forwarder.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import ssl
from urllib.parse import urlsplit

from herd.trust.signing import is_same

_PIN = re.compile(r"[0-9a-f]{64}")


def ssl_context() -> ssl.SSLContext:
    """A TLS context that accepts any certificate: `matches_pin` checks it afterwards."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    tls.minimum_version = ssl.TLSVersion.TLSv1_3
    tls.check_hostname = False
    tls.verify_mode = ssl.CERT_NONE
    return tls


def parse_engine_url(url: str) -> tuple[str, int, str, str]:
    """Host, port, authority and pin (empty: plain HTTP).

    Raises ValueError for anything other than http://HOST[:PORT] and https://HOST[:PORT]#PIN.
    """
    parts = urlsplit(url)
    is_tls = parts.scheme == "https" and _PIN.fullmatch(parts.fragment) is not None
    if (
        not (is_tls or parts.scheme == "http")
        or not parts.hostname
        or not parts.netloc.isascii()
        or parts.username is not None
    ):
        raise ValueError(f"{url!r} is not http://host:port")
    return parts.hostname, parts.port or (443 if is_tls else 80), parts.netloc, parts.fragment if is_tls else ""


def matches_pin(transport: asyncio.BaseTransport, pin: str) -> bool:
    """Whether the other end presented the certificate with this fingerprint."""
    tls = transport.get_extra_info("ssl_object")
    certificate = tls.getpeercert(binary_form=True) if tls is not None else None
    return certificate is not None and is_same(hashlib.sha256(certificate).hexdigest(), pin)
