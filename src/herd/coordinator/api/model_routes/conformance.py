"""Serves the results of `herd certify`: which model works with which clients, on which node."""

from __future__ import annotations

import logging
from collections.abc import Callable

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from herd import __version__
from herd.coordinator.api.responses import json_errors, json_response, read_body
from herd.coordinator.auth.audit import audit_entry
from herd.coordinator.auth.routes import ApiRoute
from herd.coordinator.storage.model_tests import conformance
from herd.coordinator.storage.model_tests.conformance import ConformanceResult, StepResult
from herd.coordinator.storage.writer import TraceStore
from herd.core.state.conformance import Certified
from herd.core.state.fleet import Fleet, ModelName, NodeId, canonical
from herd.errors import BadRequest, HerdError, UnknownModel
from herd.trust.rights import Right

log = logging.getLogger("herd.conformance")

STEPS_MAX = 32
TEXT_MAX_CHARS = 400


class SentResult(msgspec.Struct, frozen=True, kw_only=True):
    """The steps that a client ran with a model on a node."""

    model: str
    node_id: str
    steps: list[StepResult]


class ConformanceApi:
    def __init__(self, fleet: Fleet, store: TraceStore, unix_s: Callable[[], float]) -> None:
        self._fleet, self._store, self._unix_s = fleet, store, unix_s
        self._results: dict[tuple[str, str], ConformanceResult] = {}

    def restore(self) -> None:
        """Reads the stored results for the lists of models, which are answered from memory."""
        try:
            found = self._store.read(conformance.all_results)
        except HerdError as error:
            log.warning("the conformance results cannot be read: %s", error)
            return
        self._results = {(one.model, one.node_id): one for one in found}
        self._show()

    def _show(self) -> None:
        by_model: dict[ModelName, tuple[Certified, ...]] = {}
        for (model, node_id), one in sorted(self._results.items()):
            failing = conformance.failing_step(one)
            certified = Certified(
                node_id=node_id,
                digest=one.digest,
                badges=conformance.badges(one),
                failing_step=failing.name if failing is not None else "",
                version=one.version,
                at=one.at,
            )
            by_model[ModelName(model)] = (*by_model.get(ModelName(model), ()), certified)
        self._fleet.certified = by_model
        self._fleet.version += 1  # lists of models are cached until it changes

    @property
    def routes(self) -> list[ApiRoute]:
        return [
            ApiRoute("/fleet/conformance", json_errors(self.results), "GET", Right.READ),
            ApiRoute("/fleet/conformance", json_errors(self.save), "POST", Right.MODELS, SentResult),
        ]

    async def results(self, _: Request) -> Response:
        """Lists each model's newest result per node: its badges, the failing step, and whether its weights changed."""
        return json_response({"results": [self._view(one) for _, one in sorted(self._results.items())]})

    async def save(self, request: Request) -> Response:
        """Stores the steps that a model has passed on a node. A result is invalid once the model's digest changes."""
        sent = await read_body(request, SentResult)
        if not 0 < len(sent.steps) <= STEPS_MAX:
            raise BadRequest(f"steps must have 1 to {STEPS_MAX} entries")
        digest = self._digest(sent.model, sent.node_id)
        if digest is None:
            raise UnknownModel(f"model '{sent.model}' not found on node {sent.node_id}; list them with: herd models")
        steps = tuple(msgspec.structs.replace(step, evidence=step.evidence[:TEXT_MAX_CHARS]) for step in sent.steps)
        result = ConformanceResult(
            model=canonical(sent.model),
            node_id=sent.node_id,
            digest=digest,
            version=__version__,
            at=self._unix_s(),
            steps=steps,
        )
        self._results[result.model, result.node_id] = result
        self._show()
        self._store.write(lambda connection: conformance.insert_result(connection, result))
        self._store.audit(audit_entry(request, "stored a conformance result", f"{sent.model} on {sent.node_id}"))
        return json_response(self._view(result), 201)

    def _digest(self, model: str, node_id: str) -> str | None:
        """The digest of the model there now; None if the node does not have it."""
        node = self._fleet.node(NodeId(node_id))
        model_info = node.report.models.get(canonical(model)) if node is not None else None
        return model_info.digest if model_info is not None else None

    def _view(self, result: ConformanceResult) -> dict[str, object]:
        failing = conformance.failing_step(result)
        now = self._digest(result.model, result.node_id)
        is_valid = now is None or now == result.digest
        return {
            **msgspec.to_builtins(result),
            "is_valid": is_valid,
            "badges": list(conformance.badges(result)) if is_valid else [],
            "failing_step": msgspec.to_builtins(failing) if failing is not None else None,
        }
