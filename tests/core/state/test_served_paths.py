"""Tests which fields a path of an engine honors, and from which version on it exists."""

from __future__ import annotations

import pytest

from herd.core.state.served_paths import EVERY_FIELD, ServedPath, honors_all, served_path, version_numbers

CHAT = ServedPath(
    since=(0, 13, 3),
    reads=frozenset(("messages", "tools", "prompt")),
    ignores=frozenset(("tools[]",)),
    refuses=frozenset(("prompt",)),
)


@pytest.mark.parametrize(
    ("name", "is_ignored"),
    [
        ("messages[2].content[0]", False),
        ("n", True),
        ("audio.voice", True),
        ("unknown (custom)", True),
        ("tools", False),
        ("tools[12]", True),
        ("tools[12].custom", True),
        ("tools[1] (web_search)", True),
        ("prompt", False),
    ],
)
def test_an_endpoint_ignores_what_it_does_not_read(name: str, is_ignored: bool) -> None:
    assert CHAT.ignores_field(name) == is_ignored
    assert not EVERY_FIELD.ignores_field(name) and EVERY_FIELD.honors(name)


def test_a_refused_field_is_neither_ignored_nor_honored() -> None:
    assert not CHAT.honors("prompt") and not CHAT.honors("prompt[3]") and CHAT.honors("messages[0]")


@pytest.mark.parametrize(
    ("version", "exists"),
    [("0.13.2", False), ("0.13.3", True), ("0.13.3-rc2", True), ("0.9", False), ("1", True), ("", True), ("dev", True)],
)
def test_a_path_exists_from_its_first_version_on(version: str, exists: bool) -> None:
    paths = {"/v1/responses": CHAT}
    assert (served_path(paths, "/v1/responses", version) is not None) == exists
    assert honors_all(paths, "/v1/responses", version, ("messages",)) == exists
    assert served_path(paths, "/v1/messages", version) is None


def test_a_build_number_is_a_version() -> None:
    assert version_numbers("b11549-a1b2") == (11549,) and version_numbers("v0.14.0") == (0, 14, 0)
