"""Tests the atomic file write: contents, permissions, and what a failed write leaves behind."""

import sys
from pathlib import Path

import pytest

from herd.files import write_atomically


def test_a_write_creates_the_folder_and_the_file_with_these_contents(tmp_path: Path) -> None:
    path = tmp_path / "new" / "state.json"
    write_atomically(path, b"one\r\ntwo\n")
    assert path.read_bytes() == b"one\r\ntwo\n"
    assert [found.name for found in path.parent.iterdir()] == ["state.json"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no permission bits")
def test_only_the_owner_can_read_a_written_file(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    path.write_bytes(b"old")
    path.chmod(0o644)
    write_atomically(path, b"new")
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_temporary_file_of_a_crashed_write_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    (tmp_path / "state.json.new").write_bytes(b"half of what was to be wri")
    write_atomically(path, b"complete")
    assert path.read_bytes() == b"complete"


def test_a_failed_write_keeps_the_old_contents(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    write_atomically(path, b"old")
    (tmp_path / "state.json.new").mkdir()
    with pytest.raises(OSError):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
