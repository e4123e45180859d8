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
"""Two spaces, as the real one says it."""


@dataclass(frozen=True)
class FakeSettings:
    """How this server is set up; the names are those of the real one's environment where it has one."""

    version: str = "0.32.15"
    num_parallel: int = 1
    max_loaded: int = 3
    max_queue: int = 512
    keep_alive_s: float = 300.0
    context_length: int = 4096
    on_gpu: bool = False
    tokens_per_s: float = 0.0
    """How fast the clock lets it speak; 0: as fast as it can."""
    registry: Mapping[str, FakeModel] | None = None
    """What can be pulled, by full name; None: the registry cannot be reached."""


@dataclass
class LoggedRequest:
    """One entry of the diary."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    model: str | None
    outcome: str = "running"
    """running, done, aborted (the client left), broken (a fault ended it)."""
    status: int = 0
    bytes_sent: int = 0

    @property
    def json(self) -> dict[str, Any]:
        value = json.loads(self.body)
        assert isinstance(value, dict)
        return value


def named_model(body: bytes) -> str | None:
    """The model a request names, whatever else is wrong with it."""
    with contextlib.suppress(ValueError, RecursionError):
        value = json.loads(body)
        name = value.get("model") if isinstance(value, dict) else None
        return name if isinstance(name, str) else None
    return None


@dataclass
class RequestContext:
    """One request on its way through the fake."""

    fake: FakeOllama
    request: Incoming
    out: Outgoing
    logged: LoggedRequest
    number: int
    model: FakeModel | None = None
    load_ns: int = HOT_LOAD_NS
    streams: bool = False
    """Whether a stream was set up for the answer."""

    @property
    def spelled(self) -> str:
        """The model's name as the client wrote it."""
        return self.logged.model or ""

    def created_at(self) -> str:
        return rfc3339(self.fake.clock.now())

    def created_unix_s(self) -> int:
        return int(self.fake.clock.now())

    def fault(self, kind: type[F]) -> F | None:
        """The first fault of this kind that is meant for this request."""
        for fault in self.fake.faults:
            if isinstance(fault, kind) and fault.applies(self.logged.model, self.request.path):
                return fault
        return None

    async def gate(self, at: str, chunk: int = 0) -> None:
        """Waits at every gate that stands here."""
        for fault in list(self.fake.faults):
            is_here = isinstance(fault, Gate) and fault.at == at and fault.chunk == chunk
            if is_here and fault.applies(self.logged.model, self.request.path):
                assert isinstance(fault, Gate)
                fault.used += 1
                fault.reached += 1
                self.fake.changed()
                await fault.released.wait()

    async def before_chunk(self, number: int) -> None:
        """Where a generation may be held, lost or ended."""
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
        """A slot of a runner that fits this request. Raises `ApiError` 503."""
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
        """The chunks of one answer, with its slot held until the end."""
        async with self.slot(inference) as runner:
            context, rate = runner.settings.num_ctx, self.fake.settings.tokens_per_s
            made = generate(inference, context, self.load_ns, self.fake.clock, rate, self.before_chunk)
            async with aclosing(made) as chunks:
                yield chunks
