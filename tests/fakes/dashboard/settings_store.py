"""Builds a settings store as `herd serve` does, from a given environment."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from herd import config
from herd.config import RawValue
from herd.coordinator.settings import Settings
from herd.coordinator.settings_store import FILE_NAME, SettingsStore


def a_settings_store(
    folder: Path, environ: Mapping[str, str], flags: Mapping[str, RawValue] | None = None
) -> SettingsStore:
    """The store with its file in this folder. Names in `environ` that are no settings are left out."""
    known = {setting.env for record in config.parts_of(Settings) for setting in config.settings_of(record)}
    environ = {name: value for name, value in environ.items() if name in known}

    def load(here: Mapping[str, RawValue]) -> config.Config:
        return config.load(config.parts_of(Settings), environ, None, flags, dashboard=here)

    return SettingsStore(load, folder / FILE_NAME)
