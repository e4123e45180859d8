"""One file a tab: the shapes of its answers and how they are made. This file is the contract; the tabs do not know each other."""

from __future__ import annotations

from dataclasses import dataclass

from herd.dashboard import DashboardRoute


@dataclass(frozen=True, slots=True)
class Tab:
    """A page of the dashboard at `/dashboard/<name>` (the first one at `/dashboard`), and what it asks for."""

    name: str
    title: str
    order: int
    routes: tuple[DashboardRoute, ...]
