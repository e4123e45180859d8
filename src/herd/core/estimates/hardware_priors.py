"""Estimates the speed of a model on a node from the node's hardware, before any measurement.

Decoding reads all active weights once per token, so its speed follows memory bandwidth. Prefill is bound by arithmetic,
which grows with bandwidth at a ratio typical of each class of hardware. The constants fit published single-stream
measurements of about twenty machines (llama.cpp and Ollama, 2024 to 2026) with a median error of a few percent for
decoding and about a third for prefill. Learning starts from these values.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from herd.core.state.fleet import GB, ModelInfo, Report

BANDWIDTH_EFFICIENCY = 0.75
"""Share of the nominal bandwidth that decoding reaches (measured 0.68 to 0.89)."""
DISK_BYTES_PER_S = 1_500_000_000.0
"""Practical model loading speed of an NVMe disk."""
LOAD_OVERHEAD_S = 1.5
"""Time to start a runner, for a model of any size."""
_BYTES_PER_PARAMETER = 4.9 / 8
"""A 4-bit quantisation with its scales: an 8B model is 4.9 GB."""
_ACTIVE = re.compile(r"(\d+(?:\.\d+)?)b-a(\d+(?:\.\d+)?)b")
_EXPERTS = (
    ("gpt-oss:20b", 0.17),
    ("gpt-oss:120b", 0.044),
    ("gpt-oss", 0.17),
    ("mixtral:8x22b", 0.28),
    ("mixtral", 0.28),
    ("qwen3:30b", 0.11),
    ("qwen3-coder:30b", 0.11),
    ("qwen3:235b", 0.094),
    ("qwen3-coder:480b", 0.073),
    ("llama4:scout", 0.16),
    ("llama4:maverick", 0.043),
    ("llama4", 0.16),
    ("deepseek-v3", 0.055),
    ("deepseek-r1:671b", 0.055),
    ("kimi-k2", 0.032),
    ("glm-4.5-air", 0.11),
)
"""The active share of parameters of mixtures of experts whose names do not contain it; source: their model cards."""


@dataclass(frozen=True, slots=True)
class HardwareClass:
    """`prompt_per_gbps`: prompt tokens/s of an 8B 4-bit model for each GB/s of bandwidth. `overhead_s`: seconds for
    each decoded token. `batch_slope`: how much one more stream slows a decoding step of a dense model, relative to a
    single stream."""

    name: str
    bandwidth_gbps: float
    prompt_per_gbps: float
    overhead_s: float
    batch_slope: float


NVIDIA = HardwareClass("nvidia", 400.0, 5.0, 0.001, 0.15)
AMD = HardwareClass("amd", 250.0, 3.5, 0.002, 0.25)
APPLE = HardwareClass("apple", 120.0, 1.5, 0.004, 0.4)
PROCESSOR = HardwareClass("processor", 40.0, 0.6, 0.005, 0.8)
EXPERTS_BATCH_SLOPE = 0.5
"""Each stream of a mixture of experts uses other experts: batching helps little on any hardware."""


@dataclass(slots=True)
class Speed:
    """`prompt_tokens_per_s`: of the uncached prompt. `step_s`: seconds for one token of a single stream. `load_s`: from
    the page cache if the model was loaded recently, else from disk."""

    prompt_tokens_per_s: float
    step_s: float
    batch_slope: float
    load_s: float
    cold_load_s: float = 0.0
    """From disk."""

    def step_with_s(self, streams: float) -> float:
        """Seconds per token of each stream while this number of streams decode together."""
        return self.step_s * (1.0 + self.batch_slope * max(0.0, streams - 1.0))


def hardware_class(report: Report) -> HardwareClass:
    names = " ".join(gpu.name for gpu in report.gpus).lower()
    if report.gpus:
        return AMD if "radeon" in names or "amd" in names else NVIDIA
    return APPLE if "apple" in report.chip.lower() else PROCESSOR


def active_share(model_info: ModelInfo) -> float:
    """Share of the weights that is read for each token: 1, or for a mixture of experts the share in its name
    ("30b-a3b")."""
    name = model_info.name.lower()
    found = _ACTIVE.search(name)
    if found:
        return min(1.0, float(found.group(2)) / float(found.group(1)))
    short = name.rpartition("/")[2]
    return next((share for known, share in _EXPERTS if short.startswith(known)), 1.0)


def prior(report: Report, model_info: ModelInfo) -> Speed:
    """The estimate from which learning starts for this model on this node."""
    kind = hardware_class(report)
    bandwidth_gbps = report.memory_bandwidth_gbps or kind.bandwidth_gbps
    share = active_share(model_info)
    weights = max(model_info.size_bytes, 1) * share
    step_s = weights / (BANDWIDTH_EFFICIENCY * bandwidth_gbps * 1e9) + kind.overhead_s
    parameters_b = weights / GB / _BYTES_PER_PARAMETER
    prompt = bandwidth_gbps * kind.prompt_per_gbps * 8.0 / max(parameters_b, 0.05)
    slope = kind.batch_slope if share == 1.0 else max(kind.batch_slope, EXPERTS_BATCH_SLOPE)
    return Speed(prompt, step_s, slope, LOAD_OVERHEAD_S + model_info.size_bytes / DISK_BYTES_PER_S)
