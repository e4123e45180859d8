"""The routes by which a person gets into the dashboard: links, the page that takes a key, sessions. Decides no right.

The page is one static file without a script: whoever has no credentials sees it and `/health`, where the owner asks for keys.
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

from herd.coordinator.api.keys_and_nodes import as_json, noted
from herd.coordinator.auth.access_control import SESSION_COOKIE
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
LINK_USED = "This link was used or is older than five minutes. Another: herd dashboard, on the coordinator's machine."
WRONG_KEY = (
    "This key is unknown, expired or revoked. Those that are valid: herd keys list, on the coordinator's machine."
)
NO_FORM = "Nothing that could be a key was sent."
TOO_MANY = "Too many wrong keys came from your address. Try again in {wait_s} s."


class LoginApi:
    def __init__(
        self,
        logins: Logins,
        keys: Callable[[], Keyring],
        store: TraceStore,
        now: Callable[[], float],
        unix_s: Callable[[], float],
        changed: Callable[[], None],
    ) -> None:
        """`now` is the loop's time; `changed` is called when a session begins or ends. Raises `OSError` without its page."""
        self._logins = logins
        self._keys = keys
        self._store = store
        self._now = now
        self._unix_s = unix_s
        self._changed = changed
        self._tries = LoginAttempts()
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
        """A path that opens the dashboard once, within five minutes."""
        token = self._logins.link(secrets.token_bytes(logins.LINK_BYTES), self._now())
        self._note(request, "made a login link")
        return as_json({"path": f"/login?token={token}", "ends_in_s": logins.LINK_LIFE_S})

    async def page(self, request: Request) -> Response:
        """The login page; with a link's `token`, the session itself."""
        token = request.query_params.get("token")
        if token is None:
            return self._shown("", 200)
        session = self._logins.redeem(token, secrets.token_bytes(logins.LINK_BYTES), self._now())
        return self._shown(LINK_USED, 400) if session is None else self._entered(request, session)

    async def with_key(self, request: Request) -> Response:
        """The login page's form: `key` opens a session that may what the key may, and ends with it."""
        ip, now = request.client.host if request.client else "", self._now()
        if wait_s := self._tries.wait_s(ip, now):
            seconds = math.ceil(wait_s)
            return self._shown(TOO_MANY.format(wait_s=seconds), 429, {"Retry-After": str(seconds)})
        text = _key_in(await request.body())
        if not text:
            return self._shown(NO_FORM, 400)
        key = self._keys().find(text, self._unix_s())
        if key is None:
            self._tries.failed(ip, now)
            log.warning("a wrong key at the login page", extra={"ip": ip})
            return self._shown(WRONG_KEY, 401)
        self._note(request, "logged in with a key", f"{key.name} ({key.id})")
        return self._entered(request, self._logins.open(secrets.token_bytes(logins.LINK_BYTES), now, key.id))

    async def logout(self, request: Request) -> Response:
        """Ends the session of the cookie."""
        self._logins.close(request.cookies.get(SESSION_COOKIE, ""))
        self._changed()
        answer = as_json({"status": "logged out"})
        answer.delete_cookie(SESSION_COOKIE, httponly=True, samesite="strict")
        return answer

    def _entered(self, request: Request, session: str) -> Response:
        self._changed()
        answer = RedirectResponse(HOME, 303)
        is_secure = request.url.scheme == "https"
        answer.set_cookie(
            SESSION_COOKIE,
            session,
            max_age=int(logins.SESSION_LIFE_S),
            httponly=True,
            samesite="strict",
            secure=is_secure,
        )
        return answer

    def _shown(self, said: str, status: int, more: Mapping[str, str] | None = None) -> Response:
        return HTMLResponse(
            self._page.substitute(said=html.escape(said)), status, headers={**self._headers, **(more or {})}
        )

    def _note(self, request: Request, what: str, about: str = "") -> None:
        log.info(what, extra={"about": about})
        self._store.audit(noted(request, what, about))


def _key_in(body: bytes) -> str:
    """The form's `key`; empty where there is none, or one too many."""
    if len(body) > FORM_MAX_BYTES:
        return ""
    try:
        given = parse_qs(body.decode("utf-8"), max_num_fields=FORM_FIELDS_MAX).get("key", [])
    except ValueError:
        return ""
    return given[0].strip() if len(given) == 1 else ""


def _headers_of(page: str) -> dict[str, str]:
    """Nothing but the page's own style and its own form; no frame around it, nothing of it kept.

    `same-origin`, not `no-referrer`: under that, browsers send the form with `Origin: null`, which is nobody's page.
    """
    styles = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
        for _, text in _STYLE.findall(page)
    )
    return {
        "Content-Security-Policy": f"default-src 'none'; style-src {styles}; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
        "Cache-Control": "no-store",
        "Referrer-Policy": "same-origin",
        "X-Content-Type-Options": "nosniff",
    }
