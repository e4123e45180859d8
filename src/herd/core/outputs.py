"""How long answers will be, learnt per app and model. A guess for planning; never a limit, and knows no node.

The mean is what completion time needs (the sum of many answers is what fills a node), but one endless answer must not
move it far, so samples are capped at a multiple of the present belief.
"""

from __future__ import annotations

from collections import OrderedDict

from herd.core.fleet import ModelName
from herd.core.request import Kind, Request

TOKENS_DEFAULT = 200.0
KEYS_MAX = 4096
GAIN_MIN = 0.05
SURPRISE_FACTOR_MAX = 8.0


class Outputs:
    def __init__(self) -> None:
        self._means: OrderedDict[tuple[str, ModelName], tuple[float, int]] = OrderedDict()

    def expected_tokens(self, request: Request, model: ModelName) -> float:
        """What this request will probably decode; bounded by what it allows. Embeddings decode nothing."""
        if request.kind in (Kind.EMBED, Kind.INFO):
            return 0.0
        mean = self._mean((_app(request), model)) or self._mean(("", model)) or TOKENS_DEFAULT
        return min(mean, float(request.output_tokens_max)) if request.output_tokens_max else mean

    def learn(self, request: Request, model: ModelName, tokens: int) -> None:
        for key in {(_app(request), model), ("", model)}:
            self._update(key, float(tokens))

    def _mean(self, key: tuple[str, ModelName]) -> float | None:
        known = self._means.get(key)
        return known[0] if known is not None else None

    def _update(self, key: tuple[str, ModelName], tokens: float) -> None:
        mean, samples = self._means.pop(key, (TOKENS_DEFAULT, 0))
        gain = max(GAIN_MIN, 1.0 / (samples + 2))
        capped = min(tokens, SURPRISE_FACTOR_MAX * max(mean, 16.0))
        self._means[key] = (mean + gain * (capped - mean), samples + 1)
        if len(self._means) > KEYS_MAX:
            self._means.popitem(last=False)


def _app(request: Request) -> str:
    return request.tags[0] if request.tags else ""
