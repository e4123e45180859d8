"""Tests that a wheel built in a bare environment contains the complete dashboard (needs a package index)."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import venv
import zipfile
from pathlib import Path

import pytest

from herd.coordinator.api.dashboard_files import DashboardFiles

ROOT = Path(__file__).resolve().parents[2]
TAKEN = ("pyproject.toml", "hatch_build.py", "README.md", "LICENSE", "frontend", "src")
BUILD_MAX_S = 240


def is_wanted() -> bool:
    return os.environ.get("CI", "").lower() == "true" or bool(os.environ.get("HERD_TEST_WHEEL"))


@pytest.mark.skipif(not is_wanted(), reason="CI or HERD_TEST_WHEEL=1 only: NO WHEEL IS BUILT AND LOOKED INTO")
@pytest.mark.timeout(300)
def test_a_wheel_built_without_node_on_path_contains_every_file_of_its_page(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in TAKEN:
        if (ROOT / name).is_dir():
            shutil.copytree(
                ROOT / name, source / name, ignore=shutil.ignore_patterns("node_modules", "static", "__pycache__")
            )
        else:
            shutil.copy(ROOT / name, source / name)
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    tools = tmp_path / "tools"
    tools.mkdir()
    environment = {
        **os.environ,
        "PATH": str(tools),
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "HERD_REQUIRE_DASHBOARD": "1",
    }
    built = subprocess.run(
        [str(python), "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(tmp_path / "out"), str(source)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=BUILD_MAX_S,
    )
    assert built.returncode == 0, built.stderr[-2000:]
    [wheel] = (tmp_path / "out").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "unpacked")
    folder = tmp_path / "unpacked/herd/coordinator/api/static"
    named = re.findall(r'(?:src|href)="/dashboard/assets/([^"]+)"', (folder / "index.html").read_text("utf-8"))
    served = DashboardFiles(folder)._assets
    assert len(named) >= 3 and set(named) <= set(served)
    assert all(served[name].gzipped for name in named)
    assert not [
        name for name in os.listdir(tmp_path / "unpacked") if name not in ("herd",) and not name.endswith(".dist-info")
    ]
