"""Tests that Host and Origin separate pages of other sites from programs and from our own pages."""

from __future__ import annotations

import pytest

from herd.trust.browsers import (
    AllowedNames,
    Effect,
    content_refusal,
    host_refusal,
    is_same_origin,
    machine_refusal,
    origin_refusal,
)

OURS = AllowedNames.of(["herd.example.org"], ["https://chat.example.org/"])


@pytest.mark.parametrize(
    "host",
    [
        "localhost:11435",
        "127.0.0.1:11435",
        "[::1]:11435",
        "192.168.1.9",
        "mac:11435",
        "mac.local",
        "MAC.LOCAL:11435",
        "herd.example.org",
        "herd.example.org.:443",
        "x.localhost",
        "host.docker.internal:11435",
        "nas.lan",
        "",
    ],
)
def test_a_name_that_only_this_network_resolves_is_accepted(host: str) -> None:
    assert host_refusal(host, OURS) is None


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:11435",
        "localhost.evil.example",
        "127.0.0.1.nip.io",
        "herd.example.org.evil.com",
        "x.local.evil.com",
        "a" * 600 + ".com",
        "evil.example.",
    ],
)
def test_a_public_name_is_refused(host: str) -> None:
    refusal = host_refusal(host, OURS)
    assert refusal is not None and refusal.status == 421 and "FLEET_ALLOWED_HOSTS" in refusal.message


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST.:11435",
        "127.0.0.1:11435",
        "127.8.9.1",
        "[::1]:11435",
        "[::ffff:127.0.0.1]",
        "study",
        "Study.home.lan:11435",
        "study.local:11435",
        "herd.example.org:443",
    ],
)
def test_this_machine_is_known_by_its_own_names(host: str) -> None:
    names = AllowedNames.of(["herd.example.org"], (), "study.home.lan")
    assert machine_refusal(host, names) is None


@pytest.mark.parametrize(
    "host",
    [
        "",
        "mac",
        "mac.local",
        "nas.lan",
        "db.internal",
        "tv.home.arpa",
        "x.localhost",
        "study.lan",
        "host.docker.internal",
        "192.168.1.9:11435",
        "0.0.0.0",
        "[fe80::1]",
        "localhost.local",
        "studying",
        "a" * 600,
        "[",
        "::",
        "127.0.0.1x",
    ],
)
def test_a_name_that_another_device_can_give_this_machine_is_not_this_machine(host: str) -> None:
    refusal = machine_refusal(host, AllowedNames.of((), (), "study.home.lan"))
    assert refusal is not None and refusal.status == 403 and "http://localhost" in refusal.message
    if host.endswith((".lan", ".local", ".internal")):
        assert f"FLEET_ALLOWED_HOSTS={host}" in refusal.message


def test_a_page_of_a_named_localhost_may_only_use_models() -> None:
    assert origin_refusal("http://x.localhost:80", "localhost:11435", Effect.USES_MODELS, OURS) is None
    for effect in (Effect.READS, Effect.READS_AS_ADMIN, Effect.CHANGES):
        assert origin_refusal("http://x.localhost:80", "localhost:11435", effect, OURS) is not None


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("http://localhost:11435", "localhost:11435"),
        ("http://192.168.1.9:11435", "192.168.1.9:11435"),
        ("https://herd.example.org", "herd.example.org"),
        ("https://herd.example.org", "herd.example.org:443"),
        ("http://[::1]:11435", "[::1]:11435"),
        ("http://mac", "mac:80"),
        ("http://mac:80", "mac"),
    ],
)
def test_our_own_page_may_do_everything(origin: str, host: str) -> None:
    assert is_same_origin(origin, host)
    assert origin_refusal(origin, host, Effect.CHANGES, OURS) is None


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "null",
        "http://localhost.evil.example",
        "http://192.168.1.9:11436",
        "garbage",
        "http://user@localhost:1@evil.example",
        "http://[::1",
        "http://localhost.evil.example:3000",
        "https://evil.example#.localhost",
        "chrome-extension://abcdef",
        "http://evil.example:80@localhost",
        "http://evil.example@x.localhost",
        "http://evil.example@192.168.1.9:11435",
        "x" * 1000,
    ],
)
def test_pages_of_other_sites_are_refused(origin: str) -> None:
    for effect in Effect:
        refusal = origin_refusal(origin, "192.168.1.9:11435", effect, OURS)
        assert refusal is not None and refusal.status == 403


