"""Lists the observed reloads of a real Ollama 0.32.15 as data; tests hold the fake and the real one to it."""

from __future__ import annotations

from typing import Any

RELOADS: list[tuple[dict[str, Any], bool]] = [
    ({}, True),
    ({}, False),
    ({"options": {"temperature": 0}}, False),
    ({"options": {"num_ctx": 4096}}, False),
    ({}, False),
    ({"options": {"num_ctx": 2048}}, True),
    ({}, True),
    ({"options": {"num_ctx": 8192}}, True),
    ({"options": {"num_ctx": 20000}}, False),
    ({"options": {"num_ctx": 30000}}, False),
    ({"options": {"num_ctx": 8000}}, True),
    ({}, True),
    ({"options": {"num_batch": 128}}, True),
    ({}, True),
    ({"options": {"num_thread": 1}}, True),
    ({}, True),
    ({"options": {"num_gpu": 0}}, True),
    ({"options": {"num_gpu": 99}}, True),
    ({}, False),
    ({"options": {"use_mmap": True}}, True),
    ({}, True),
    ({"options": {"main_gpu": 0}}, True),
    ({}, True),
    ({"options": {"num_keep": 8}}, False),
    ({"shift": False}, True),
    ({"shift": True}, True),
    ({"truncate": False}, False),
    ({"options": {"draft_num_predict": 2}}, True),
    ({}, True),
]
"""Requests in this order to one model with a window of 8192, and whether each of them loaded or reloaded it."""
