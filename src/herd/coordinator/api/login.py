"""Serves the login page, login links and the sessions of the dashboard.

The page is one static file without a script: if the owner requires keys, a client without credentials can open only
this page and `/health`.
"""

from __future__ import annotations

import base64
import hashlib
import html
import logging
import math
import re
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from string import Template
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from herd.coordinator.api.responses import json_response
from herd.coordinator.auth.access_control import SESSION_COOKIE
from herd.coordinator.auth.audit import audit_entry, client_ip
from herd.coordinator.auth.routes import ApiRoute
from herd.coordinator.storage.writer import TraceStore
from herd.trust import logins
from herd.trust.keys import Keyring
from herd.trust.logins import LoginAttempts, Logins
from herd.trust.rights import Right

log = logging.getLogger("herd.logins")

HOME = "/dashboard"
FORM_MAX_BYTES = 4096
FORM_FIELDS_MAX = 8
PAGE = Path(__file__).parent / "pages" / "login.html"
_STYLE = re.compile(r"<(style)>(.*?)</\1>", re.DOTALL)
LINK_INVALID = (
    "This login link was already used, or is older than five minutes. "
    "Create a new one on the coordinator's machine: herd dashboard"
)
KEY_INVALID = (
    "This key is unknown, expired or revoked. List the valid keys on the coordinator's machine: herd keys list"
)
KEY_MISSING = "The form contains no key. Enter a key."
TOO_MANY_ATTEMPTS = "Too many wrong keys from your address. Try again in {wait_s} s."


class LoginApi:
    def __init__(
        self,
        logins: Logins,
        keys: Callable[[], Keyring],
        store: TraceStore,
        now: Callable[[], float],
        unix_s: Callable[[], float],
        sessions_changed: Callable[[], None],
    ) -> None:
        """`now()` is the loop's time; `sessions_changed()` is called when a session begins or ends.

        Raises `OSError` if the login page cannot be read.
        """
        self._logins = logins
        self._keys = keys
        self._store = store
        self._now = now
        self._unix_s = unix_s
        self._sessions_changed = sessions_changed
        self._attempts = LoginAttempts()
        text = PAGE.read_text("utf-8")
        self._page = Template(text)
        self._headers = _headers_of(text)

    @property
    def routes(self) -> list[ApiRoute]:
        return [
            ApiRoute("/fleet/logins", self.link, "POST", Right.ADMIN),
            ApiRoute("/login", self.page, "GET", Right.OPEN, query=("token",)),
            ApiRoute("/login", self.with_key, "POST", Right.OPEN, is_form=True),
            ApiRoute("/logout", self.logout, "POST", Right.OPEN),
        ]

    async def link(self, request: Request) -> Response:
        """Creates a login link for the dashboard that works once, within five minutes."""
        token = self._logins.create_link(secrets.token_bytes(logins.LINK_BYTES), self._now())
        self._audit(request, "created a login link")
        return json_response({"path": f"/login?token={token}", "ends_in_s": logins.LINK_LIFE_S})

    async def page(self, request: Request) -> Response:
        """Returns the login page; with the `token` of a login link, opens a session."""
        token = request.query_params.get("token")
        if token is None:
            return self._login_page("", 200)
        session = self._logins.redeem_link(token, secrets.token_bytes(logins.LINK_BYTES), self._now())
        return self._login_page(LINK_INVALID, 400) if session is None else self._open_dashboard(request, session)

    async def with_key(self, request: Request) -> Response:
        """Opens a session with the form field `key`. The session has the rights of the key and ends with it."""
        ip, now = client_ip(request), self._now()
        if wait_s := self._attempts.wait_s(ip, now):
            seconds = math.ceil(wait_s)
            return self._login_page(TOO_MANY_ATTEMPTS.format(wait_s=seconds), 429, {"Retry-After": str(seconds)})
        text = _key_of_form(await request.body())
        if not text:
            return self._login_page(KEY_MISSING, 400)
        key = self._keys().find(text, self._unix_s())
        if key is None:
            self._attempts.record_failure(ip, now)
            log.warning("login failed: invalid key", extra={"ip": ip})
            return self._login_page(KEY_INVALID, 401)
        self._audit(request, "logged in with a key", f"{key.name} ({key.id})")
        return self._open_dashboard(
            request, self._logins.open_session(secrets.token_bytes(logins.LINK_BYTES), now, key.id)
        )

    async def logout(self, request: Request) -> Response:
        """Ends the session that the cookie names."""
        self._logins.close_session(request.cookies.get(SESSION_COOKIE, ""))
        self._sessions_changed()
        response = json_response({"status": "logged out"})
        response.delete_cookie(SESSION_COOKIE, httponly=True, samesite="strict")
        return response

    def _open_dashboard(self, request: Request, session: str) -> Response:
        """Redirects to the dashboard and sets the session's cookie."""
        self._sessions_changed()
        response = RedirectResponse(HOME, 303)
        is_secure = request.url.scheme == "https"
        response.set_cookie(
            SESSION_COOKIE,
            session,
            max_age=int(logins.SESSION_LIFE_S),
            httponly=True,
            samesite="strict",
            secure=is_secure,
        )
        return response

    def _login_page(self, message: str, status: int, headers: Mapping[str, str] | None = None) -> Response:
        page = self._page.substitute(message=html.escape(message))
        return HTMLResponse(page, status, headers={**self._headers, **(headers or {})})

    def _audit(self, request: Request, action: str, target: str = "") -> None:
        log.info(action, extra={"about": target})
        self._store.audit(audit_entry(request, action, target))


def _key_of_form(body: bytes) -> str:
    """The form's `key`; empty if the field is absent or occurs twice."""
    if len(body) > FORM_MAX_BYTES:
        return ""
    try:
        values = parse_qs(body.decode("utf-8"), max_num_fields=FORM_FIELDS_MAX).get("key", [])
    except ValueError:
        return ""
    return values[0].strip() if len(values) == 1 else ""


def _headers_of(page: str) -> dict[str, str]:
    """Headers that allow only the page's own style and form, forbid frames and forbid caching.

    `same-origin`, not `no-referrer`: under `no-referrer`, browsers send the form with `Origin: null`, which matches no
    origin.
    """
    styles = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
        for _, text in _STYLE.findall(page)
    )
    policy = f"default-src 'none'; style-src {styles}; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    return {
        "Content-Security-Policy": policy,
        "Cache-Control": "no-store",
        "Referrer-Policy": "same-origin",
        "X-Content-Type-Options": "nosniff",
    }
