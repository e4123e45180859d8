"""Serves the kept answers of the Responses API by their ids, in OpenAI's format."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from herd.coordinator.api.responses import json_response
from herd.coordinator.auth.audit import client_ip
from herd.coordinator.auth.routes import ApiRoute
from herd.coordinator.proxy.error_answers import ErrorAnswers
from herd.coordinator.proxy.response_store import ResponseStore, StoredResponse, owner_of
from herd.errors import BadRequest, HerdError, NotFound, Refusal
from herd.protocols.openai.responses_history import RESPONSES, listed_item
from herd.trust.rights import Right

ITEMS_MAX = 100
"""The most input items in one page, as in OpenAI's API."""
ITEMS_DEFAULT = 20

NOT_IMPLEMENTED = "not_implemented"


class StoredResponsesApi:
    def __init__(self, store: ResponseStore, errors: ErrorAnswers) -> None:
        self._store = store
        self._errors = errors

    @property
    def routes(self) -> list[ApiRoute]:
        return [
            ApiRoute("/v1/responses/compact", self.compact, "POST", Right.CHAT),
            ApiRoute("/v1/responses/input_tokens", self.input_tokens, "POST", Right.CHAT),
            ApiRoute("/v1/conversations", self.conversations, "POST", Right.CHAT),
            ApiRoute("/v1/responses/{response_id}", self.retrieve, "GET", Right.CHAT, query=("stream",)),
            ApiRoute("/v1/responses/{response_id}", self.delete, "DELETE", Right.CHAT),
            ApiRoute(
                "/v1/responses/{response_id}/input_items",
                self.input_items,
                "GET",
                Right.CHAT,
                query=("limit", "order", "after"),
            ),
            ApiRoute("/v1/responses/{response_id}/cancel", self.cancel, "POST", Right.CHAT),
        ]

    async def retrieve(self, request: Request) -> Response:
        """Returns a kept answer of /v1/responses."""
        if request.query_params.get("stream", "").lower() in ("true", "1"):
            return self._refused(BadRequest("stream: a kept answer is complete; ask for it without stream"))
        try:
            return Response(self._find(request).body, media_type="application/json")
        except HerdError as error:
            return self._refused(error)

    async def delete(self, request: Request) -> Response:
        """Deletes a kept answer of /v1/responses."""
        response_id = request.path_params["response_id"]
        try:
            self._find(request)
        except HerdError as error:
            return self._refused(error)
        self._store.delete(_owner(request), response_id)
        return json_response({"id": response_id, "object": "response", "deleted": True})

    async def input_items(self, request: Request) -> Response:
        """Lists the input items of a kept answer, newest first unless `order=asc`."""
        try:
            return json_response(_page(request, _all_items(self._find(request))))
        except HerdError as error:
            return self._refused(error)

    async def cancel(self, request: Request) -> Response:
        """Refuses to cancel a kept answer, because it is complete."""
        try:
            self._find(request)
        except HerdError as error:
            return self._refused(error)
        return self._refused(
            BadRequest("only answers that run in the background can be cancelled; close the connection to stop others")
        )

    async def compact(self, _: Request) -> Response:
        """Refuses to compact a conversation, which needs a model of OpenAI."""
        return self._unavailable("herd does not compact conversations; send the shortened conversation in input")

    async def input_tokens(self, _: Request) -> Response:
        """Refuses to count the tokens of a Responses request."""
        return self._unavailable("herd does not count the tokens of a Responses request; the answer's usage has them")

    async def conversations(self, _: Request) -> Response:
        """Refuses to create a conversation on the server."""
        return self._unavailable("herd keeps no conversations; use previous_response_id, or send the items in input")

    def _find(self, request: Request) -> StoredResponse:
        wanted = request.path_params["response_id"]
        found = self._store.find(_owner(request), wanted)
        if found is None:
            reason = self._store.why_missing(_owner(request), wanted)
            raise NotFound(f"response {wanted[:80]!r} not found: {reason}", code="response_not_found")
        return found

    def _unavailable(self, message: str) -> Response:
        return self._answer(Refusal(501, NOT_IMPLEMENTED, message))

    def _refused(self, error: HerdError) -> Response:
        return self._answer(error.refusal)

    def _answer(self, refusal: Refusal) -> Response:
        answer = self._errors.render(RESPONSES, refusal)
        headers = {name.decode("ascii"): value.decode("ascii") for name, value in answer.headers}
        return Response(answer.body, answer.status, headers, answer.content_type)


def _owner(request: Request) -> str:
    key = request.scope.get("state", {}).get("key")
    origin = request.headers.get("origin", "")
    return owner_of(key.id if key is not None else "", client_ip(request), origin)


def _all_items(entry: StoredResponse) -> list[dict[str, object]]:
    """The items that the model got for this answer, oldest first: also those of the answers before it."""
    found = []
    for each in reversed(list(entry.chain())):
        items = [*each.items] if each is entry else [*each.items, *each.output]
        found += [listed_item(item, each.id, position) for position, item in enumerate(items)]
    return found


def _page(request: Request, items: list[dict[str, object]]) -> dict[str, object]:
    query = request.query_params
    order, after = query.get("order", "desc"), query.get("after")
    given = query.get("limit", str(ITEMS_DEFAULT))
    if order not in ("asc", "desc"):
        raise BadRequest('order must be "asc" or "desc"')
    if not given.isascii() or not given.isdigit() or not 1 <= int(given[:9]) <= ITEMS_MAX:
        raise BadRequest(f"limit must be a number from 1 to {ITEMS_MAX}")
    if order == "desc":
        items = items[::-1]
    if after:
        positions = [position for position, item in enumerate(items) if item["id"] == after]
        if not positions:
            raise BadRequest("after: this answer has no input item with this id")
        items = items[positions[0] + 1 :]
    page = items[: int(given)]
    return {
        "object": "list",
        "data": page,
        "first_id": page[0]["id"] if page else None,
        "last_id": page[-1]["id"] if page else None,
        "has_more": len(page) < len(items),
    }
