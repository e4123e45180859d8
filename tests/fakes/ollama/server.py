"""Provides `FakeOllama`, a server that behaves like a real Ollama 0.32 and fails on a test's command.

    with FakeOllama(["m", FakeModel("seer", capabilities=("completion", "vision"))]) as fake:   # in its own thread
        ...                                                                                     # fake.url
    async with FakeOllama(["m"]) as fake:                                                       # in the running loop
        fake.fail(Cut(how=How.FIN, after_bytes=120, times=1))
        await fake.until(lambda: fake.aborted, "the client's disconnect")

Answers depend only on model, conversation and seed (generated_text.py); loads and slots follow runners.py. There are no
delays except by a clock or a fault. `requests` is the log of all requests.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

from fakes.clock import Clock, NoDelay
from fakes.faults import Cut, Fault, Garbage, Gate, Hang, Status
from fakes.http_server import Broken, Connection, Incoming, Outgoing
from fakes.loop_thread import LoopThread
from fakes.ollama import anthropic, library, native, openai, responses
from fakes.ollama.access import host_is_local, origin_is_allowed, preflight_headers
from fakes.ollama.inference import ApiError, LateError
from fakes.ollama.models import FakeModel
from fakes.ollama.request_context import FakeSettings, LoggedRequest, RequestContext, named_model
from fakes.ollama.runners import Load, Scheduler
from fakes.waiting import Waitable

__all__ = ["FakeModel", "FakeOllama", "FakeSettings", "LoggedRequest"]

F = TypeVar("F", bound=Fault)
PLAIN = ("Content-Type", "text/plain")
PLAIN_UTF8 = ("Content-Type", "text/plain; charset=utf-8")

Route = Callable[[RequestContext], Awaitable[None]]


async def root(ctx: RequestContext) -> None:
    await ctx.out.whole(200, [PLAIN_UTF8], b"Ollama is running")


ROUTES: tuple[tuple[str, str, Route], ...] = (
    ("HEAD, GET", "/", root),
    ("HEAD, GET", "/api/version", native.version),
    ("HEAD, GET", "/api/tags", native.tags),
    ("GET", "/api/ps", native.ps),
    ("POST", "/api/show", native.show),
    ("POST", "/api/chat", native.chat),
    ("POST", "/api/generate", native.generate),
    ("POST", "/api/embed", native.embed),
    ("POST", "/api/embeddings", native.embeddings),
    ("POST", "/api/copy", library.copy),
    ("DELETE", "/api/delete", library.delete),
    ("POST", "/api/create", library.create),
    ("POST", "/api/pull", library.pull),
    ("POST", "/api/push", library.push),
    ("HEAD, POST", "/api/blobs/*", library.blobs),
    ("POST", "/v1/chat/completions", openai.chat_completions),
    ("POST", "/v1/completions", openai.completions),
    ("POST", "/v1/embeddings", openai.embeddings),
    ("GET", "/v1/models", openai.models),
    ("GET", "/v1/models/*", openai.model),
    ("POST", "/v1/messages", anthropic.messages),
    ("POST", "/v1/responses", responses.responses),
)


def route_of(path: str) -> tuple[str, Route] | None:
    """The allowed methods and the handler of a path."""
    for methods, pattern, handler in ROUTES:
        is_below = pattern.endswith("*") and path.startswith(pattern[:-1]) and len(path) >= len(pattern)
        if path == pattern or is_below:
            return methods, handler
    return None


class FakeOllama(Waitable):
    """See the docstring of this module. `wait(ready, what)` and `until(ready, what)` return when `ready()` is true."""

    def __init__(
        self,
        models: Iterable[FakeModel | str] = ("m",),
        settings: FakeSettings | None = None,
        clock: Clock | None = None,
    ) -> None:
        super().__init__()
        self.settings = settings or FakeSettings()
        self.clock: Clock = clock or NoDelay()
        self.models: dict[str, FakeModel] = {}
        self.blobs: dict[str, bytes] = {}
        self.requests: list[LoggedRequest] = []
        self.faults: list[Fault] = []
        self.port = 0
        self.scheduler: Scheduler
        self._connections: set[Connection] = set()
        self._server: asyncio.Server | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: LoopThread | None = None
        for model in models:
            self.add(model if isinstance(model, FakeModel) else FakeModel(name=model))

    # Read by tests.

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def aborted(self) -> list[LoggedRequest]:
        """Requests whose client disconnected before the end."""
        return [logged for logged in self.requests if logged.outcome == "aborted"]

    @property
    def running(self) -> list[LoggedRequest]:
        return [logged for logged in self.requests if logged.outcome == "running"]

    @property
    def inference(self) -> list[LoggedRequest]:
        """The POST requests."""
        return [logged for logged in self.requests if logged.method == "POST"]

    @property
    def loads(self) -> list[Load]:
        return self.scheduler.loads

    @property
    def reloads(self) -> int:
        """The number of reloads."""
        return sum(load.is_reload for load in self.scheduler.loads)

    @property
    def loaded(self) -> list[str]:
        return [runner.name for runner in self.scheduler.listed()]

    @property
    def connections(self) -> int:
        return len(self._connections)

    # Changed by tests.

    def add(self, model: FakeModel) -> None:
        self.models[model.full_name] = model
        self.changed()

    async def remove(self, model: FakeModel) -> None:
        del self.models[model.full_name]
        if all(other.blob_digest != model.blob_digest for other in self.models.values()):
            await self.scheduler.unload_model(model)
        self.changed()

    def fail(self, fault: F) -> F:
        """Adds a fault; older faults are applied first."""
        self.faults.append(fault)
        return fault

    def heal(self) -> None:
        """Removes every fault and releases the requests that wait in one."""
        healed, self.faults = self.faults, []
        for fault in healed:
            fault.release()

    async def refuse(self) -> None:
        """Stops listening and drops every connection; `listen` uses the same port again."""
        assert self._server is not None
        self._server.close()
        for connection in list(self._connections):
            connection.reset()
        self._server = None

    async def listen(self) -> None:
        """Starts or resumes listening on its port."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: Connection(self._answer, self._connections), "127.0.0.1", self.port, reuse_address=True
        )
        self.port = self._server.sockets[0].getsockname()[1]

    # Start and stop.

    async def __aenter__(self) -> FakeOllama:
        self._loop = asyncio.get_running_loop()
        limits = self.settings
        self.scheduler = Scheduler(
            clock=self.clock,
            num_parallel=limits.num_parallel,
            max_loaded=limits.max_loaded,
            max_queue=limits.max_queue,
            keep_alive_s=limits.keep_alive_s,
            changed=self.changed,
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
        """`refuse` for a fake in its own thread."""
        assert self._thread is not None
        self._thread.run(self.refuse())

    def listen_now(self) -> None:
        assert self._thread is not None
        self._thread.run(self.listen())

    # Answers.

    async def _while_loading(self, model: FakeModel) -> None:
        for fault in list(self.faults):
            if isinstance(fault, Gate) and fault.at == "load" and fault.applies(model.name, fault.path or ""):
                fault.reached += 1
                self.changed()
                await fault.released.wait()

    async def _answer(self, request: Incoming, out: Outgoing) -> None:
        logged = LoggedRequest(
            method=request.method,
            path=request.path,
            headers=request.headers,
            body=request.body,
            model=named_model(request.body),
        )
        self.requests.append(logged)
        self.changed()
        ctx = RequestContext(fake=self, request=request, out=out, logged=logged, number=len(self.requests))
        try:
            await self._admit(ctx)
            logged.outcome = "done"
        except Broken:
            logged.outcome = "broken"
            raise
        except asyncio.CancelledError:
            logged.outcome = "aborted"
            raise
        finally:
            logged.status, logged.bytes_sent = out.status, out.bytes_sent
            self.changed()

    async def _admit(self, ctx: RequestContext) -> None:
        """Applies faults, then checks Host and Origin, then calls the route."""
        await ctx.gate("request")
        hang, status, garbage = ctx.fault(Hang), ctx.fault(Status), ctx.fault(Garbage)
        ctx.out.cut = ctx.fault(Cut)
        if hang is not None:
            hang.used += 1
            await hang.released.wait()
        if garbage is not None:
            garbage.used += 1
            await ctx.out.raw(garbage.data)
        if status is not None:
            status.used += 1
            await ctx.out.whole(status.status, list(status.headers), status.body)
            return
        headers = ctx.request.headers
        if not host_is_local(headers.get("host", "")):
            await ctx.out.whole(403, [], b"")
        elif "origin" in headers:
            await self._with_origin(ctx, headers["origin"])
        else:
            await self._route(ctx)

    async def _with_origin(self, ctx: RequestContext, origin: str) -> None:
        """Rejects a browser's request, answers its preflight, or routes it with the header that the browser needs."""
        route = route_of(ctx.request.path)
        is_preflight = ctx.request.method == "OPTIONS"
        allow = [("Allow", route[0])] if is_preflight and route else []
        if not origin_is_allowed(origin):
            await ctx.out.whole(403, allow, b"")
        elif is_preflight:
            await ctx.out.whole(204, preflight_headers(origin, allow), b"")
        else:
            ctx.out.extra_first = [("Access-Control-Allow-Origin", origin)]
            ctx.out.extra_last = [("Vary", "Origin")]
            await self._route(ctx)

    async def _route(self, ctx: RequestContext) -> None:
        route = route_of(ctx.request.path)
        if route is None:
            await ctx.out.whole(404, [PLAIN], b"404 page not found")
        elif ctx.request.method not in route[0].split(", "):
            await ctx.out.whole(405, [("Allow", route[0]), PLAIN], b"405 method not allowed")
        else:
            try:
                await route[1](ctx)
            except ApiError as error:
                await self._send_error(ctx, error)

    async def _send_error(self, ctx: RequestContext, error: ApiError) -> None:
        path = ctx.request.path
        if path == "/v1/messages":
            await anthropic.send_error(ctx, error)
        elif path.startswith("/v1/"):
            await openai.send_error(ctx, error)
        elif isinstance(error, LateError) and ctx.streams:
            await native.send_late(ctx, error.status, native.encode({"error": error.message}))
        else:
            await native.send_json(ctx, {"error": error.message}, error.status)