@pytest.mark.parametrize(
    "origin",
    [
        "http://localhost:3000",
        "http://127.0.0.1:8080",
        "https://localhost",
        "http://[::1]:5173",
        "http://0.0.0.0:1234",
        "app://obsidian.md",
        "file://",
        "tauri://localhost",
        "http://tauri.localhost",
        "vscode-webview://0abc",
        "vscode-file://vscode-app",
    ],
)
def test_pages_of_this_machine_may_use_models_but_not_change_state(origin: str) -> None:
    assert origin_refusal(origin, "localhost:11435", Effect.USES_MODELS, OURS) is None
    assert origin_refusal(origin, "localhost:11435", Effect.READS, OURS) is None
    assert origin_refusal(origin, "localhost:11435", Effect.READS_AS_ADMIN, OURS) is not None
    assert origin_refusal(origin, "localhost:11435", Effect.CHANGES, OURS) is not None


@pytest.mark.parametrize(
    ("allowed", "origin", "other"),
    [
        ("chrome-extension://*", "chrome-extension://abcdefghijklmnop", "https://chrome-extension.example"),
        ("moz-extension://*", "moz-extension://6f1e", "chrome-extension://6f1e"),
        ("http://localhost:*", "http://localhost:5173", "http://localhost.evil.example:80"),
        ("http://192.168.1.*:3000", "http://192.168.1.40:3000", "http://192.168.1.40:3001"),
        ("https://*.example.net", "https://a.b.example.net", "https://example.net.evil.example"),
        ("https://*.example.net:*", "https://a.example.net:8443", "https://a.example.org:8443"),
        ("Chrome-Extension://*/", "chrome-extension://abc", "moz-extension://abc"),
        ("null", "null", "nullx"),
        ("*", "https://anyone.example", ""),
    ],
)
def test_a_pattern_allows_pages_to_use_models_only(allowed: str, origin: str, other: str) -> None:
    names = AllowedNames.of((), [allowed])
    assert origin_refusal(origin, "mac:11435", Effect.USES_MODELS, names) is None
    if not origin.startswith("http://localhost"):
        assert origin_refusal(origin, "mac:11435", Effect.READS, names) is not None
    assert origin_refusal(origin, "mac:11435", Effect.CHANGES, names) is not None
    if other:
        assert origin_refusal(other, "mac:11435", Effect.USES_MODELS, names) is not None


def test_the_parts_of_a_pattern_do_not_overlap() -> None:
    names = AllowedNames.of((), ["https://a*a.example"])
    assert origin_refusal("https://a.example", "mac", Effect.USES_MODELS, names) is not None
    assert origin_refusal("https://aa.example", "mac", Effect.USES_MODELS, names) is None


def test_a_page_on_another_port_of_the_same_machine_is_another_page() -> None:
    assert not is_same_origin("http://localhost:3000", "localhost")
    assert not is_same_origin("https://mac:8443", "mac")
    assert not is_same_origin("http://[::1]:3000", "[::1]")


def test_an_allowed_origin_and_a_program_without_origin_may_do_everything() -> None:
    for origin in ("https://chat.example.org", "https://CHAT.example.org/", ""):
        assert origin_refusal(origin, "mac:11435", Effect.CHANGES, OURS) is None


def test_a_browser_may_send_only_json() -> None:
    assert content_refusal("text/plain", is_browser=True) is not None
    assert content_refusal("", is_browser=True) is not None
    assert content_refusal("application/json; charset=utf-8", is_browser=True) is None
    assert content_refusal("application/x-www-form-urlencoded", is_browser=False) is None
