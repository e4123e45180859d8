"""The invariants of a run: what must hold after every step, for every row, and at the end."""

from __future__ import annotations

import logging
import sqlite3
from collections import Counter
from pathlib import Path

from herd.core.lifecycle.invariants import held_needlessly
from herd.core.lifecycle.poison_requests import is_crash
from herd.core.lifecycle.retries import is_strike
from herd.core.state.commands import Record
from herd.core.state.fleet import Liveness, NodeId
from herd.core.state.request import FailureKind, Outcome, RequestId
from sim.boundary.client import SimClient
from sim.boundary.coordinator import SimCoordinator
from sim.boundary.seams import SeamPlan, Thrown

RETRY_HELD_MAX_S = 2.5
"""Longest time until the core tries a held request again."""
REPAIRED_AFTER_S = 6.5
"""After an exception the coordinator's own audit, which runs every five seconds, may be needed."""
POISON_CRASHES_MIN = 3
"""This many engines that died at one place of a request are evidence against the request."""
COUNT_EVERY_S = 0.2
"""How often the queues are counted again, which costs more than the other checks."""
LOST = "coordinator_lost"
CONTINUING = {"/v1/completions": {"llamacpp", "vllm", "openai", "ollama"}}
"""Kinds of engines that continue an answer of a path; for the other paths those of `CONTINUING_ELSEWHERE`."""
CONTINUING_ELSEWHERE = {"llamacpp", "ollama"}


class InvariantViolated(BaseException):
    """An invariant does not hold; the message says which."""


