"""Aliases, patterns and tiers resolve a requested name to models of the fleet."""

from __future__ import annotations

from typing import Any

import pytest

from builders import a_model_info, a_report
from herd.core.scheduling.aliases import (
    ALIASES_MAX,
    TARGETS_MAX,
    Aliases,
    AliasSettings,
    Tier,
    Wanted,
    format_entry,
    is_cloud_name,
    parse_map,
    parse_table,
    tier_of,
)
from herd.core.state.fleet import Fleet, Liveness, ModelInfo, ModelName, canonical
from herd.core.state.request import RequestKind

CHAT = frozenset({"completion"})
TOOLS = frozenset({"completion", "tools"})


def a_model(name: str, parameters: str, *, loaded: bool = False, **more: Any) -> ModelInfo:
    more.setdefault("capabilities", TOOLS)
    return a_model_info(name, 5.0, loaded, parameters=parameters, **more)


def a_fleet(*models: ModelInfo, node_id: str = "alpha") -> Fleet:
    fleet = Fleet()
    fleet.apply_heartbeat(a_report(node_id, models), 0.0)
    return fleet


def three_sizes(*, loaded: tuple[str, ...] = ()) -> Fleet:
    sizes = {"big": "70B", "middle": "14B", "little": "3B"}
    return a_fleet(*(a_model(name, size, loaded=name in loaded) for name, size in sizes.items()))


def targets(name: str, fleet: Fleet, settings: AliasSettings | None = None, **wanted: Any) -> list[str] | None:
    resolution = Aliases(settings or AliasSettings()).resolve(Wanted(name, **wanted), fleet)
    return None if resolution is None else [target.removesuffix(":latest") for target in resolution.targets]


# --- what the owner defines ---


def test_an_alias_is_an_ordered_list_of_models_that_the_fleet_has() -> None:
    settings = AliasSettings(("fast = little | gone|middle",))
    assert targets("fast", three_sizes(), settings) == ["little", "middle"]
    assert targets("FAST:latest", three_sizes(), settings) == ["little", "middle"]


def test_a_name_that_is_not_an_alias_is_used_unchanged() -> None:
    assert targets("little", three_sizes(), AliasSettings(("fast=little",))) is None
    assert targets("unknown", three_sizes()) is None


def test_an_alias_wins_over_a_model_of_this_name_but_a_pattern_does_not() -> None:
    assert targets("big", three_sizes(), AliasSettings(("big=little",))) == ["little"]
    assert targets("big", three_sizes(), AliasSettings(("b*=little",))) is None
    assert targets("bigger", three_sizes(), AliasSettings(("b*=little",))) == ["little"]


def test_the_pattern_with_the_longest_beginning_applies() -> None:
    settings = AliasSettings(("claude-*=big", "claude-haiku-*=little", "*=middle"))
    assert targets("claude-haiku-4-5", three_sizes(), settings) == ["little"]
    assert targets("Claude-Opus-4", three_sizes(), settings) == ["big"]
    assert targets("whatever", three_sizes(), settings) == ["middle"]


def test_an_alias_without_a_live_model_says_what_the_owner_wanted() -> None:
    resolution = Aliases(AliasSettings(("fast=gone|Other",))).resolve(Wanted("fast"), three_sizes())
    assert resolution is not None
    assert (resolution.targets, resolution.wanted, resolution.reason) == ((), ("gone", "Other"), "alias fast")


def test_the_map_of_ollama_herd_is_honored_and_the_own_table_wins() -> None:
    text = '{"claude-opus-4-7": "big", "claude-haiku-4-5": "middle", "default": "little", "claude-x": ""}'
    settings = AliasSettings(("claude-haiku-4-5=big",), text)
    assert targets("claude-opus-4-7", three_sizes(), settings) == ["big"]
    assert targets("claude-haiku-4-5", three_sizes(), settings) == ["big"]
    assert targets("claude-x", three_sizes(), settings) == ["little"]


