"""Recognizes requests that a proxy forwards: their address is the proxy's, and the client itself is unknown.

A proxy, tunnel or content network on the coordinator's machine connects from a loopback address. It reveals
itself only by the headers that it adds, so every header that such programs are known to add counts, whatever it says.
"""

from __future__ import annotations

from typing import Final

PREFIXES: Final = (
    b"x-forwarded",
    b"x-original-",
    b"x-envoy-",
    b"x-real-",
    b"x-azure-",
    b"x-vercel-",
    b"x-akamai-",
    b"x-arr-",
    b"x-cdn-",
    b"x-forward-",
    b"x-haproxy-",
    b"x-ms-forwarded-",
    b"x-ms-proxy",
    b"x-nf-",
    b"x-railway-",
    b"x-varnish",
    b"ali-cdn-",
    b"proxy-client-",
    b"wl-proxy-",
    b"cf-",
    b"fly-",
    b"fastly-",
    b"cloudfront-",
    b"tailscale-",
    b"ngrok-",
)
NAMES: Final = frozenset(
    {
        b"akamai-origin-hop",
        b"cdn-loop",
        b"client-ip",
        b"do-connecting-ip",
        b"forwarded",
        b"forwarded-for",
        b"front-end-https",
        b"incap-client-ip",
        b"remote-addr",
        b"true-client-ip",
        b"rndr-id",
        b"via",
        b"x-amz-cf-id",
        b"x-amzn-trace-id",
        b"x-appengine-user-ip",
        b"x-backend-host",
        b"x-coming-from",
        b"x-client-ip",
        b"x-cluster-client-ip",
        b"x-connecting-ip",
        b"x-host",
        b"x-http-host-override",
        b"x-nginx-proxy",
        b"x-orig-ip",
        b"x-originating-ip",
        b"x-proxy-id",
        b"x-proxyuser-ip",
        b"x-remote-addr",
        b"x-remote-ip",
        b"x-rewrite-url",
        b"x-scheme",
        b"x-source-ip",
        b"x-sucuri-clientip",
        b"x-true-client-ip",
        b"x-url-scheme",
    }
)


def is_added_by_proxies(header_name: bytes) -> bool:
    """Whether proxies add this header (name in lower case) to the requests that they forward."""
    name = header_name.replace(b"_", b"-")
    return name in NAMES or name.startswith(PREFIXES)
