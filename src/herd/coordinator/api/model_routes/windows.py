"""Serves `GET /fleet/windows`: each model's context window compared with its actual use."""

from __future__ import annotations

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from herd.coordinator.api.responses import json_response
from herd.coordinator.auth.routes import ApiRoute
from herd.coordinator.driver import Driver
from herd.core.context.window_usage import window_changes
from herd.core.context.windows import WindowSettings
from herd.trust.rights import Right


class WindowsApi:
    def __init__(self, driver: Driver, settings: WindowSettings) -> None:
        self._driver, self._settings = driver, settings

    @property
    def routes(self) -> list[ApiRoute]:
        return [ApiRoute("/fleet/windows", self.windows, "GET", Right.READ)]

    async def windows(self, _: Request) -> Response:
        """Lists loaded models with context window, p99 use, sufficient window, and the memory that would be freed."""
        changes = window_changes(self._driver.fleet, self._driver.forecast.window_usage)
        return json_response(
            {
                "is_applied": self._settings.dynamic,
                "may_shrink": self._settings.dynamic and self._settings.auto_calculate,
                "models": msgspec.to_builtins(changes),
            }
        )
