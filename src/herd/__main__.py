"""`python -m herd`: the command `herd` without an installed script. Decides nothing."""

from __future__ import annotations

from herd.cli import herd

if __name__ == "__main__":
    herd()
