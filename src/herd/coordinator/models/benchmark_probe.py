"""Runs one benchmark probe: sends a request to a node's engine, times the answer, reads the engine's token counts.

The request goes to the engine directly, not through the core: it is not in a queue, and the caller cancels it
when a client's request arrives. A prompt begins with random words, so that no prefix cache has it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random

from herd.coordinator.upstream.engine_client import EngineClient, EngineRequestFailed
from herd.core.estimates.learned_speeds import SpeedSample
from herd.core.planning.benchmark_stats import Probe, ProbeKind, ProbeResult
from herd.core.state.fleet import ModelInfo
from herd.core.state.request import RequestKind
from herd.engines import Engine, EngineRequest
from herd.protocols.conversation import Conversation, Message, Sampling, Usage

INSTRUCTION = "Tell a long story about the sea, in as many words as you can. Do not stop."
WORD_BYTES = 4
"""A word of random letters is about two tokens; results use the engine's own count."""
LETTERS = "abcdefghijklmnopqrstuvwxyz"
TEMPERATURE = 0.7
PROBE_MAX_S = 300.0


class ProbeFailed(Exception):
    """The engine cannot run this probe, or its answer was incomplete."""


@dataclass(slots=True)
class ProbeAnswer:
    """One answer; times in seconds since the request was sent."""

    first_s: float | None = None
    last_s: float = 0.0
    chunks: int = 0
    usage: Usage | None = None
    is_complete: bool = False


