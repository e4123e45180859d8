"""Defines machines and models, and how fast each machine runs each model.

Speeds follow published single-stream measurements (llama.cpp and Ollama, 2024 to 2026): decoding reads the active
weights once per token, prefill is bound by arithmetic. The coordinator's own priors are simpler on purpose: it must
learn the differences.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

GB = 1_000_000_000
RUNNER_START_S = 1.5
"""Time to start a runner, for a model of any size."""
PAGE_CACHE_FACTOR = 3.5
"""How many times faster a file loads that is in the page cache."""
PREFILL_DEPTH_TOKENS = 32_000.0
"""At this depth prefill runs at half speed (a fifth slower at 8k)."""
DECODE_DEPTH_TOKENS = 86_000.0
"""Decoding at a depth of 32k is about 37 % slower than at 0."""
EXPERTS_PROMPT_SHARE = 0.65
"""Prefill speed of a mixture of experts, as a share of what its active weights suggest."""
EXPERTS_BATCH = 0.65
"""Step ratio of a mixture of experts: 1 + 0.65 log2(streams)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """`prompt_8b`: prompt tokens/s of an 8B 4-bit model. `batch_slope`: what one more stream adds to a step (dense
    models)."""

    name: str
    kind: str
    chip: str
    memory_gb: float
    bandwidth_gbps: float
    prompt_8b: float
    efficiency: float = 0.78
    overhead_s: float = 0.001
    batch_slope: float = 0.1
    disk_gbps: float = 2.0
    slots: int = 4
    models_max: int = 3
    throttles: bool = False

    @property
    def has_gpu_memory(self) -> bool:
        return self.kind == "gpu"


@dataclass(frozen=True, slots=True)
class Model:
    """`active_gb`: weights that are read for each token. `kv_bytes`: memory of one token of context."""

    name: str
    size_gb: float
    active_gb: float
    kv_bytes: int = 131_072
    is_experts: bool = False
    is_embedding: bool = False
    context_max: int = 131_072

    @property
    def size_bytes(self) -> int:
        return int(self.size_gb * GB)


@dataclass(slots=True)
class Speeds:
    """The true speeds of one model on one machine, with a single stream and without throttling."""

    prompt_per_s: float
    step_s: float
    batch_slope: float
    is_experts: bool
    load_s: float
    prompt_depth: float = PREFILL_DEPTH_TOKENS
    decode_depth: float = DECODE_DEPTH_TOKENS

    def batch(self, streams: int) -> float:
        """How many times longer a step takes while this number of streams decode together."""
        if streams <= 1:
            return 1.0
        if self.is_experts:
            return 1.0 + EXPERTS_BATCH * math.log2(streams)
        return 1.0 + self.batch_slope * (streams - 1)


def speeds(machine: Machine, model: Model) -> Speeds:
    step_s = model.active_gb / (machine.efficiency * machine.bandwidth_gbps) + machine.overhead_s
    parameters_b = model.active_gb / (4.9 / 8.0)
    share = EXPERTS_PROMPT_SHARE if model.is_experts else 1.0
    prompt = machine.prompt_8b * 8.0 / max(parameters_b, 0.1) * share
    return Speeds(
        prompt, step_s, machine.batch_slope, model.is_experts, RUNNER_START_S + model.size_gb / machine.disk_gbps
    )


def varied(machine: Machine, compute: float, bandwidth: float, disk: float) -> Machine:
    """The same machine with other true speeds: no two machines of one type are equal."""
    return replace(
        machine,
        prompt_8b=machine.prompt_8b * compute,
        efficiency=machine.efficiency * bandwidth,
        disk_gbps=machine.disk_gbps * disk,
    )


