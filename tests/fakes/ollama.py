"""`FakeOllama`: a server that behaves on the wire as a real Ollama of version 0.32 does, and fails when a test says so.

    with FakeOllama(["m", FakeModel("seer", capabilities=("completion", "vision"))]) as fake:   # in a thread of its own
        ...                                                                                     # fake.url
    async with FakeOllama(["m"]) as fake:                                                       # in the running loop
        fake.fail(Cut(how=How.FIN, after_bytes=120, times=1))
        await fake.until(lambda: fake.aborted, "the client's leaving")

Answers depend on model, conversation and seed alone (words.py); loading and slots follow ollama_runners.py; nothing is
ever delayed unless a clock or a fault says so. `requests` is the diary of everything that was asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from fakes import ollama_anthropic, ollama_library, ollama_native, ollama_openai
from fakes.clock import Clock, NoDelay
from fakes.faults import Cut, EndsEarly, Fault, Garbage, Gate, Hang, RunnerDies, Status
from fakes.http_server import Broken, Connection, Incoming, Outgoing
from fakes.loop_thread import LoopThread
from fakes.ollama_inference import (
    HOT_LOAD_NS,
    ApiError,
    Asked,
    EndedEarly,
    Finish,
    LateError,
    Piece,
    RunnerLost,
    generate,
)
from fakes.ollama_models import FakeModel, rfc3339
from fakes.ollama_runners import Busy, Load, Runner, RunnerSettings, Scheduler
from fakes.watching import Watched

__all__ = ["FakeModel", "FakeOllama", "FakeSettings", "Seen"]

F = TypeVar("F", bound=Fault)
PLAIN = ("Content-Type", "text/plain")
PLAIN_UTF8 = ("Content-Type", "text/plain; charset=utf-8")
BUSY = "server busy, please try again.  maximum pending requests exceeded"
LOCAL_NAMES = ("localhost", ".localhost", ".local", ".internal")
LOCAL_ORIGINS = ("localhost", "127.0.0.1", "0.0.0.0")
CORS_METHODS = "GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS"
CORS_HEADERS = (
    "Authorization,Content-Type,User-Agent,Accept,X-Requested-With,Openai-Beta,X-Stainless-Arch,X-Stainless-Async,"
    "X-Stainless-Custom-Poll-Interval,X-Stainless-Helper-Method,X-Stainless-Lang,X-Stainless-Os,"
    "X-Stainless-Package-Version,X-Stainless-Poll-Helper,X-Stainless-Retry-Count,X-Stainless-Runtime,"
    "X-Stainless-Runtime-Version,X-Stainless-Timeout"
)


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
class Seen:
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
class Visit:
    """One request on its way through the fake."""

    fake: FakeOllama
    request: Incoming
    out: Outgoing
    seen: Seen
    number: int
    model: FakeModel | None = None
    load_ns: int = HOT_LOAD_NS
    streams: bool = False
    """Whether a stream was set up for the answer."""

    @property
    def spelled(self) -> str:
        """The model's name as the client wrote it."""
        return self.seen.model or ""

    def created_at(self) -> str:
        return rfc3339(self.fake.clock.now())

    def created_unix_s(self) -> int:
        return int(self.fake.clock.now())

    def fault(self, kind: type[F]) -> F | None:
        """The first fault of this kind that is meant for this request."""
        for fault in self.fake.faults:
            if isinstance(fault, kind) and fault.applies(self.seen.model, self.request.path):
                return fault
        return None

    async def gate(self, at: str, piece: int = 0) -> None:
        """Waits at every gate that stands here."""
        for fault in list(self.fake.faults):
            is_here = isinstance(fault, Gate) and fault.at == at and fault.piece == piece
            if is_here and fault.applies(self.seen.model, self.request.path):
                assert isinstance(fault, Gate)
                fault.used += 1
                fault.reached += 1
                self.fake.changed()
                await fault.released.wait()

    async def before_piece(self, number: int) -> None:
        """Where a generation may be held, lost or ended."""
        await self.gate("piece", number)
        dies, ends = self.fault(RunnerDies), self.fault(EndsEarly)
        if dies is not None and number >= dies.after_pieces:
            dies.used += 1
            raise RunnerLost(dies.text)
        if ends is not None and number >= ends.after_pieces:
            ends.used += 1
            raise EndedEarly

    @asynccontextmanager
    async def slot(self, asked: Asked) -> AsyncIterator[Runner]:
        """A slot of a runner that fits this request. Raises `ApiError` 503."""
        settings, scheduler = self.fake.settings, self.fake.scheduler
        wanted = RunnerSettings.wanted(asked.model, asked.options, asked.shift, settings.context_length)
        loads_before = len(scheduler.loads)
        try:
            async with scheduler.slot(asked.model, wanted, asked.keep_alive_s) as runner:
                if len(scheduler.loads) > loads_before:
                    self.load_ns = int(asked.model.load_s * 1e9)
                yield runner
        except Busy as busy:
            raise ApiError(503, BUSY) from busy

    @asynccontextmanager
    async def generation(self, asked: Asked) -> AsyncIterator[AsyncIterator[Piece | Finish]]:
        """The pieces of one answer, with its slot held until the end."""
        async with self.slot(asked) as runner:
            context, rate = runner.settings.num_ctx, self.fake.settings.tokens_per_s
            made = generate(asked, context, self.load_ns, self.fake.clock, rate, self.before_piece)
            async with aclosing(made) as pieces:
                yield pieces


