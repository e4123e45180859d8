"""How fast each model really is on each node, learnt from finished answers. Chooses nobody and knows no queue.

Every quantity is kept as the logarithm of its ratio to the prior, moved towards each new sample. Ratios make a node's
experience with one model tell something of its others: a pair never seen starts from its node's typical ratio.
Only samples taken while the node did nothing else teach speeds; those taken in company teach the batch slope.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass, field

from herd.core.fleet import ModelCard, ModelName, Node, NodeId
from herd.core.speeds import BATCH_SLOPE, LOAD_OVERHEAD_S, Speed, prior

PAIRS_MAX = 4096
NODES_MAX = 2048
GAIN_MIN = 0.25
"""Weight of a new sample once many were seen: a throttling laptop is believed after about four answers."""
SURPRISE_MAX = 1.2
"""A single sample may move a belief by at most this factor's logarithm (e^1.2 = 3.3), so that one odd answer does little."""
TOKENS_MIN = 8
"""Fewer tokens say more about overheads than about speed."""
CACHE_SUSPICION = 4.0
"""A prompt read so many times faster than believed was probably not read: the engine had it in its cache."""


@dataclass(slots=True)
class Ratio:
    """A learnt ratio to a prior, in logarithms."""

    log: float = 0.0
    samples: int = 0

    def learn(self, ratio: float) -> None:
        if not (0.0 < ratio < math.inf):
            return
        self.samples += 1
        gain = max(GAIN_MIN, 1.0 / self.samples)
        surprise = math.log(ratio) - self.log
        if self.samples > 1:
            surprise = max(-SURPRISE_MAX, min(SURPRISE_MAX, surprise))
        self.log += gain * surprise

    @property
    def factor(self) -> float:
        return math.exp(self.log)


@dataclass(slots=True)
class _Learnt:
    prompt: Ratio = field(default_factory=Ratio)
    step: Ratio = field(default_factory=Ratio)
    slope: float = BATCH_SLOPE
    slope_samples: int = 0


@dataclass(slots=True)
class _OfNode:
    prompt: Ratio = field(default_factory=Ratio)
    step: Ratio = field(default_factory=Ratio)
    load: Ratio = field(default_factory=Ratio)


@dataclass(frozen=True, slots=True)
class Sample:
    """What one finished answer showed. `streams` is how many decoded together on average, 1.0 when it was alone.

    `uncached_tokens` is what was really read of the prompt; None where unknown.
    """

    uncached_tokens: int | None
    prefill_s: float | None
    decoded_tokens: int
    decode_s: float | None
    load_s: float | None
    streams: float


class Rates:
    def __init__(self) -> None:
        self._pairs: OrderedDict[tuple[NodeId, ModelName], _Learnt] = OrderedDict()
        self._nodes: OrderedDict[NodeId, _OfNode] = OrderedDict()
        self._speeds: dict[tuple[NodeId, ModelName], tuple[ModelCard, Speed]] = {}

    def speed(self, node: Node, model: ModelName) -> Speed:
        """The present belief; remembered until something is learnt or the node reports anew."""
        card = node.report.models[model]
        key = (node.id, model)
        known = self._speeds.get(key)
        if known is not None and known[0] is card:
            return known[1]
        speed = self._believe(node, card, model)
        if len(self._speeds) > PAIRS_MAX:
            self._speeds.clear()
        self._speeds[key] = (card, speed)
        return speed

    def forget(self, node_id: NodeId) -> None:
        """Another boot may mean another engine or other settings: what was learnt counts as one sample only."""
        for key, learnt in self._pairs.items():
            if key[0] == node_id:
                learnt.prompt.samples = min(learnt.prompt.samples, 1)
                learnt.step.samples = min(learnt.step.samples, 1)

    def learn(self, node: Node, model: ModelName, sample: Sample) -> None:
        card = node.report.models.get(model)
        if card is None:
            return
        start = prior(node.report, card)
        learnt, of_node = self._pair(node.id, model), self._of_node(node.id)
        if sample.load_s is not None and sample.load_s > LOAD_OVERHEAD_S / 10:
            of_node.load.learn(sample.load_s / start.load_s)
        if sample.streams <= 1.0:
            self._learn_alone(start, learnt, of_node, sample)
        else:
            self._learn_slope(start, learnt, sample)
        self._speeds.pop((node.id, model), None)

    def _learn_alone(self, start: Speed, learnt: _Learnt, of_node: _OfNode, sample: Sample) -> None:
        tokens = sample.uncached_tokens
        if tokens is not None and tokens >= TOKENS_MIN and sample.prefill_s:
            ratio = tokens / sample.prefill_s / start.prompt_tokens_per_s
            if not learnt.prompt.samples or ratio < CACHE_SUSPICION * learnt.prompt.factor:
                learnt.prompt.learn(ratio)
                of_node.prompt.learn(ratio)
        if sample.decoded_tokens >= TOKENS_MIN and sample.decode_s:
            ratio = sample.decode_s / sample.decoded_tokens / start.step_s
            learnt.step.learn(ratio)
            of_node.step.learn(ratio)

    @staticmethod
    def _learn_slope(start: Speed, learnt: _Learnt, sample: Sample) -> None:
        if not learnt.step.samples or sample.decoded_tokens < TOKENS_MIN or not sample.decode_s or sample.streams < 1.5:
            return
        alone_s = start.step_s * learnt.step.factor
        slope = (sample.decode_s / sample.decoded_tokens / alone_s - 1.0) / (sample.streams - 1.0)
        learnt.slope_samples += 1
        gain = max(0.1, 1.0 / (learnt.slope_samples + 1))
        learnt.slope += gain * (max(0.0, min(1.5, slope)) - learnt.slope)

    def _believe(self, node: Node, card: ModelCard, model: ModelName) -> Speed:
        start = prior(node.report, card)
        learnt, of_node = self._pairs.get((node.id, model)), self._nodes.get(node.id)
        prompt = _first_learnt(learnt.prompt if learnt else None, of_node.prompt if of_node else None)
        step = _first_learnt(learnt.step if learnt else None, of_node.step if of_node else None)
        load = _first_learnt(None, of_node.load if of_node else None)
        slope = learnt.slope if learnt is not None else BATCH_SLOPE
        return Speed(start.prompt_tokens_per_s * prompt, start.step_s * step, slope, start.load_s * load)

    def _pair(self, node_id: NodeId, model: ModelName) -> _Learnt:
        key = (node_id, model)
        found = self._pairs.get(key)
        if found is None:
            found = self._pairs[key] = _Learnt()
            if len(self._pairs) > PAIRS_MAX:
                self._pairs.popitem(last=False)
        return found

    def _of_node(self, node_id: NodeId) -> _OfNode:
        found = self._nodes.get(node_id)
        if found is None:
            found = self._nodes[node_id] = _OfNode()
            if len(self._nodes) > NODES_MAX:
                self._nodes.popitem(last=False)
        return found


def _first_learnt(of_pair: Ratio | None, of_node: Ratio | None) -> float:
    if of_pair is not None and of_pair.samples:
        return of_pair.factor
    return of_node.factor if of_node is not None and of_node.samples else 1.0


