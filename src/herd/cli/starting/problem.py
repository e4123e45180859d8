"""Defines the error that every command reports, and what every command does before it prints anything."""

from __future__ import annotations

import io
import sys


class CliError(Exception):
    """A problem in one sentence, and the next command."""

    def __init__(self, problem: str, remedy: str = "") -> None:
        super().__init__(problem)
        self.problem = problem
        self.remedy = remedy


def replace_unprintable_characters() -> None:
    """Makes standard output print a question mark, instead of failing, where its encoding lacks a character."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
