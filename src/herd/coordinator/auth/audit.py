"""Creates the audit entry of a request: who changed what, from which address."""

from __future__ import annotations

import time

from starlette.requests import Request

from herd.coordinator.storage.audit_log import AuditEntry
from herd.trust.keys import ApiKey


def client_ip(request: Request) -> str:
    return request.client.host if request.client else ""


def audit_entry(request: Request, action: str, target: str = "") -> AuditEntry:
    """Returns an entry with the current time. It contains names and addresses, never a secret."""
    key = request.scope.get("state", {}).get("key")
    who = f"the key {key.name}" if isinstance(key, ApiKey) else "this machine, or a login"
    return AuditEntry(time.time(), action, who, client_ip(request), target)
