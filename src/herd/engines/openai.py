"""Connects all other servers with OpenAI's protocol.

Such servers report little: every listed model counts as ready to answer, with unknown size and context window.
"""

from __future__ import annotations

from herd.core.state.fleet import EngineEndpoint
from herd.engines import EngineRequest, EngineResponse, Inventory
from herd.engines._openai_compatible import OpenAICompatible, always_loaded_model
from herd.protocols.openai import model_list
from herd.protocols.openai.engine_requests import ServerQuirks

OWNERS_KNOWN = frozenset(
    (
        *("llamacpp", "vllm", "organization_owner", "library"),
        *("sglang", "tabbyAPI", "koboldcpp", "lemonade", "llamafile"),
    )
)
"""`owned_by` of servers that have files of their own; the third and the fourth are LM Studio and Ollama."""

_ENDPOINT = EngineEndpoint("openai", "")


class OpenAIServer(OpenAICompatible):
    kind = "openai"
    title = "OpenAI-compatible server"
    default_port = 8000
    more_ports = (30000, 5000, 5001, 8080)
    """Ports on which such servers often listen."""
    is_generic = True
    quirks = ServerQuirks(has_template_kwargs=True)

    def probe(self) -> EngineRequest:
        return EngineRequest("GET", "/v1/models")

    def recognizes(self, response: EngineResponse) -> bool:
        """Whether it is a server without a file of its own. Servers with one answer this probe too.

        An empty list is not recognized, because it does not identify the server.
        """
        entries = model_list.entries(response.status, response.body)
        return bool(entries) and not any(entry.owned_by in OWNERS_KNOWN for entry in entries)

    def inventory_requests(self) -> tuple[EngineRequest, ...]:
        return (EngineRequest("GET", "/v1/models"),)

    def inventory(self, responses: tuple[EngineResponse, ...]) -> Inventory:
        entries = [entry for response in responses[:1] for entry in model_list.entries(response.status, response.body)]
        return Inventory("", tuple(always_loaded_model(entry, _ENDPOINT) for entry in entries))


ENGINE = OpenAIServer()