MAC_STUDIO_ULTRA = Machine(
    name="studio",
    kind="apple",
    chip="Apple M2 Ultra",
    memory_gb=144,
    bandwidth_gbps=800,
    prompt_8b=1024,
    efficiency=0.55,
    overhead_s=0.003,
    batch_slope=0.3,
    disk_gbps=5.0,
)
MAC_STUDIO_M3 = Machine(
    name="studio3",
    kind="apple",
    chip="Apple M3 Ultra",
    memory_gb=192,
    bandwidth_gbps=819,
    prompt_8b=1300,
    efficiency=0.62,
    overhead_s=0.003,
    batch_slope=0.3,
    disk_gbps=5.0,
)
MACBOOK_MAX = Machine(
    name="macbook",
    kind="apple",
    chip="Apple M3 Max",
    memory_gb=46,
    bandwidth_gbps=400,
    prompt_8b=678,
    efficiency=0.7,
    overhead_s=0.003,
    batch_slope=0.35,
    disk_gbps=4.0,
    slots=2,
)
MACBOOK_FANLESS = Machine(
    name="laptop",
    kind="apple",
    chip="Apple M3 Max",
    memory_gb=46,
    bandwidth_gbps=400,
    prompt_8b=678,
    efficiency=0.7,
    overhead_s=0.003,
    batch_slope=0.35,
    disk_gbps=4.0,
    slots=2,
    throttles=True,
)
MAC_MINI = Machine(
    name="mini",
    kind="apple",
    chip="Apple M4",
    memory_gb=22,
    bandwidth_gbps=120,
    prompt_8b=225,
    efficiency=0.87,
    overhead_s=0.003,
    batch_slope=0.4,
    disk_gbps=3.0,
    slots=2,
)
RTX_3090 = Machine(
    name="rtx3090",
    kind="gpu",
    chip="RTX 3090",
    memory_gb=22.5,
    bandwidth_gbps=936,
    prompt_8b=3865,
    efficiency=0.66,
    overhead_s=0.0008,
    batch_slope=0.08,
    disk_gbps=2.0,
)
RTX_4090 = Machine(
    name="rtx4090",
    kind="gpu",
    chip="RTX 4090",
    memory_gb=22.5,
    bandwidth_gbps=1008,
    prompt_8b=6900,
    efficiency=0.7,
    overhead_s=0.0006,
    batch_slope=0.08,
    disk_gbps=3.0,
)
RTX_3060 = Machine(
    name="rtx3060",
    kind="gpu",
    chip="RTX 3060",
    memory_gb=11.0,
    bandwidth_gbps=360,
    prompt_8b=1700,
    efficiency=0.8,
    overhead_s=0.001,
    batch_slope=0.09,
    disk_gbps=2.0,
)
RTX_PRO_6000 = Machine(
    name="pro6000",
    kind="gpu",
    chip="RTX PRO 6000",
    memory_gb=92,
    bandwidth_gbps=1792,
    prompt_8b=11000,
    efficiency=0.68,
    overhead_s=0.0006,
    batch_slope=0.07,
    disk_gbps=4.0,
)
DGX_SPARK = Machine(
    name="spark",
    kind="gpu",
    chip="NVIDIA GB10",
    memory_gb=110,
    bandwidth_gbps=273,
    prompt_8b=2200,
    efficiency=0.75,
    overhead_s=0.001,
    batch_slope=0.08,
    disk_gbps=4.0,
)
STRIX_HALO = Machine(
    name="strix",
    kind="gpu",
    chip="AMD Radeon 8060S",
    memory_gb=96,
    bandwidth_gbps=256,
    prompt_8b=900,
    efficiency=0.76,
    overhead_s=0.0015,
    batch_slope=0.15,
    disk_gbps=3.0,
)
LAPTOP_CPU = Machine(
    name="notebook",
    kind="processor",
    chip="AMD Ryzen AI 7 340",
    memory_gb=24,
    bandwidth_gbps=80,
    prompt_8b=48,
    efficiency=0.68,
    overhead_s=0.005,
    batch_slope=0.85,
    disk_gbps=1.5,
    slots=1,
)

LLAMA_3B = Model("llama3.2:3b", 2.0, 2.0, 114_688)
LLAMA_8B = Model("llama3.1:8b", 4.9, 4.9)
QWEN_14B = Model("qwen2.5:14b", 9.0, 9.0, 196_608)
QWEN_32B = Model("qwen2.5:32b", 20.0, 20.0, 262_144)
LLAMA_70B = Model("llama3.3:70b", 42.5, 42.5, 327_680)
GPT_OSS_20B = Model("gpt-oss:20b", 13.8, 2.4, 49_152, is_experts=True)
MISTRAL_24B = Model("mistral-small:24b", 14.3, 14.3, 163_840)
CODER_7B = Model("qwen2.5-coder:7b", 4.7, 4.7, 57_344)
NOMIC_EMBED = Model("nomic-embed-text", 0.3, 0.27, 4_096, is_embedding=True, context_max=8192)
