"""Marks every name of a loaded model file as loaded: engines report only the name that was used last."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from herd.core.state.fleet import Report


def with_other_names(report: Report) -> Report:
    """Marks every name of a loaded file as loaded: engines report only the name used last, and have one runner for all
    names."""
    loaded_files = {
        (model_info.engine.url, model_info.digest): model_info.loaded
        for model_info in report.models.values()
        if model_info.loaded is not None and model_info.digest
    }
    others = {
        name: replace(model_info, loaded=replace(loaded, size_bytes=0, vram_bytes=None, is_other_name=True))
        for name, model_info in report.models.items()
        if model_info.loaded is None
        and (loaded := loaded_files.get((model_info.engine.url, model_info.digest))) is not None
    }
    return replace(report, models={**report.models, **others}) if others else report
