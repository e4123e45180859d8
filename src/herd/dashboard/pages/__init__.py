"""Defines the contract of a dashboard page: each file here defines one `PAGE` and the answers of its routes."""

from __future__ import annotations

from dataclasses import dataclass

from herd.dashboard import DashboardRoute


@dataclass(frozen=True, slots=True)
class Page:
    """A page at `/dashboard/<name>` (the first page at `/dashboard`) and the API routes that it uses."""

    name: str
    title: str
    order: int
    routes: tuple[DashboardRoute, ...]
