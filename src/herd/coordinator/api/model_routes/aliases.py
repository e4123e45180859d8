"""Serves the aliases of models: a list with the models that answer now, and changes, which are changes of a setting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from herd.coordinator.api.responses import json_errors, json_response, read_body
from herd.coordinator.auth.routes import ApiRoute
from herd.core.scheduling.aliases import Aliases, AliasSettings, Wanted, format_entry, parse_table
from herd.core.state.fleet import Fleet
from herd.dashboard.pages.models import AliasLine, AliasList
from herd.errors import BadRequest, UnknownModel
from herd.trust.rights import Right

SETTING = "FLEET_ALIASES"
TIER_EXAMPLES = ("claude-opus-*", "claude-sonnet-*", "claude-haiku-*", "gpt-*", "gpt-*-mini")
"""Names of cloud models that are answered without a definition, as they are shown."""


class WantedAlias(msgspec.Struct):
    """An alias and its models, the preferred one first."""

    name: str
    models: list[str]


class AliasName(msgspec.Struct):
    """The alias to remove."""

    name: str


class AliasSource(Protocol):
    """The aliases in force."""

    @property
    def aliases(self) -> Aliases: ...


class SettingChanges(Protocol):
    """Where the aliases are stored. `change_setting` raises `BadRequest`; then nothing has changed."""

    def alias_settings(self) -> AliasSettings: ...

    async def change_setting(self, request: Request, name: str, value: str | None) -> object: ...


class AliasesApi:
    def __init__(self, source: AliasSource, settings: SettingChanges, fleet: Fleet) -> None:
        self._source, self._settings, self._fleet = source, settings, fleet

    @property
    def routes(self) -> list[ApiRoute]:
        return [
            ApiRoute("/dashboard/api/aliases", json_errors(self.aliases), "GET", Right.READ),
            ApiRoute("/dashboard/api/aliases", json_errors(self.define), "POST", Right.ADMIN, WantedAlias),
            ApiRoute("/dashboard/api/aliases", json_errors(self.remove), "DELETE", Right.ADMIN, AliasName),
        ]

    async def aliases(self, _: Request) -> Response:
        """Lists the aliases with their models, and the models that answer names of cloud models."""
        return json_response(alias_list(self._source.aliases, self._fleet))

    async def define(self, request: Request) -> Response:
        """Defines an alias, or replaces its models. The change applies to the next request and survives a restart."""
        wanted = await read_body(request, WantedAlias)
        try:
            entry = format_entry(wanted.name.strip(), [model.strip() for model in wanted.models])
        except ValueError as error:
            raise BadRequest(str(error)) from error
        await self._change(request, wanted.name.strip(), entry)
        return json_response(alias_list(self._source.aliases, self._fleet))

    async def remove(self, request: Request) -> Response:
        """Removes an alias. 404 if it is not defined here."""
        name = (await read_body(request, AliasName)).name
        if name not in parse_table(self._settings.alias_settings().table):
            raise UnknownModel(f"there is no alias {name[:80]!r} to remove; list the aliases with: herd alias")
        await self._change(request, name, None)
        return json_response(alias_list(self._source.aliases, self._fleet))

    async def _change(self, request: Request, name: str, entry: str | None) -> None:
        table = self._settings.alias_settings().table
        kept = [each for each in table if each.partition("=")[0].strip() != name]
        await self._settings.change_setting(request, SETTING, ",".join(kept if entry is None else [*kept, entry]))


def alias_list(aliases: Aliases, fleet: Fleet) -> AliasList:
    """Every alias with the models that would answer now."""
    lines = [
        AliasLine(name=name, models=targets, live=_live(aliases, name, fleet), source="alias")
        for name, targets in sorted(aliases.defined.items())
    ]
    tiers = [
        AliasLine(name=name, models=(), live=_live(aliases, name, fleet), source="tier")
        for name in (TIER_EXAMPLES if aliases.has_tiers else ())
        if name not in aliases.defined
    ]
    return AliasList(aliases=(*lines, *tiers), are_listed=aliases.are_listed)


def _live(aliases: Aliases, name: str, fleet: Fleet) -> tuple[str, ...]:
    """The models that answer now, as their engines write them."""
    resolution = aliases.resolve(Wanted(name), fleet)
    targets: Sequence[str] = resolution.targets if resolution is not None else ()
    return tuple(target.removesuffix(":latest") for target in targets)
