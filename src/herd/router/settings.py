"""Every setting of the coordinator: one record for each component, which is handed its own. Reads none of them; `config.py` does."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from herd.core.completion_time import CompletionTimeSettings
from herd.core.holding import HoldingSettings
from herd.core.liveness import LivenessSettings
from herd.core.prewarming import PrewarmSettings
from herd.core.rebalancing import RebalancingSettings
from herd.core.retries import RetrySettings
from herd.core.signals import Weights
from herd.core.substitutes import SubstituteSettings
from herd.core.thinking import ThinkingSettings
from herd.core.windows import WindowSettings
from herd.logs import LogSettings
from herd.router.auto_pull import AutoPullSettings
from herd.router.benchmarks import BenchmarkSettings
from herd.router.capture import CaptureSettings
from herd.router.fetching import FetchSettings
from herd.router.gate import AccessSettings
from herd.router.http1 import HttpSettings
from herd.router.live_api import LiveSettings
from herd.router.membership import MembershipSettings
from herd.router.pins import PinSettings
from herd.router.services import RelaySettings
from herd.router.store import StoreSettings
from herd.router.tls import TlsSettings
from herd.router.upstream import UpstreamSettings
from herd.router.waiting_notes import WaitingNotesSettings


@dataclass(frozen=True, slots=True)
class GeneralSettings:
    """Where the coordinator listens and keeps its data, and how it chooses."""

    host: str = field(
        default="0.0.0.0",
        metadata={"env": "FLEET_HOST", "help": "Address to listen on; 127.0.0.1 keeps it to this machine."},
    )
    port: int = field(
        default=11435, metadata={"env": "FLEET_PORT", "help": "Port to listen on; 0 takes any.", "min": 0, "max": 65535}
    )
    data_dir: Path = field(
        default=Path("~/.fleet-manager"), metadata={"env": "FLEET_DATA_DIR", "help": "Folder for traces and logs."}
    )
    scheduler: str = field(
        default="completion_time",
        metadata={
            "env": "FLEET_SCHEDULER", "choices": ("completion_time", "signals"),
            "help": "How a node is chosen: by expected seconds, or by the points of the seven signals.",
        },
    )  # fmt: skip
    drain_s: float = field(
        default=60.0, metadata={"env": "FLEET_DRAIN_SECONDS", "help": "At the end, how long running requests may finish.", "min": 0}
    )
    mdns: bool = field(
        default=True, metadata={"env": "FLEET_MDNS", "help": "Announce the coordinator on the local network."}
    )


@dataclass(frozen=True, slots=True)
class Settings:
    """One record per component; each component is handed its own."""

    general: GeneralSettings = field(default_factory=GeneralSettings)
    log: LogSettings = field(default_factory=LogSettings)
    http: HttpSettings = field(default_factory=HttpSettings)
    upstream: UpstreamSettings = field(default_factory=UpstreamSettings)
    relay: RelaySettings = field(default_factory=RelaySettings)
    waiting_notes: WaitingNotesSettings = field(default_factory=WaitingNotesSettings)
    store: StoreSettings = field(default_factory=StoreSettings)
    liveness: LivenessSettings = field(default_factory=LivenessSettings)
    holding: HoldingSettings = field(default_factory=HoldingSettings)
    retries: RetrySettings = field(default_factory=RetrySettings)
    completion_time: CompletionTimeSettings = field(default_factory=CompletionTimeSettings)
    weights: Weights = field(default_factory=Weights)
    access: AccessSettings = field(default_factory=AccessSettings)
    membership: MembershipSettings = field(default_factory=MembershipSettings)
    tls: TlsSettings = field(default_factory=TlsSettings)
    capture: CaptureSettings = field(default_factory=CaptureSettings)
    rebalance: RebalancingSettings = field(default_factory=RebalancingSettings)
    prewarm: PrewarmSettings = field(default_factory=PrewarmSettings)
    live: LiveSettings = field(default_factory=LiveSettings)
    windows: WindowSettings = field(default_factory=WindowSettings)
    thinking: ThinkingSettings = field(default_factory=ThinkingSettings)
    substitutes: SubstituteSettings = field(default_factory=SubstituteSettings)
    fetch: FetchSettings = field(default_factory=FetchSettings)
    auto_pull: AutoPullSettings = field(default_factory=AutoPullSettings)
    pins: PinSettings = field(default_factory=PinSettings)
    benchmarks: BenchmarkSettings = field(default_factory=BenchmarkSettings)
