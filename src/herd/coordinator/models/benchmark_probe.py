"""Makes one probe: sends a node's engine what it asks for, times the answer, reads what the engine counted. Decides nothing.

Straight to the engine and not through the core: nobody's place in a queue is taken, and whoever comes is served first, since the
caller cancels the probe. A prompt begins with words that were never sent before, so that no cache answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random

from herd.coordinator.upstream.engine_client import EngineCallFailed, EngineClient
from herd.core.estimates.learned_speeds import SpeedSample
from herd.core.planning.benchmark_stats import Probe, ProbeKind, ProbeResult
from herd.core.state.fleet import ModelInfo
from herd.core.state.request import RequestKind
from herd.engines import Call, Engine
from herd.protocols.conversation import Conversation, Message, Sampling, Usage

WISH = "Tell a long story about the sea, in as many words as you can. Do not stop."
WORD_BYTES = 4
"""A word of random letters is about two tokens; the engine's own count is what is used."""
LETTERS = "abcdefghijklmnopqrstuvwxyz"
TEMPERATURE = 0.7
PROBE_MAX_S = 300.0


class ProbeFailed(Exception):
    """The engine cannot be asked so, or did not answer whole."""


@dataclass(slots=True)
class ProbeAnswer:
    """One answer, in seconds from its sending."""

    first_s: float | None = None
    last_s: float = 0.0
    pieces: int = 0
    usage: Usage | None = None
    is_whole: bool = False


class Prober:
    def __init__(
        self, orders: EngineClient, engines: Mapping[str, Engine], now: Callable[[], float], dice: Random
    ) -> None:
        self._orders, self._engines, self._now, self._dice = orders, engines, now, dice

    async def make(self, card: ModelInfo, probe: Probe) -> tuple[ProbeResult, list[SpeedSample]]:
        """What it showed, and what that teaches. Raises `ProbeFailed`."""
        engine = self._engines.get(card.engine.kind)
        if engine is None:
            raise ProbeFailed(f"nobody speaks to {card.engine.kind}")
        began = self._now()
        try:
            async with asyncio.timeout(PROBE_MAX_S):
                if probe.kind is ProbeKind.LOAD:
                    return await self._load(engine, card, probe)
                asked = (self._answer(engine, card, probe) for _ in range(probe.streams))
                return _shown(probe, await asyncio.gather(*asked), self._now() - began)
        except EngineCallFailed as error:
            raise ProbeFailed(str(error)) from error
        except TimeoutError as error:
            raise ProbeFailed(f"no whole answer within {PROBE_MAX_S:.0f} s") from error

    async def _load(self, engine: Engine, card: ModelInfo, probe: Probe) -> tuple[ProbeResult, list[SpeedSample]]:
        call = engine.load(card.name)
        if call is None:
            raise ProbeFailed("its engine loads nothing on its own account")
        began = self._now()
        reply = await self._orders.send(card.engine.url, call)
        if reply.status != 200:
            raise ProbeFailed(f"it answered {reply.status} to the load")
        took_s = self._now() - began
        return ProbeResult(probe, load_s=took_s, took_s=took_s), [SpeedSample(None, None, 0, None, took_s, 0.0)]

    async def _answer(self, engine: Engine, card: ModelInfo, probe: Probe) -> ProbeAnswer:
        conversation = self._conversation(card, probe)
        call, reader, heard, began = engine.call(conversation), engine.reader(conversation), ProbeAnswer(), self._now()
        try:
            async for line in self._orders.lines(card.engine.url, Call(call.method, call.path, call.body)):
                for delta in reader.feed(line + b"\n"):
                    if delta.error:
                        raise ProbeFailed(delta.error[:200])
                    heard.usage = delta.usage or heard.usage
                    heard.is_whole = heard.is_whole or delta.is_last
                    if delta.text or delta.thinking:
                        heard.pieces += 1
                        heard.last_s = self._now() - began
                        heard.first_s = heard.first_s if heard.first_s is not None else heard.last_s
        except ValueError as error:
            raise ProbeFailed("it answered in another language") from error
        if not heard.is_whole and not any(delta.is_last for delta in reader.end()):
            raise ProbeFailed("its answer broke off")
        return heard

    def _conversation(self, card: ModelInfo, probe: Probe) -> Conversation:
        """With the window that the model is loaded with, where that was chosen: another one would have it loaded anew."""
        loaded = card.loaded
        window = loaded.window_tokens if loaded is not None and loaded.context_explicit else None
        words = " ".join(
            "".join(self._dice.choice(LETTERS) for _ in range(WORD_BYTES))
            for _ in range(max(4, probe.prompt_tokens // 2))
        )
        sampling = Sampling(output_tokens_max=probe.written_tokens, temperature=TEMPERATURE, window_tokens=window)
        return Conversation(
            kind=RequestKind.CHAT,
            model=card.name,
            stream=True,
            messages=[Message("user", f"{words}\n{WISH}")],
            sampling=sampling,
        )


def _shown(probe: Probe, answers: list[ProbeAnswer], took_s: float) -> tuple[ProbeResult, list[SpeedSample]]:
    read, written = sum(_read(one, probe) for one in answers), sum(_written(one) for one in answers)
    samples = [sample for one in answers if (sample := _sample(one, probe)) is not None]
    if probe.streams > 1:
        firsts = [one.first_s for one in answers if one.first_s is not None]
        span_s = max(one.last_s for one in answers) - min(firsts) if firsts else 0.0
        return ProbeResult(
            probe,
            tok_s=written / span_s if span_s > 0 else None,
            prompt_tokens=read,
            written_tokens=written,
            took_s=took_s,
        ), samples
    [heard] = answers
    usage = heard.usage or Usage()
    prefill_s = usage.prefill_s or heard.first_s
    decode_s = usage.decode_s or (heard.last_s - heard.first_s if heard.first_s is not None else None)
    return ProbeResult(
        probe,
        (read - (usage.cached_tokens or 0)) / prefill_s if prefill_s and read else None,
        written / decode_s if decode_s and written > 1 else None,
        None,
        heard.first_s,
        None,
        read,
        written,
        took_s,
    ), samples


def _sample(heard: ProbeAnswer, probe: Probe) -> SpeedSample | None:
    """What the core learns from it, as from any answer; only by the engine's own count."""
    usage = heard.usage
    if usage is None or usage.prompt_tokens is None:
        return None
    uncached = usage.prompt_tokens - (usage.cached_tokens or 0)
    return SpeedSample(
        uncached, usage.prefill_s, usage.completion_tokens or 0, usage.decode_s, None, float(probe.streams)
    )


def _read(heard: ProbeAnswer, probe: Probe) -> int:
    counted = heard.usage.prompt_tokens if heard.usage is not None else None
    return counted if counted is not None else probe.prompt_tokens


def _written(heard: ProbeAnswer) -> int:
    """An engine that counts nothing sends a token in each piece, or nearly so."""
    counted = heard.usage.completion_tokens if heard.usage is not None else None
    return counted if counted is not None else heard.pieces
