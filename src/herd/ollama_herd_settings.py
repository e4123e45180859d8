"""Lists the settings of ollama-herd 0.11.4 that herd has under another name, or knows but does not need.

People bring their environment file. Its names are accepted, so that herd starts; each one without an effect is reported
with the reason. A name that neither program has stays an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class Replacement:
    """The setting of herd that replaces one of ollama-herd.

    `values` translates its values, in lower case; a value that is missing there has no effect. None: they are the same.
    """

    env: str
    values: Mapping[str, str] | None = None

    def value(self, text: str) -> str | None:
        """The value of the new setting; None if it keeps its own."""
        return text if self.values is None else self.values.get(text.strip().lower())


REPLACED: Mapping[str, Replacement] = MappingProxyType(
    {
        "FLEET_ANTHROPIC_AUTO_ROUTE": Replacement("FLEET_ALIAS_TIERS"),
        "FLEET_CORS_ORIGINS": Replacement("FLEET_ALLOWED_ORIGINS"),
        "FLEET_DISABLE_MODEL_PRELOADER": Replacement(
            "FLEET_MODEL_PRELOAD_MAX_COUNT", dict.fromkeys(("true", "1", "yes", "on"), "0")
        ),
    }
)

_NO_PLATFORM = "herd connects to no platform"
_NO_TELEMETRY = "herd sends no data to other parties"
_NO_COMPACTION = "herd does not shorten conversations: agents do that themselves, and herd picks a large enough window"
_NO_CLEARING = "herd does not remove tool results from conversations"
_OTHER_MLX = (
    "herd-node starts no servers of mlx-lm; start one, and name it with FLEET_NODE_ENGINE=openai and "
    "FLEET_NODE_ENGINE_URL"
)
_MLX_LIMITS = "requests to servers of mlx-lm wait in the same queue as all others, with the limits FLEET_HOLD_*"
_REBALANCED_AT_ONCE = "a waiting request moves as soon as another node has a free slot (FLEET_REBALANCE)"
_ONE_SERVICE_TYPE = "every coordinator announces itself with the same mDNS service; name one with --router-url"
_NO_IMAGES = "herd serves no image generation"
_NO_TRANSCRIPTION = "herd serves no transcription"
_NO_IMAGE_EMBEDDING = "herd serves no embeddings of images"
_NO_SPEED_POINTS = "the default scheduler uses the measured speed of each node, not its memory bandwidth"
_FAIR_SHARES = "fair shares of the queue (FLEET_HOLD_TENANT_SHARE) and limits of API keys replace it"
_NO_REPORT = "herd has no report that a model writes; see herd health"
_NO_BODIES = "herd never writes prompts to disk; FLEET_CAPTURE keeps some in memory for a limited time"
_NO_ALERT = "herd sends no alerts; see herd health and /dashboard/api/health"
_NO_NICKNAME = "herd shows the fleet without a nickname"
_WINDOWS_CHOSEN = "herd chooses context windows by their use; see herd windows"
_BY_WINDOW = "the scheduler already prefers nodes whose window fits the prompt"

WITHOUT_EFFECT: Mapping[str, str] = MappingProxyType(
    {
        "FLEET_ANTHROPIC_AUTO_CLEAR_TOOL_USES_KEEP_RECENT": _NO_CLEARING,
        "FLEET_ANTHROPIC_AUTO_CLEAR_TOOL_USES_TRIGGER_TOKENS": _NO_CLEARING,
        "FLEET_ANTHROPIC_DEFAULT_MAX_TOKENS": "clients of this API send max_tokens themselves",
        "FLEET_ANTHROPIC_MAX_PROMPT_TOKENS": "a prompt that fits no window gets an error with the numbers of tokens",
        "FLEET_ANTHROPIC_SIZE_ESCALATION_MODEL": _BY_WINDOW,
        "FLEET_ANTHROPIC_SIZE_ESCALATION_TOKENS": _BY_WINDOW,
        "FLEET_ANTHROPIC_TOOLS_DENY": "herd removes no tools from requests",
        "FLEET_ANTHROPIC_TOOL_SCHEMA_FIXUP": "herd repairs tool calls in every API (FLEET_TOOL_REPAIR)",
        "FLEET_ANTHROPIC_VISION_MODEL": "herd prefers nodes and models that can do what a request needs",
        "FLEET_BANDWIDTH_AWARE_SCORING": _NO_SPEED_POINTS,
        "FLEET_CLIENT_CONCURRENCY_RETRY_AFTER": _FAIR_SHARES,
        "FLEET_CLIENT_MAX_IN_FLIGHT": _FAIR_SHARES,
        "FLEET_CONTEXT_COMPACTION_BUDGET_TOKENS": _NO_COMPACTION,
        "FLEET_CONTEXT_COMPACTION_CURATOR_MIN_PARAMS_B": _NO_COMPACTION,
        "FLEET_CONTEXT_COMPACTION_CURATOR_TIMEOUT_S": _NO_COMPACTION,
        "FLEET_CONTEXT_COMPACTION_ENABLED": _NO_COMPACTION,
        "FLEET_CONTEXT_COMPACTION_FORCE_TRIGGER_TOKENS": _NO_COMPACTION,
        "FLEET_CONTEXT_COMPACTION_IDLE_WINDOW_S": _NO_COMPACTION,
        "FLEET_CONTEXT_COMPACTION_MODEL": _NO_COMPACTION,
        "FLEET_CONTEXT_COMPACTION_PRESERVE_TURNS": _NO_COMPACTION,
        "FLEET_DEBUG_REQUEST_BODIES": _NO_BODIES,
        "FLEET_DEBUG_REQUEST_RETENTION_DAYS": _NO_BODIES,
        "FLEET_EMBEDDING_USE_COREML": _NO_IMAGE_EMBEDDING,
        "FLEET_FLEET_INTELLIGENCE": _NO_REPORT,
        "FLEET_FLEET_INTELLIGENCE_MODEL": _NO_REPORT,
        "FLEET_HEARTBEAT_INTERVAL": "each agent sets its own interval (FLEET_NODE_HEARTBEAT_INTERVAL)",
        "FLEET_HERD_NICKNAME": _NO_NICKNAME,
        "FLEET_IMAGE_GENERATION": _NO_IMAGES,
        "FLEET_IMAGE_TIMEOUT": _NO_IMAGES,
        "FLEET_MDNS_SERVICE_NAME": _ONE_SERVICE_TYPE,
        "FLEET_MDNS_SERVICE_TYPE": _ONE_SERVICE_TYPE,
        "FLEET_MLX_ENABLED": "servers of mlx-lm are used as soon as an agent announces them",
        "FLEET_MLX_MAX_INFLIGHT_PER_MODEL": _MLX_LIMITS,
        "FLEET_MLX_MAX_QUEUE_DEPTH": _MLX_LIMITS,
        "FLEET_MLX_READ_TIMEOUT_S": "FLEET_STALL_TIMEOUT and FLEET_FIRST_BYTE_TIMEOUT hold for every engine",
        "FLEET_MLX_RETRY_AFTER_SECONDS": _MLX_LIMITS,
        "FLEET_MLX_URL": _OTHER_MLX,
        "FLEET_MLX_WALL_CLOCK_TIMEOUT_S": "clients set their own limit with X-Request-Timeout",
        "FLEET_NODE_HERD_NICKNAME": _NO_NICKNAME,
        "FLEET_NODE_MDNS_SERVICE_TYPE": _ONE_SERVICE_TYPE,
        "FLEET_NODE_MLX_BIND_HOST": _OTHER_MLX,
        "FLEET_NODE_MLX_ENABLED": _OTHER_MLX,
        "FLEET_NODE_MLX_MEMORY_HEADROOM_GB": _OTHER_MLX,
        "FLEET_NODE_MLX_SERVERS": _OTHER_MLX,
        "FLEET_NODE_PLATFORM_CONNECTED_AT": _NO_PLATFORM,
        "FLEET_NODE_PLATFORM_NODE_ID": _NO_PLATFORM,
        "FLEET_NODE_PLATFORM_TOKEN": _NO_PLATFORM,
        "FLEET_NODE_PLATFORM_URL": _NO_PLATFORM,
        "FLEET_NODE_POLL_INTERVAL": "the agent asks its engines before each heartbeat",
        "FLEET_NODE_TELEMETRY": _NO_TELEMETRY,
        "FLEET_NODE_TELEMETRY_INCLUDE_TAGS": _NO_TELEMETRY,
        "FLEET_NODE_TELEMETRY_LOCAL_SUMMARY": _NO_TELEMETRY,
        "FLEET_NODE_TELEMETRY_URL": _NO_TELEMETRY,
        "FLEET_NUM_CTX_OVERRIDES": _WINDOWS_CHOSEN,
        "FLEET_OFFLINE_ALERT": _NO_ALERT,
        "FLEET_OFFLINE_ALERT_URL": _NO_ALERT,
        "FLEET_QUEUE_PENALTY_BANDWIDTH_NORMALIZE": _NO_SPEED_POINTS,
        "FLEET_REBALANCE_INTERVAL": _REBALANCED_AT_ONCE,
        "FLEET_REBALANCE_MAX_PER_CYCLE": _REBALANCED_AT_ONCE,
        "FLEET_REBALANCE_THRESHOLD": _REBALANCED_AT_ONCE,
        "FLEET_TELEMETRY": _NO_TELEMETRY,
        "FLEET_TELEMETRY_URL": _NO_TELEMETRY,
        "FLEET_TRANSCRIPTION": _NO_TRANSCRIPTION,
        "FLEET_TRANSCRIPTION_TIMEOUT": _NO_TRANSCRIPTION,
        "FLEET_VISION_EMBEDDING": _NO_IMAGE_EMBEDDING,
        "FLEET_VISION_EMBEDDING_TIMEOUT": _NO_IMAGE_EMBEDDING,
    }
)
"""Why each of these settings does nothing here."""

ALL = frozenset(REPLACED) | frozenset(WITHOUT_EFFECT)
