"""Runs the command `herd` as `python -m herd`."""

from __future__ import annotations

from herd.cli import herd

if __name__ == "__main__":
    herd()
