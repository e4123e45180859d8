"""Collects the settings records of all components of the coordinator; `config.py` loads their values."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from herd.coordinator.api.live import LiveSettings
from herd.coordinator.auth.access_control import AccessSettings
from herd.coordinator.auth.membership import MembershipSettings
from herd.coordinator.models.benchmark_runner import BenchmarkSettings
from herd.coordinator.models.pinned_models import PinSettings
from herd.coordinator.models.transfers import TransferSettings
from herd.coordinator.proxy.auto_pull import AutoPullSettings
from herd.coordinator.proxy.capture import CaptureSettings
from herd.coordinator.proxy.relay_dependencies import RelaySettings
from herd.coordinator.proxy.response_store import ResponseStoreSettings
from herd.coordinator.proxy.wait_comments import WaitCommentSettings
from herd.coordinator.storage.store_settings import StoreSettings
from herd.coordinator.upstream.contract import UpstreamSettings
from herd.core.context.thinking import ThinkingSettings
from herd.core.context.windows import WindowSettings
from herd.core.lifecycle.holding import HoldingSettings
from herd.core.lifecycle.prewarming import PrewarmSettings
from herd.core.lifecycle.rebalancing import RebalancingSettings
from herd.core.lifecycle.retries import RetrySettings
from herd.core.scheduling.aliases import AliasSettings
from herd.core.scheduling.completion_time import CompletionTimeSettings
from herd.core.scheduling.signals import Weights
from herd.core.scheduling.substitutes import SubstituteSettings
from herd.core.scheduling.user_slots import UserSlotSettings
from herd.core.state.liveness import LivenessSettings
from herd.http1.http_settings import HttpSettings
from herd.http1.tls import TlsSettings
from herd.logs import LogSettings
from herd.trust.identity import IdentitySettings
from herd.trust.user_limits import UserLimitSettings


@dataclass(frozen=True, slots=True)
class GeneralSettings:
    """Where the coordinator listens, where it stores its data, and how it schedules requests."""

    host: str = field(
        default="0.0.0.0",
        metadata={
            "env": "FLEET_HOST",
            "help": "Address to listen on; 127.0.0.1 accepts connections from this machine only.",
        },
    )
    port: int = field(
        default=11435,
        metadata={"env": "FLEET_PORT", "help": "Port to listen on; 0 picks a free port.", "min": 0, "max": 65535},
    )
    data_dir: Path = field(
        default=Path("~/.fleet-manager"),
        metadata={"env": "FLEET_DATA_DIR", "help": "Folder for traces, logs and keys."},
    )
    scheduler: str = field(
        default="completion_time",
        metadata={
            "env": "FLEET_SCHEDULER",
            "choices": ("completion_time", "signals"),
            "help": ("Scheduling policy: completion_time (earliest expected finish) or signals (highest score)."),
        },
    )
    drain_s: float = field(
        default=60.0,
        metadata={
            "env": "FLEET_DRAIN_SECONDS",
            "help": "Shutdown grace period in seconds for running requests.",
            "min": 0,
        },
    )
    mdns: bool = field(
        default=True, metadata={"env": "FLEET_MDNS", "help": "Announce the coordinator on the local network by mDNS."}
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """One record per component. Each component gets its own record."""

    general: GeneralSettings = field(default_factory=GeneralSettings)
    log: LogSettings = field(default_factory=LogSettings)
    http: HttpSettings = field(default_factory=HttpSettings)
    upstream: UpstreamSettings = field(default_factory=UpstreamSettings)
    relay: RelaySettings = field(default_factory=RelaySettings)
    responses: ResponseStoreSettings = field(default_factory=ResponseStoreSettings)
    wait_comments: WaitCommentSettings = field(default_factory=WaitCommentSettings)
    store: StoreSettings = field(default_factory=StoreSettings)
    liveness: LivenessSettings = field(default_factory=LivenessSettings)
    holding: HoldingSettings = field(default_factory=HoldingSettings)
    retries: RetrySettings = field(default_factory=RetrySettings)
    completion_time: CompletionTimeSettings = field(default_factory=CompletionTimeSettings)
    weights: Weights = field(default_factory=Weights)
    access: AccessSettings = field(default_factory=AccessSettings)
    identity: IdentitySettings = field(default_factory=IdentitySettings)
    user_slots: UserSlotSettings = field(default_factory=UserSlotSettings)
    user_limits: UserLimitSettings = field(default_factory=UserLimitSettings)
    membership: MembershipSettings = field(default_factory=MembershipSettings)
    tls: TlsSettings = field(default_factory=TlsSettings)
    capture: CaptureSettings = field(default_factory=CaptureSettings)
    rebalance: RebalancingSettings = field(default_factory=RebalancingSettings)
    prewarm: PrewarmSettings = field(default_factory=PrewarmSettings)
    live: LiveSettings = field(default_factory=LiveSettings)
    windows: WindowSettings = field(default_factory=WindowSettings)
    thinking: ThinkingSettings = field(default_factory=ThinkingSettings)
    aliases: AliasSettings = field(default_factory=AliasSettings)
    substitutes: SubstituteSettings = field(default_factory=SubstituteSettings)
    transfers: TransferSettings = field(default_factory=TransferSettings)
    auto_pull: AutoPullSettings = field(default_factory=AutoPullSettings)
    pinned_models: PinSettings = field(default_factory=PinSettings)
    benchmarks: BenchmarkSettings = field(default_factory=BenchmarkSettings)