class Prober:
    def __init__(
        self, engine_client: EngineClient, engines: Mapping[str, Engine], now: Callable[[], float], rng: Random
    ) -> None:
        self._engine_client, self._engines, self._now, self._rng = engine_client, engines, now, rng

    async def run(self, model_info: ModelInfo, probe: Probe) -> tuple[ProbeResult, list[SpeedSample]]:
        """The result of the probe, and the speed samples for the core. Raises `ProbeFailed`."""
        engine = self._engines.get(model_info.engine.kind)
        if engine is None:
            raise ProbeFailed(f"this version of herd does not support the engine {model_info.engine.kind}")
        began = self._now()
        try:
            async with asyncio.timeout(PROBE_MAX_S):
                if probe.kind is ProbeKind.LOAD:
                    return await self._load(engine, model_info, probe)
                requests = (self._answer(engine, model_info, probe) for _ in range(probe.streams))
                return _result(probe, await asyncio.gather(*requests), self._now() - began)
        except EngineRequestFailed as error:
            raise ProbeFailed(str(error)) from error
        except TimeoutError as error:
            raise ProbeFailed(f"no complete answer within {PROBE_MAX_S:.0f} s") from error

    async def _load(self, engine: Engine, model_info: ModelInfo, probe: Probe) -> tuple[ProbeResult, list[SpeedSample]]:
        call = engine.load(model_info.name)
        if call is None:
            raise ProbeFailed("the engine cannot load a model on request")
        began = self._now()
        reply = await self._engine_client.send(model_info.engine.url, call)
        if reply.status != 200:
            raise ProbeFailed(f"loading failed: the engine answered {reply.status}")
        took_s = self._now() - began
        return ProbeResult(probe=probe, load_s=took_s, took_s=took_s), [_load_sample(took_s)]

    async def _answer(self, engine: Engine, model_info: ModelInfo, probe: Probe) -> ProbeAnswer:
        conversation = self._conversation(model_info, probe)
        call, reader, answer, began = (
            engine.build_request(conversation),
            engine.reader(conversation),
            ProbeAnswer(),
            self._now(),
        )
        try:
            async for line in self._engine_client.lines(
                model_info.engine.url, EngineRequest(call.method, call.path, call.body)
            ):
                for delta in reader.feed(line + b"\n"):
                    if delta.error:
                        raise ProbeFailed(delta.error[:200])
                    answer.usage = delta.usage or answer.usage
                    answer.is_complete = answer.is_complete or delta.is_last
                    if delta.text or delta.thinking:
                        answer.chunks += 1
                        answer.last_s = self._now() - began
                        answer.first_s = answer.first_s if answer.first_s is not None else answer.last_s
        except ValueError as error:
            raise ProbeFailed("the engine's answer has an unexpected format") from error
        if not answer.is_complete and not any(delta.is_last for delta in reader.end()):
            raise ProbeFailed("the engine closed the connection before the end of the answer")
        return answer

    def _conversation(self, model_info: ModelInfo, probe: Probe) -> Conversation:
        """A request with the loaded context window if it was set explicitly: another window would reload the model."""
        loaded = model_info.loaded
        window = loaded.window_tokens if loaded is not None and loaded.context_explicit else None
        words = " ".join(
            "".join(self._rng.choice(LETTERS) for _ in range(WORD_BYTES))
            for _ in range(max(4, probe.prompt_tokens // 2))
        )
        sampling = Sampling(output_tokens_max=probe.output_tokens, temperature=TEMPERATURE, window_tokens=window)
        return Conversation(
            kind=RequestKind.CHAT,
            model=model_info.name,
            stream=True,
            messages=[Message("user", f"{words}\n{INSTRUCTION}")],
            sampling=sampling,
        )


def _result(probe: Probe, answers: list[ProbeAnswer], took_s: float) -> tuple[ProbeResult, list[SpeedSample]]:
    prompt_tokens = sum(_prompt_tokens(one, probe) for one in answers)
    completion_tokens = sum(_completion_tokens(one) for one in answers)
    samples = [sample for one in answers if (sample := _sample(one, probe)) is not None]
    if probe.streams > 1:
        firsts = [one.first_s for one in answers if one.first_s is not None]
        span_s = max(one.last_s for one in answers) - min(firsts) if firsts else 0.0
        return ProbeResult(
            probe=probe,
            tok_s=completion_tokens / span_s if span_s > 0 else None,
            prompt_tokens=prompt_tokens,
            output_tokens=completion_tokens,
            took_s=took_s,
        ), samples
    [answer] = answers
    usage = answer.usage or Usage()
    prefill_s = usage.prefill_s or answer.first_s
    decode_s = usage.decode_s or (answer.last_s - answer.first_s if answer.first_s is not None else None)
    return ProbeResult(
        probe=probe,
        prefill_tok_s=(prompt_tokens - (usage.cached_tokens or 0)) / prefill_s if prefill_s and prompt_tokens else None,
        decode_tok_s=completion_tokens / decode_s if decode_s and completion_tokens > 1 else None,
        first_s=answer.first_s,
        prompt_tokens=prompt_tokens,
        output_tokens=completion_tokens,
        took_s=took_s,
    ), samples


def _load_sample(took_s: float) -> SpeedSample:
    return SpeedSample(
        uncached_tokens=None, prefill_s=None, decoded_tokens=0, decode_s=None, load_s=took_s, streams=0.0
    )


def _sample(answer: ProbeAnswer, probe: Probe) -> SpeedSample | None:
    """The speed sample for the core; None if the engine counted no tokens."""
    usage = answer.usage
    if usage is None or usage.prompt_tokens is None:
        return None
    uncached = usage.prompt_tokens - (usage.cached_tokens or 0)
    return SpeedSample(
        uncached_tokens=uncached,
        prefill_s=usage.prefill_s,
        decoded_tokens=usage.completion_tokens or 0,
        decode_s=usage.decode_s,
        load_s=None,
        streams=float(probe.streams),
    )


def _prompt_tokens(answer: ProbeAnswer, probe: Probe) -> int:
    counted = answer.usage.prompt_tokens if answer.usage is not None else None
    return counted if counted is not None else probe.prompt_tokens


def _completion_tokens(answer: ProbeAnswer) -> int:
    """The engine's count; without one, the number of chunks, since most chunks have one token."""
    counted = answer.usage.completion_tokens if answer.usage is not None else None
    return counted if counted is not None else answer.chunks