@pytest.mark.parametrize(
    ("entry", "named"),
    [
        ("fast", "NAME=MODEL"),
        ("=m", "NAME=MODEL"),
        ("fast=", "NAME=MODEL"),
        ("fast=|", "NAME=MODEL"),
        ("fast=a\nb", "name of a model"),
        ("f" * 300 + "=m", "name of a model"),
        ("fast=" + "|".join(f"m{n}" for n in range(TARGETS_MAX + 1)), f"at most {TARGETS_MAX}"),
    ],
)
def test_an_invalid_entry_is_named(entry: str, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        AliasSettings((entry,))


@pytest.mark.parametrize("text", ["[]", "{", '{"a": 1}', '{"a": "b\\n"}'])
def test_an_invalid_map_is_named(text: str) -> None:
    with pytest.raises(ValueError, match="FLEET_ANTHROPIC_MODEL_MAP"):
        AliasSettings(anthropic_map=text)


def test_there_is_a_limit_for_the_number_of_aliases() -> None:
    with pytest.raises(ValueError, match=f"at most {ALIASES_MAX}"):
        parse_table(f"a{n}=m" for n in range(ALIASES_MAX + 1))
    with pytest.raises(ValueError, match=f"at most {ALIASES_MAX}"):
        parse_map("{" + ",".join(f'"a{n}":"m"' for n in range(ALIASES_MAX + 1)) + "}")


def test_entries_are_written_as_they_are_read() -> None:
    assert parse_table([format_entry("fast", ["a", "b"])]) == {"fast": ("a", "b")}
    for name, models in (("a,b", ["m"]), ("a", ["m|n"]), ("a=b", ["m"]), ("", ["m"]), ("a", [])):
        with pytest.raises(ValueError, match=r"must not contain|NAME=MODEL"):
            format_entry(name, models)


# --- names of cloud models ---


@pytest.mark.parametrize(
    ("name", "tier"),
    [
        ("claude-opus-4-7", Tier.LARGE),
        ("claude-3-opus-20240229", Tier.LARGE),
        ("claude-sonnet-4-5-20250929", Tier.BALANCED),
        ("claude-sonnet-4-5[1m]", Tier.BALANCED),
        ("claude-something-new", Tier.BALANCED),
        ("claude-haiku-4-5", Tier.SMALL),
        ("claude-3-5-haiku-latest", Tier.SMALL),
        ("Claude-Haiku-4-5", Tier.SMALL),
        ("gpt-5.1-codex", Tier.BALANCED),
        ("gpt-5-pro", Tier.LARGE),
        ("gpt-4o-mini", Tier.SMALL),
        ("gpt-5-nano", Tier.SMALL),
        ("o3", Tier.LARGE),
        ("o4-mini", Tier.SMALL),
        ("chatgpt-4o-latest", Tier.BALANCED),
        ("gemini-2.5-pro", None),
        ("gpt-oss", None),
        ("gpt-oss-120b", None),
        ("gpt-oss:20b", None),
        ("gpt-neox-20b", None),
        ("me/gpt-5", None),
        ("llama3.2:3b", None),
        ("opus", None),
        ("", None),
    ],
)
def test_names_of_cloud_models_have_a_tier(name: str, tier: Tier | None) -> None:
    assert tier_of(name) is tier
    assert is_cloud_name(name) or tier is None


@pytest.mark.parametrize(
    ("name", "first"), [("claude-opus-4", "big"), ("claude-sonnet-4", "middle"), ("claude-haiku-4", "little")]
)
def test_each_tier_gets_models_of_its_size_and_the_others_as_fallbacks(name: str, first: str) -> None:
    found = targets(name, three_sizes())
    assert found is not None and found[0] == first and sorted(found) == ["big", "little", "middle"]


@pytest.mark.parametrize("name", ["claude-opus-4", "claude-sonnet-4", "claude-haiku-4", "gpt-5"])
def test_a_single_model_answers_for_every_tier(name: str) -> None:
    assert targets(name, a_fleet(a_model("only", "8B"))) == ["only"]


def test_a_loaded_model_of_the_tier_is_preferred() -> None:
    sizes = {"a": "70B", "b": "65B", "c": "9B", "d": "8B", "e": "3B", "f": "2B"}
    fleet = a_fleet(*(a_model(name, size, loaded=name in "bf") for name, size in sizes.items()))
    assert (targets("claude-opus-4", fleet) or [])[:2] == ["b", "a"]
    assert (targets("claude-haiku-4", fleet) or [])[:2] == ["f", "e"]


def test_models_that_cannot_do_what_the_request_needs_do_not_answer() -> None:
    without = a_model("without", "70B", capabilities=CHAT, lacks=frozenset({"tools"}))
    unknown = a_model("unknown", "32B", capabilities=frozenset())
    able = a_model("able", "3B")
    needs = frozenset({"tools"})
    assert targets("claude-opus-4", a_fleet(without, unknown, able), needs=needs) == ["able"]
    assert targets("claude-opus-4", a_fleet(without, unknown), needs=needs) == ["unknown"]
    assert targets("claude-opus-4", a_fleet(without), needs=needs) == []
    assert targets("claude-opus-4", a_fleet(without), needs=frozenset({"thinking"})) == ["without"]


def test_a_model_whose_window_is_too_small_does_not_answer() -> None:
    fleet = a_fleet(a_model("short", "70B", context_max_tokens=4096), a_model("long", "8B", context_max_tokens=131072))
    assert targets("claude-opus-4", fleet, prompt_tokens=50_000) == ["long"]


def test_embedding_models_and_tiny_models_do_not_answer_for_a_tier() -> None:
    embedding = a_model("embed", "7B", capabilities=frozenset({"embedding"}))
    assert targets("claude-haiku-4", a_fleet(embedding, a_model("draft", "100M"), a_model("m", "8B"))) == ["m"]
    assert targets("claude-haiku-4", a_fleet(embedding, a_model("draft", "100M"))) == ["draft"]


def test_models_of_offline_nodes_do_not_answer_for_a_tier() -> None:
    fleet = three_sizes()
    fleet.nodes[next(iter(fleet.nodes))].liveness = Liveness.OFFLINE
    assert targets("claude-opus-4", fleet) == []


def test_sizes_are_estimated_from_the_file_if_the_engine_reports_no_parameters() -> None:
    fleet = a_fleet(a_model_info("heavy", 40.0, capabilities=CHAT), a_model_info("light", 2.0, capabilities=CHAT))
    assert (targets("claude-opus-4", fleet) or [])[0] == "heavy"
    assert (targets("claude-haiku-4", fleet) or [])[0] == "light"


def test_tiers_can_be_turned_off_and_are_not_for_embeddings() -> None:
    assert targets("claude-opus-4", three_sizes(), AliasSettings(has_tiers=False)) is None
    assert targets("gpt-5", three_sizes(), kind=RequestKind.EMBED) is None


def test_a_cloud_name_that_a_node_has_is_that_model() -> None:
    assert targets("gpt-5", a_fleet(a_model("gpt-5", "8B"), a_model("m", "8B"))) is None


# --- keys and other sources ---


def test_only_models_that_the_key_allows_answer() -> None:
    def may_use(name: ModelName) -> bool:
        return name == canonical("little")

    aliases = Aliases(AliasSettings(("fast=big|little",)))
    for name in ("fast", "claude-opus-4"):
        resolution = aliases.resolve(Wanted(name), three_sizes(), may_use)
        assert resolution is not None and resolution.targets == (canonical("little"),)


def test_names_that_ollama_herd_lists_for_mlx_are_models_of_their_own_server() -> None:
    fleet = a_fleet(a_model("mlx-community/Qwen3", "8B"))
    assert targets("mlx:mlx-community/Qwen3", fleet) == ["mlx-community/qwen3"]
    assert targets("mlx:unknown", fleet) is None


def test_a_name_that_says_local_is_the_model_unless_a_model_has_this_very_name() -> None:
    fleet = a_fleet(a_model("m:latest", "8B"), a_model("n:4b", "8B"), a_model("n:local", "8B"))
    assert targets("m:local", fleet) == targets("library/M:latest:LOCAL", fleet) == ["m"]
    assert targets("n:4b:local", fleet) == ["n:4b"]
    assert targets("n:local", fleet) is targets("unknown:local", fleet) is None


def test_resolution_depends_only_on_its_arguments() -> None:
    assert len({tuple(targets("claude-sonnet-4", three_sizes()) or ()) for _ in range(5)}) == 1
