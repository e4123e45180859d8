"""Represents one request to the fake Ollama, with its log entry and the faults that apply to it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from fakes.faults import EndsEarly, Fault, Gate, RunnerDies
from fakes.http_server import Incoming, Outgoing
from fakes.ollama.inference import (
    HOT_LOAD_NS,
    ApiError,
    Chunk,
    EndedEarly,
    Finish,
    InferenceRequest,
    RunnerLost,
    generate,
)
from fakes.ollama.models import FakeModel, rfc3339
from fakes.ollama.runners import Busy, Runner, RunnerSettings

if TYPE_CHECKING:
    from fakes.ollama.server import FakeOllama

F = TypeVar("F", bound=Fault)
BUSY = "server busy, please try again.  maximum pending requests exceeded"
"""With two spaces, as in the real message."""


@dataclass(frozen=True, kw_only=True)
class FakeSettings:
    """The settings of the server. Names follow Ollama's environment variables where they exist."""

    version: str = "0.32.15"
    num_parallel: int = 1
    max_loaded: int = 3
    max_queue: int = 512
    keep_alive_s: float = 300.0
    context_length: int = 4096
    on_gpu: bool = False
    tokens_per_s: float = 0.0
    """The generation speed on the fake's clock; 0 means unlimited."""
    registry: Mapping[str, FakeModel] | None = None
    """The models that can be pulled, by full name; None means that the registry is unreachable."""


@dataclass(kw_only=True)
class LoggedRequest:
    """One entry of the request log."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    model: str | None
    outcome: str = "running"
    """running, done, aborted (the client disconnected) or broken (a fault ended it)."""
    status: int = 0
    bytes_sent: int = 0

    @property
    def json(self) -> dict[str, Any]:
        value = json.loads(self.body)
        assert isinstance(value, dict)
        return value


def named_model(body: bytes) -> str | None:
    """The model that a request names, even if the request is otherwise invalid."""
    with contextlib.suppress(ValueError, RecursionError):
        value = json.loads(body)
        name = value.get("model") if isinstance(value, dict) else None
        return name if isinstance(name, str) else None
    return None


@dataclass(kw_only=True)
class RequestContext:
    """One request while the fake processes it."""

    fake: FakeOllama
    request: Incoming
    out: Outgoing
    logged: LoggedRequest
    number: int
    model: FakeModel | None = None
    load_ns: int = HOT_LOAD_NS
    streams: bool = False
    """Whether the answer was set up as a stream."""

    @property
    def spelled(self) -> str:
        """The model's name in the client's spelling."""
        return self.logged.model or ""

    def created_at(self) -> str:
        return rfc3339(self.fake.clock.now())

    def created_unix_s(self) -> int:
        return int(self.fake.clock.now())

    def fault(self, kind: type[F]) -> F | None:
        """The first fault of this type that applies to this request."""
        for fault in self.fake.faults:
            if isinstance(fault, kind) and fault.applies(self.logged.model, self.request.path):
                return fault
        return None

    async def gate(self, at: str, chunk: int = 0) -> None:
        """Waits at every matching gate."""
        for fault in list(self.fake.faults):
            is_here = isinstance(fault, Gate) and fault.at == at and fault.chunk == chunk
            if is_here and fault.applies(self.logged.model, self.request.path):
                assert isinstance(fault, Gate)
                fault.used += 1
                fault.reached += 1
                self.fake.changed()
                await fault.released.wait()

    async def before_chunk(self, number: int) -> None:
        """Applies the faults that hold, break or end a generation."""
        await self.gate("chunk", number)
        dies, ends = self.fault(RunnerDies), self.fault(EndsEarly)
        if dies is not None and number >= dies.after_chunks:
            dies.used += 1
            raise RunnerLost(dies.text)
        if ends is not None and number >= ends.after_chunks:
            ends.used += 1
            raise EndedEarly

    @asynccontextmanager
    async def slot(self, inference: InferenceRequest) -> AsyncIterator[Runner]:
        """A slot of a suitable runner. Raises `ApiError` 503."""
        settings, scheduler = self.fake.settings, self.fake.scheduler
        wanted = RunnerSettings.wanted(inference.model, inference.options, inference.shift, settings.context_length)
        loads_before = len(scheduler.loads)
        try:
            async with scheduler.slot(inference.model, wanted, inference.keep_alive_s) as runner:
                if len(scheduler.loads) > loads_before:
                    self.load_ns = int(inference.model.load_s * 1e9)
                yield runner
        except Busy as busy:
            raise ApiError(503, BUSY) from busy

    @asynccontextmanager
    async def generation(self, inference: InferenceRequest) -> AsyncIterator[AsyncIterator[Chunk | Finish]]:
        """The chunks of one answer; its slot is occupied until the end."""
        async with self.slot(inference) as runner:
            context, rate = runner.settings.num_ctx, self.fake.settings.tokens_per_s
            made = generate(inference, context, self.load_ns, self.fake.clock, rate, self.before_chunk)
            async with aclosing(made) as chunks:
                yield chunks
