"""Looks up the memory bandwidth of chips and GPUs by name.

Bandwidths are the manufacturers' published figures in GB/s (apple.com, nvidia.com, amd.com product pages). They are the
first estimate of a node's speed; measured speeds correct it later.
"""

from __future__ import annotations

import re

BANDWIDTHS_GBPS = (
    ("m1 ultra", 800.0),
    ("m1 max", 400.0),
    ("m1 pro", 200.0),
    ("apple m1", 68.0),
    ("m2 ultra", 800.0),
    ("m2 max", 400.0),
    ("m2 pro", 200.0),
    ("apple m2", 100.0),
    ("m3 ultra", 819.0),
    ("m3 max", 400.0),
    ("m3 pro", 150.0),
    ("apple m3", 100.0),
    ("m4 max", 546.0),
    ("m4 pro", 273.0),
    ("apple m4", 120.0),
    ("rtx pro 6000", 1792.0),
    ("rtx 5090", 1792.0),
    ("rtx 5080", 960.0),
    ("rtx 5070 ti", 896.0),
    ("rtx 5070", 672.0),
    ("rtx 5060", 448.0),
    ("rtx 4090", 1008.0),
    ("rtx 4080", 717.0),
    ("rtx 4070 ti", 504.0),
    ("rtx 4070", 504.0),
    ("rtx 4060 ti", 288.0),
    ("rtx 4060", 272.0),
    ("rtx 3090", 936.0),
    ("rtx 3080", 760.0),
    ("rtx 3070", 448.0),
    ("rtx 3060", 360.0),
    ("rtx 2080 ti", 616.0),
    ("rtx 2080", 448.0),
    ("rtx a6000", 768.0),
    ("tesla p40", 346.0),
    ("tesla v100", 900.0),
    ("a100", 1555.0),
    ("h100", 3350.0),
    ("h200", 4800.0),
    ("l40s", 864.0),
    ("gb10", 273.0),
    ("7900 xtx", 960.0),
    ("7900 xt", 800.0),
    ("9070 xt", 640.0),
    ("6800 xt", 512.0),
    ("ryzen ai max", 256.0),
)
"""The first entry whose name occurs in the chip's name is used, so longer names come before shorter ones. A digit after
the name makes it another chip: "RTX A1000" is not an A100."""


def bandwidth_gbps(chip: str) -> float | None:
    """None if the chip is not in the table."""
    lower_name = chip.lower()
    return next((value for name, value in BANDWIDTHS_GBPS if re.search(rf"\b{name}(?!\d)", lower_name)), None)
