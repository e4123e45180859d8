"""How a connection to a node's door is made where the door speaks TLS: which certificate it must show, what is said first.

    https://192.0.2.7:40123#<SHA-256 of the certificate, in hex>

Knows no request. The fingerprint came in a heartbeat that the node signed; who shows another certificate is not that node. What is
said first proves the coordinator to the door, once for each connection: it costs no request anything.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import ssl
from urllib.parse import urlsplit

from herd.trust.signing import is_same

_PIN = re.compile(r"[0-9a-f]{64}")


def context() -> ssl.SSLContext:
    """Nobody's signature is asked for: `shows` looks at the certificate itself."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    made.check_hostname = False
    made.verify_mode = ssl.CERT_NONE
    return made


def place_of(url: str) -> tuple[str, int, str, str]:
    """Host, port, authority and pin (empty: not locked). Raises ValueError for all but http://HOST[:PORT] and https://HOST[:PORT]#PIN."""
    parts = urlsplit(url)
    is_locked = parts.scheme == "https" and _PIN.fullmatch(parts.fragment) is not None
    if (
        not (is_locked or parts.scheme == "http")
        or not parts.hostname
        or not parts.netloc.isascii()
        or parts.username is not None
    ):
        raise ValueError(f"{url!r} is not http://host:port")
    return parts.hostname, parts.port or (443 if is_locked else 80), parts.netloc, parts.fragment if is_locked else ""


def shows(transport: asyncio.BaseTransport, pin: str) -> bool:
    """Whether the other end has shown the certificate of this fingerprint."""
    tls = transport.get_extra_info("ssl_object")
    certificate = tls.getpeercert(binary_form=True) if tls is not None else None
    return certificate is not None and is_same(hashlib.sha256(certificate).hexdigest(), pin)
