"""Tests that headers of proxies are recognized, and those of clients are not taken for them."""

from __future__ import annotations

import pytest

from herd.trust.proxies import is_added_by_proxies

PROXIES = (
    "forwarded x-forwarded-for x-forwarded-host x-forwarded-proto x-forwarded-server x-forwarded-port "
    "x-forwarded x-forwarded-client-cert x_forwarded_for x-original-forwarded-for x-original-host x-real-ip "
    "wl-proxy-client-ip proxy-client-ip ali-cdn-real-ip x-ms-forwarded-client-ip x-ms-proxy "
    "x-nf-client-connection-ip x-varnish x-haproxy-current-date x-cdn-src-ip x-forward-for x-http-host-override "
    "x-backend-host x-source-ip x-orig-ip x-coming-from x-railway-edge rndr-id "
    "x-real-port via true-client-ip x-client-ip cf-connecting-ip cf-ray cdn-loop x-cluster-client-ip "
    "x-envoy-external-address fly-client-ip fastly-client-ip tailscale-user-login x-azure-clientip x-scheme "
    "x-nginx-proxy client-ip"
)
CLIENTS = (
    "host origin referer user-agent accept accept-encoding authorization x-api-key x-request-id "
    "x-request-timeout content-type content-length cookie sec-fetch-site x-stainless-lang anthropic-version "
    "x-herd-tags traceparent connection upgrade sec-websocket-key openai-beta x-title http-referer"
)


@pytest.mark.parametrize("name", PROXIES.split())
def test_headers_of_proxies_are_recognized(name: str) -> None:
    assert is_added_by_proxies(name.encode())


@pytest.mark.parametrize("name", CLIENTS.split())
def test_headers_of_clients_are_not_taken_for_those_of_proxies(name: str) -> None:
    assert not is_added_by_proxies(name.encode())