class History:
    """What happened in one process of the coordinator: requests, rows, and exceptions that were contained."""

    def __init__(self, process: SimCoordinator, plans: list[SeamPlan], clients: dict[str, SimClient]) -> None:
        """`clients` are by the id of their request."""
        self.process = process
        self.admitted_at: dict[str, float] = {}
        self.rows: list[Record] = []
        self.final: dict[str, Record] = {}
        self.touched: set[str] = set()
        """Requests that an exception on purpose has hit."""
        self.was_killed = self.was_drained = self.may_lack_rows = False
        self.killed_at = 0.0
        self.woken_at = 0.0
        self._plans, self._clients = plans, clients
        self._startable_since: dict[str, float] = {}
        self._wrong_since: float | None = None
        self._looked_at = 0.0
        self._counted_at = 0.0
        self._problems: list[str] = []
        self._violated: InvariantViolated | None = None
        self._strikes: Counter[str] = Counter()
        self._crashes: Counter[str] = Counter()

    @property
    def has_thrown(self) -> bool:
        return any(plan.has_thrown for plan in self._plans)

    # --- after every step ---

    def check(self, now: float) -> None:
        loop = self.process.loop
        if self._violated is not None:
            raise self._violated
        if loop.escaped:
            raise InvariantViolated(f"an exception reached the loop: {loop.escaped[0]}")
        wrong = self._without_owner()
        if not wrong:
            self._wrong_since = None
        elif self._wrong_since is None:
            self._wrong_since = now
        if wrong and (not self.has_thrown or now - (self._wrong_since or now) > REPAIRED_AFTER_S):
            raise InvariantViolated(wrong)
        if now - self._looked_at >= 0.5:
            self._looked_at = now
            self._check_held(now)

    def _without_owner(self) -> str:
        driver = self.process.driver
        if self.process.loop.time() - self._counted_at >= COUNT_EVERY_S:
            self._counted_at = self.process.loop.time()
            self._problems = driver.dispatcher.problems()
        if self._problems:
            return "; ".join(self._problems)
        if driver.runs.keys() != driver.live_requests.keys():
            return f"{set(driver.runs) ^ set(driver.live_requests)} have no owner, or ended without their client"
        for request_id, live_request in driver.live_requests.items():
            if live_request.is_running and not driver.runs[request_id].is_calling:
                return f"{request_id} is {live_request.state.value} without an open call"
        return ""

    def _check_held(self, now: float) -> None:
        core = self.process.driver.dispatcher
        if not len(core.waiting):
            self._startable_since.clear()
            return
        needless = {
            request_id: node
            for request_id, node in held_needlessly(
                core.live_requests, core.waiting, core.scheduler, core.placement.free_slots, now
            )
            if not self._is_slowly_starting(request_id, NodeId(node), now)
        }
        for request_id in list(self._startable_since):
            if RequestId(request_id) not in needless:
                del self._startable_since[request_id]
        for request_id, node in needless.items():
            since = max(self._startable_since.setdefault(request_id, now), self.woken_at)
            if now - since > RETRY_HELD_MAX_S:
                raise InvariantViolated(f"{request_id} is held although {node} can take it since {since:.2f}")

    def _is_slowly_starting(self, request_id: RequestId, node_id: NodeId, now: float) -> bool:
        """Whether a node that has just returned does not give its slots to retries beyond the budget yet."""
        core = self.process.driver.dispatcher
        live_request, node = core.live_requests[request_id], core.fleet.nodes[node_id]
        queue = core.waiting.queues.of_node(node_id).get(live_request.request.model)
        running = len(queue.in_flight) if queue is not None else 0
        return live_request.needs_budget and running >= core.placement.free_slots.slots(
            node, live_request.request.model, now
        )

    # --- for every row ---

    def record(self, row: Record) -> None:
        request_id = str(row.request.id)
        self.rows.append(row)
        failure = row.attempt.failure if row.attempt is not None else None
        self._strikes[request_id] += failure is not None and is_strike(failure)
        self._crashes[request_id] += failure is not None and is_crash(failure)
        if row.outcome is Outcome.RETRIED:
            return
        if request_id in self.final:
            self._violate(f"{request_id} ended twice")
        self.final[request_id] = row
        if row.outcome in (Outcome.FAILED, Outcome.REJECTED, Outcome.FAILED_MIDSTREAM):
            self._check_failure_is_justified(row, self._clients[request_id])

    def _violate(self, fact: str) -> None:
        """Raises at once, and again in the next check: a task may swallow the first one."""
        self._violated = InvariantViolated(fact)
        raise self._violated

    def _check_failure_is_justified(self, row: Record, client: SimClient) -> None:
        """A client gets an error only if no other node could have answered, as far as the coordinator knew."""
        process, request_id, wanted = self.process, str(row.request.id), client.wanted
        core = process.driver.dispatcher
        failure = row.attempt.failure if row.attempt is not None else None
        tried = {*row.excluded, *((row.attempt.node_id,) if row.attempt is not None else ())}
        kinds: set[str] | None = None
        if row.outcome is Outcome.FAILED_MIDSTREAM:
            kinds = CONTINUING.get(wanted.path, CONTINUING_ELSEWHERE)
        reasons = (
            process.is_stopped,
            core.is_draining and row.outcome is not Outcome.FAILED_MIDSTREAM,
            request_id in self.touched or (failure is not None and failure.kind is FailureKind.INTERNAL),
            row.held_s >= process.settings.holding.wait_max_s - 1e-6,
            row.attempt is not None and failure is None,
            self._strikes[request_id] > process.settings.retries.retries_max,
            self._crashes[request_id] >= POISON_CRASHES_MIN,
            bool(wanted.special),
            self._capable_nodes(row, kinds) <= tried,
        )
        if not any(reasons):
            error = failure.description if failure is not None else row.error
            self._violate(
                f"{request_id} ({wanted.path}) got the error '{error}' at {row.at:.2f} ({row.outcome.value})"
                " although another node could have answered"
            )

    def _capable_nodes(self, row: Record, kinds: set[str] | None) -> set[NodeId]:
        model = row.request.model
        return {
            node.id
            for node in self.process.driver.fleet.with_model(model)
            if node.liveness is not Liveness.OFFLINE
            and (kinds is None or node.report.models[model].engine.kind in kinds)
        }

    # --- when the process has ended ---

    def check_end(self) -> None:
        driver = self.process.driver
        if driver.live_requests or driver.runs or len(driver.dispatcher.waiting):
            raise InvariantViolated(f"requests are left at the end: {list(driver.live_requests)}")
        open_calls = [each for each in self.process.pool.connections if each._request is not None]
        if open_calls:
            raise InvariantViolated(f"{len(open_calls)} calls to nodes are left open at the end")
        self.check_clients()

    def check_clients(self) -> None:
        """Each answer is right, and its row has its outcome."""
        for request_id in self.admitted_at:
            client, row = self._clients[request_id], self.final.get(request_id)
            if row is None and not self.was_killed:
                raise InvariantViolated(f"{request_id} never ended")
            is_complete = client.read().is_complete
            if row is None or client.left or self.was_killed:
                continue
            if (row.outcome is Outcome.COMPLETED) != is_complete and request_id not in self.touched:
                fact = "complete" if is_complete else "incomplete"
                raise InvariantViolated(f"{request_id} is recorded as {row.outcome.value}, but its answer is {fact}")

    # --- the rows of all processes ---

    def check_rows(self, found: Counter[tuple[str, str, int | None]]) -> None:
        """Each admitted request has exactly one final row, and each retry one row."""
        may_lack = self.has_thrown or self.may_lack_rows
        for request_id, at in self.admitted_at.items():
            finals = [status for (each, status, _), count in found.items() if each == request_id for _ in range(count)]
            finals = [status for status in finals if status != Outcome.RETRIED.value]
            row = self.final.get(request_id)
            is_new = self.was_killed and at >= self.killed_at
            if len(finals) > 1 or (not finals and not may_lack and not is_new):
                raise InvariantViolated(f"{request_id} has the final rows {finals} in the database")
            wanted = {row.outcome.value} if row is not None else {LOST}
            if row is not None and (may_lack or (self.was_killed and row.at >= self.killed_at)):
                wanted.add(LOST)
            if finals and finals[0] not in wanted:
                raise InvariantViolated(f"{request_id} is {finals[0]} in the database, and ended as {wanted}")
        self._check_retries(found, may_lack)

    def _check_retries(self, found: Counter[tuple[str, str, int | None]], may_lack: bool) -> None:
        retried = Counter(
            (str(row.request.id), row.outcome.value, row.attempt.number if row.attempt is not None else None)
            for row in self.rows
            if row.outcome is Outcome.RETRIED and not (self.was_killed and row.at >= self.killed_at)
        )
        for key, count in retried.items():
            if found[key] > count or (found[key] < count and not may_lack):
                raise InvariantViolated(f"the row {key} is {found[key]} times in the database, not {count}")


def stored_rows(path: Path) -> Counter[tuple[str, str, int | None]]:
    """How often each request id, status and attempt is in the database."""
    connection = sqlite3.connect(path)
    try:
        return Counter(connection.execute("SELECT request_id, status, attempt FROM request_traces").fetchall())
    finally:
        connection.close()


class ErrorLog(logging.Handler):
    """Collects the errors that the product logs: contained exceptions and violated invariants."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.history: History | None = None
        self.problems: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        thrown = record.exc_info[1] if record.exc_info else None
        request_id = getattr(record, "request_id", None)
        if self.history is not None and self.history.has_thrown:
            self.history.touched.add(str(request_id))
            if thrown is None or isinstance(thrown, Thrown):
                return
        place = ""
        if thrown is not None and thrown.__traceback__ is not None:
            frame = thrown.__traceback__
            while frame.tb_next is not None:
                frame = frame.tb_next
            place = f" at {Path(frame.tb_frame.f_code.co_filename).name}:{frame.tb_lineno}"
        self.problems.append(f"{record.getMessage()} ({request_id}): {thrown!r}{place}")