Route = Callable[[Visit], Awaitable[None]]


async def root(visit: Visit) -> None:
    await visit.out.whole(200, [PLAIN_UTF8], b"Ollama is running")


ROUTES: tuple[tuple[str, str, Route], ...] = (
    ("HEAD, GET", "/", root),
    ("HEAD, GET", "/api/version", ollama_native.version),
    ("HEAD, GET", "/api/tags", ollama_native.tags),
    ("GET", "/api/ps", ollama_native.ps),
    ("POST", "/api/show", ollama_native.show),
    ("POST", "/api/chat", ollama_native.chat),
    ("POST", "/api/generate", ollama_native.generate),
    ("POST", "/api/embed", ollama_native.embed),
    ("POST", "/api/embeddings", ollama_native.embeddings),
    ("POST", "/api/copy", ollama_library.copy),
    ("DELETE", "/api/delete", ollama_library.delete),
    ("POST", "/api/create", ollama_library.create),
    ("POST", "/api/pull", ollama_library.pull),
    ("POST", "/api/push", ollama_library.push),
    ("HEAD, POST", "/api/blobs/*", ollama_library.blobs),
    ("POST", "/v1/chat/completions", ollama_openai.chat_completions),
    ("POST", "/v1/completions", ollama_openai.completions),
    ("POST", "/v1/embeddings", ollama_openai.embeddings),
    ("GET", "/v1/models", ollama_openai.models),
    ("GET", "/v1/models/*", ollama_openai.model),
    ("POST", "/v1/messages", ollama_anthropic.messages),
)


def route_of(path: str) -> tuple[str, Route] | None:
    """The allowed methods and the handler of a path."""
    for methods, pattern, handler in ROUTES:
        is_below = pattern.endswith("*") and path.startswith(pattern[:-1]) and len(path) >= len(pattern)
        if path == pattern or is_below:
            return methods, handler
    return None


def host_is_local(host: str) -> bool:
    """A server on loopback answers only to names that cannot be rebound from outside."""
    name = host.rsplit(":", 1)[0] if host.count(":") == 1 else host
    with contextlib.suppress(ValueError):
        address = ipaddress.ip_address(name.strip("[]"))
        return address.is_private or address.is_loopback
    return not name or name == "localhost" or name.endswith(LOCAL_NAMES[1:])


