"""The seams between components at which an exception may be thrown, as if the called code had a bug."""

from __future__ import annotations

from asyncio import events
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from herd.coordinator.proxy import continuation, pass_through, relay, translation
from herd.coordinator.proxy.relaying import client_answer, preparing
from herd.coordinator.proxy.wait_comments import WaitComments
from herd.coordinator.storage import writer
from herd.coordinator.storage.journal.files import Journal
from herd.coordinator.storage.rollups import advance
from herd.core.estimates.forecast import Forecast
from herd.core.lifecycle.placement import Placement
from herd.core.scheduling.scheduler import Scheduler
from herd.http1.exchange import HttpExchange

SEAMS: dict[str, tuple[Any, str]] = {
    "PassThrough.feed": (pass_through.PassThrough, "feed"),
    "PassThrough.end": (pass_through.PassThrough, "end"),
    "PassThrough.end_after_loss": (pass_through.PassThrough, "end_after_loss"),
    "Translation.feed": (translation.Translation, "feed"),
    "Translation.end": (translation.Translation, "end"),
    "Translation.end_after_loss": (translation.Translation, "end_after_loss"),
    "Continuation.record": (continuation.Continuation, "record"),
    "Continuation.kinds": (continuation.Continuation, "kinds"),
    "Continuation.steps": (continuation.Continuation, "steps"),
    "Continuation.ending": (continuation.Continuation, "ending"),
    "Continuation.counters": (continuation.Continuation, "counters"),
    "ClientAnswer.open": (client_answer.ClientAnswer, "open"),
    "ClientAnswer.forward": (client_answer.ClientAnswer, "forward"),
    "ClientAnswer.finish": (client_answer.ClientAnswer, "finish"),
    "ClientAnswer.respond": (client_answer.ClientAnswer, "respond"),
    "ClientAnswer.refuse": (client_answer.ClientAnswer, "refuse"),
    "ClientAnswer.release": (client_answer.ClientAnswer, "release"),
    "Preparation.whole": (preparing.Preparation, "whole"),
    "Preparation.rest": (preparing.Preparation, "rest"),
    "Relay.on_head": (relay.Relay, "on_head"),
    "Relay.on_body": (relay.Relay, "on_body"),
    "Relay.on_end": (relay.Relay, "on_end"),
    "Relay.on_error": (relay.Relay, "on_error"),
    "Relay.hold": (relay.Relay, "hold"),
    "Relay.dispatch": (relay.Relay, "dispatch"),
    "HttpExchange.begin": (HttpExchange, "begin"),
    "HttpExchange.write": (HttpExchange, "write"),
    "HttpExchange.end": (HttpExchange, "end"),
    "HttpExchange.respond": (HttpExchange, "respond"),
    "HttpExchange.cut": (HttpExchange, "cut"),
    "WaitComments.hold": (WaitComments, "hold"),
    "Scheduler.decide": (Scheduler, "decide"),
    "Forecast.record_completion": (Forecast, "record_completion"),
    "Forecast.record_first_byte": (Forecast, "record_first_byte"),
    "Placement._start": (Placement, "_start"),
    "Placement.place": (Placement, "place"),
    "Forecast.record_end": (Forecast, "record_end"),
    "TraceStore.record": (writer.TraceStore, "record"),
    "Journal._encoded": (Journal, "_encoded"),
    "trace_row": (writer, "trace_row"),
    "rollups.advance": (advance, "advance"),
}
"""Each seam by its name: its owner and the function there."""


class Thrown(Exception):
    """The exception of a seam."""


@dataclass
class SeamPlan:
    """Throws once when a seam is called for the `skip`th time after it was armed."""

    name: str
    skip: int
    is_armed: bool = False
    has_thrown: bool = False

    def called(self) -> None:
        if not self.is_armed or self.has_thrown or events._get_running_loop() is None:
            return  # also if the checks of a run call it
        if self.skip > 0:
            self.skip -= 1
            return
        self.has_thrown = True
        raise Thrown(self.name)


@contextmanager
def prepared(plans: list[SeamPlan]) -> Iterator[None]:
    """The seams of these plans can throw until the end of the block."""
    with ExitStack() as stack:
        for plan in plans:
            owner, name = SEAMS[plan.name]
            original = getattr(owner, name)
            setattr(owner, name, _throwing(original, plan))
            stack.callback(setattr, owner, name, original)
        yield


def _throwing(original: Callable[..., Any], plan: SeamPlan) -> Callable[..., Any]:
    def throws_or_calls(*args: Any, **kwargs: Any) -> Any:
        plan.called()
        return original(*args, **kwargs)

    return throws_or_calls
