"""The bill of materials that dev.py prints names every pinned package."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_the_bill_of_materials_names_every_pin_with_its_hashes() -> None:
    done = subprocess.run([sys.executable, str(ROOT / "dev.py"), "sbom"], capture_output=True, text=True, check=True)
    bill = json.loads(done.stdout)
    assert (bill["bomFormat"], bill["specVersion"], bill["metadata"]["component"]["name"]) == (
        "CycloneDX",
        "1.5",
        "ollama-herd",
    )
    pinned = re.findall(r"^([\w.-]+)==", (ROOT / "constraints/run.txt").read_text("utf-8"), re.MULTILINE)
    listed = {component["name"]: component for component in bill["components"]}
    assert set(pinned) <= set(listed) and len(pinned) > 20
    assert all(component["hashes"] and component["version"] for component in listed.values())
