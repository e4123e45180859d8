"""Tests that two names of one file are one loaded model."""

from __future__ import annotations

from dataclasses import replace

from builders import a_report, a_world, an_engine
from herd.core.context.windows import Windows, WindowSettings
from herd.core.estimates.residency import Residency
from herd.core.state.commands import Dispatch
from herd.core.state.engine_options import EngineOptions
from herd.core.state.fleet import Fleet, Loaded, ModelInfo, canonical

FIRST = ModelInfo(
    name="first", engine=an_engine(), size_bytes=100, digest="d1", loaded=Loaded(150, 8192, context_explicit=True)
)
SECOND = replace(FIRST, name="second", loaded=None)
OTHER = replace(SECOND, name="other", digest="d2")
NAMELESS = (replace(FIRST, name="a", digest=""), replace(SECOND, name="b", digest=""))


def test_loaded_file_is_loaded_under_all_its_names() -> None:
    node = Fleet().apply_heartbeat(a_report("alpha", [FIRST, SECOND, OTHER]), 0.0)
    assert set(node.loaded) == {canonical("first"), canonical("second")}
    second = node.loaded[canonical("second")]
    assert second.is_other_name and second.window_tokens == 8192 and second.size_bytes == 0


def test_models_without_a_digest_or_on_another_engine_are_not_the_same() -> None:
    assert set(Fleet().apply_heartbeat(a_report("alpha", [*NAMELESS]), 0.0).loaded) == {canonical("a")}
    elsewhere = replace(SECOND, engine=an_engine(url="http://127.0.0.1:9"))
    assert set(Fleet().apply_heartbeat(a_report("alpha", [FIRST, elsewhere]), 0.0).loaded) == {canonical("first")}


def test_names_of_one_file_count_as_one_loaded_model() -> None:
    engine = replace(an_engine(), models_max=2)
    node = Fleet().apply_heartbeat(
        a_report("alpha", [replace(FIRST, engine=engine), replace(SECOND, engine=engine)]), 0.0
    )
    assert not Residency().is_engine_full(node, FIRST) and Residency().residents(node) == [canonical("first")]


def test_request_by_another_name_gets_the_loaded_context_window() -> None:
    world = a_world(windows=Windows(WindowSettings()))
    world.receives(a_report("alpha", [FIRST, SECOND]))
    [dispatch] = world.arrives(model="second")
    assert isinstance(dispatch, Dispatch) and dispatch.options == EngineOptions(8192)
