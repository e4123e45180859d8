"""Tests the names of the limits, which are public: scripts and environment files use them."""

from __future__ import annotations

from dataclasses import fields

from herd.http1.http_settings import HttpSettings


def test_the_published_limits_have_their_names_and_defaults() -> None:
    published = {f.metadata["env"]: getattr(HttpSettings(), f.name) for f in fields(HttpSettings)}
    assert published["FLEET_MAX_BODY_BYTES"] == 32 * 1024 * 1024
    assert published["FLEET_MAX_HEADER_BYTES"] == 64 * 1024
    assert published["FLEET_HEADER_TIMEOUT"] == 10
    assert published["FLEET_MAX_CONNECTIONS"] == 2000
    assert published["FLEET_MAX_CONNECTIONS_PER_IP"] == 100


def test_every_limit_has_a_help_text() -> None:
    for f in fields(HttpSettings):
        assert f.metadata["env"].startswith("FLEET_") and f.metadata["help"].endswith("."), f.name