def origin_is_allowed(origin: str) -> bool:
    scheme, _, rest = origin.partition("://")
    if scheme in ("app", "file", "tauri", "vscode-webview", "vscode-file"):
        return True
    return scheme in ("http", "https") and rest.rsplit(":", 1)[0] in LOCAL_ORIGINS


class FakeOllama(Watched):
    """See the file's head. `wait(ready, what)` and `until(ready, what)` return as soon as `ready()` holds."""

    def __init__(
        self, models: Iterable[FakeModel | str] = ("m",), settings: FakeSettings | None = None, clock: Clock | None = None
    ) -> None:
        super().__init__()
        self.settings = settings or FakeSettings()
        self.clock: Clock = clock or NoDelay()
        self.models: dict[str, FakeModel] = {}
        self.blobs: dict[str, bytes] = {}
        self.requests: list[Seen] = []
        self.faults: list[Fault] = []
        self.port = 0
        self.scheduler: Scheduler
        self._connections: set[Connection] = set()
        self._server: asyncio.Server | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: LoopThread | None = None
        for model in models:
            self.add(model if isinstance(model, FakeModel) else FakeModel(model))

    # What a test reads.

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def aborted(self) -> list[Seen]:
        """Requests whose client left before the end."""
        return [seen for seen in self.requests if seen.outcome == "aborted"]

    @property
    def running(self) -> list[Seen]:
        return [seen for seen in self.requests if seen.outcome == "running"]

    @property
    def inference(self) -> list[Seen]:
        """What was asked by POST."""
        return [seen for seen in self.requests if seen.method == "POST"]

    @property
    def loads(self) -> list[Load]:
        return self.scheduler.loads

    @property
    def reloads(self) -> int:
        """How often a loaded model had to be loaded again for a request."""
        return sum(load.is_reload for load in self.scheduler.loads)

    @property
    def loaded(self) -> list[str]:
        return [runner.name for runner in self.scheduler.listed()]

    @property
    def connections(self) -> int:
        return len(self._connections)

    # What a test changes.

    def add(self, model: FakeModel) -> None:
        self.models[model.full_name] = model
        self.changed()

    async def remove(self, model: FakeModel) -> None:
        del self.models[model.full_name]
        if all(other.blob_digest != model.blob_digest for other in self.models.values()):
            await self.scheduler.unload_model(model)
        self.changed()

    def fail(self, fault: F) -> F:
        """Puts a fault in force; newer ones come after older ones."""
        self.faults.append(fault)
        return fault

    def heal(self) -> None:
        """Removes every fault and lets go whoever hangs in one."""
        healed, self.faults = self.faults, []
        for fault in healed:
            fault.release()

    async def refuse(self) -> None:
        """Stops listening and drops every connection; the port stays this fake's to come back to."""
        assert self._server is not None
        self._server.close()
        for connection in list(self._connections):
            connection.reset()
        self._server = None

    async def listen(self) -> None:
        """Listens (again) on its port."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: Connection(self._answer, self._connections), "127.0.0.1", self.port, reuse_address=True
        )
        self.port = self._server.sockets[0].getsockname()[1]

    # Life.

    async def __aenter__(self) -> FakeOllama:
        self._loop = asyncio.get_running_loop()
        limits = self.settings
        self.scheduler = Scheduler(
            self.clock, limits.num_parallel, limits.max_loaded, limits.max_queue, limits.keep_alive_s, self.changed
        )
        self.scheduler.while_loading = self._while_loading
        await self.listen()
        return self

    async def __aexit__(self, *error: object) -> None:
        self.heal()
        if self._server is not None:
            await self.refuse()

    def __enter__(self) -> FakeOllama:
        self._thread = LoopThread()
        self._thread.run(self.__aenter__())
        return self

    def __exit__(self, *error: object) -> None:
        assert self._thread is not None
        self._thread.run(self.__aexit__())
        self._thread.stop()

    def refuse_now(self) -> None:
        """`refuse` for a fake in a thread of its own."""
        assert self._thread is not None
        self._thread.run(self.refuse())

    def listen_now(self) -> None:
        assert self._thread is not None
        self._thread.run(self.listen())

    # Answering.

    async def _while_loading(self, model: FakeModel) -> None:
        for fault in list(self.faults):
            if isinstance(fault, Gate) and fault.at == "load" and fault.applies(model.name, fault.path or ""):
                fault.reached += 1
                self.changed()
                await fault.released.wait()

    async def _answer(self, request: Incoming, out: Outgoing) -> None:
        seen = Seen(request.method, request.path, request.headers, request.body, named_model(request.body))
        self.requests.append(seen)
        self.changed()
        visit = Visit(self, request, out, seen, len(self.requests))
        try:
            await self._admit(visit)
            seen.outcome = "done"
        except Broken:
            seen.outcome = "broken"
            raise
        except asyncio.CancelledError:
            seen.outcome = "aborted"
            raise
        finally:
            seen.status, seen.bytes_sent = out.status, out.bytes_sent
            self.changed()

    async def _admit(self, visit: Visit) -> None:
        """Faults first, then who may ask at all, then the route."""
        await visit.gate("request")
        hang, status, garbage = visit.fault(Hang), visit.fault(Status), visit.fault(Garbage)
        visit.out.cut = visit.fault(Cut)
        if hang is not None:
            hang.used += 1
            await hang.released.wait()
        if garbage is not None:
            garbage.used += 1
            await visit.out.raw(garbage.data)
        if status is not None:
            status.used += 1
            await visit.out.whole(status.status, list(status.headers), status.body)
            return
        headers = visit.request.headers
        if not host_is_local(headers.get("host", "")):
            await visit.out.whole(403, [], b"")
        elif "origin" in headers:
            await self._with_origin(visit, headers["origin"])
        else:
            await self._route(visit)

    async def _with_origin(self, visit: Visit, origin: str) -> None:
        """A browser's request: refused, answered to its preflight, or let through with the header it needs."""
        route = route_of(visit.request.path)
        is_preflight = visit.request.method == "OPTIONS"
        allow = [("Allow", route[0])] if is_preflight and route else []
        if not origin_is_allowed(origin):
            await visit.out.whole(403, allow, b"")
        elif is_preflight:
            vary = ("Origin", "Access-Control-Request-Method", "Access-Control-Request-Headers")
            granted = [
                ("Access-Control-Allow-Headers", CORS_HEADERS),
                ("Access-Control-Allow-Methods", CORS_METHODS),
                ("Access-Control-Allow-Origin", origin),
                ("Access-Control-Max-Age", "43200"),
            ]
            await visit.out.whole(204, [*granted, *allow, *(("Vary", name) for name in vary)], b"")
        else:
            visit.out.extra_first = [("Access-Control-Allow-Origin", origin)]
            visit.out.extra_last = [("Vary", "Origin")]
            await self._route(visit)

    async def _route(self, visit: Visit) -> None:
        route = route_of(visit.request.path)
        if route is None:
            await visit.out.whole(404, [PLAIN], b"404 page not found")
        elif visit.request.method not in route[0].split(", "):
            await visit.out.whole(405, [("Allow", route[0]), PLAIN], b"405 method not allowed")
        else:
            try:
                await route[1](visit)
            except ApiError as error:
                await self._send_error(visit, error)

    async def _send_error(self, visit: Visit, error: ApiError) -> None:
        path = visit.request.path
        if path == "/v1/messages":
            await ollama_anthropic.send_error(visit, error)
        elif path.startswith("/v1/"):
            await ollama_openai.send_error(visit, error)
        elif isinstance(error, LateError) and visit.streams:
            await ollama_native.send_late(visit, error.status, ollama_native.encode({"error": error.message}))
        else:
            await ollama_native.send_json(visit, {"error": error.message}, error.status)
