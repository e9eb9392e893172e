r"""Who may ask the studio: whoever has the token, from this machine, by its own name.

A page elsewhere could have a browser ask this server (a forged request), or have a name of its own
lead to this machine (DNS rebinding). The first fails for lack of the token, which is in no cookie
that another site's page may send (`SameSite=Strict`) and is asked for again as a header wherever
something is done; the second fails by the name in `Host`.
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, Collection, Mapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs

__all__ = ["Guard", "HEADERS"]


Scope = Mapping[str, Any]
Application = Callable[[Any, Any, Any], Awaitable[None]]


# Of every answer: nothing is loaded from elsewhere, framed, cached or told to another site.
HEADERS: Mapping[bytes, bytes] = {
    b"content-security-policy": b"default-src 'none'; script-src 'self'; connect-src 'self'; "
    b"style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; base-uri 'none'; "
    b"form-action 'none'; frame-ancestors 'none'",
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"cache-control": b"no-store",
}


class Guard:
    r"""Lets through whoever has the token, and refuses others in one line.

    Arguments:
        app: What is guarded.
        token: The token.
        hosts: The values of `Host` that are this server's.
        cookie: The name of the cookie.
    """

    def __init__(self, app: Application, token: str, hosts: Collection[str], cookie: str) -> None:
        self.app, self.token, self.hosts, self.cookie = app, token.encode(), hosts, cookie
        self.origins = frozenset(f"http://{host}" for host in hosts)

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:  # noqa: ANN401
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        headers = {key.lower(): value for key, value in scope["headers"]}

        async def guarded(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *HEADERS.items()]
            await send(message)

        refusal = self.refusal(scope, headers)
        if refusal is not None:
            return await answer(guarded, *refusal)
        if self.is_token(self.asked(scope)) and scope["path"] == "/":
            # The address without the token is what stays in the history.
            cookie = f"{self.cookie}={self.token.decode()}; HttpOnly; SameSite=Strict; Path=/"
            more = [(b"location", b"/"), (b"set-cookie", cookie.encode())]
            return await answer(guarded, 303, "", more)
        await self.app(scope, receive, guarded)

    def refusal(self, scope: Scope, headers: Mapping[bytes, bytes]) -> tuple[int, str] | None:
        r"""Returns why a request is refused, with its status; `None` for one that is not."""
        if headers.get(b"host", b"").decode("latin-1") not in self.hosts:
            return 421, "this is not the name of this server: open the address that was printed"
        origin = headers.get(b"origin")
        if origin is not None and origin.decode("latin-1") not in self.origins:
            return 403, "a page of another site asked: open the address that was printed"
        if scope["method"] in ("GET", "HEAD"):
            if self.is_token(self.asked(scope)) or self.is_token(self.kept(headers)):
                return None
        elif self.is_token(headers.get(b"x-studio-token", b"")):
            return None
        return 403, "the token is missing or wrong: open the address that `vardiu studio` printed"

    def asked(self, scope: Scope) -> bytes:
        r"""Returns the token of an address."""
        found = parse_qs(scope.get("query_string", b"")).get(b"token", [b""])
        return found[0]

    def kept(self, headers: Mapping[bytes, bytes]) -> bytes:
        r"""Returns the token of a cookie."""
        try:
            cookies = SimpleCookie(headers.get(b"cookie", b"").decode("latin-1"))
        except CookieError:
            return b""
        return cookies[self.cookie].value.encode() if self.cookie in cookies else b""

    def is_token(self, given: bytes) -> bool:
        r"""Whether this is the token; how long that takes tells nothing of it."""
        return hmac.compare_digest(given, self.token)


async def answer(
    send: Any,  # noqa: ANN401 (of the server)
    status: int,
    line: str,
    headers: list[tuple[bytes, bytes]] | None = None,
) -> None:
    r"""Answers with one line."""
    kind = (b"content-type", b"text/plain; charset=utf-8")
    start = {"type": "http.response.start", "status": status, "headers": [kind, *(headers or [])]}
    await send(start)
    await send({"type": "http.response.body", "body": (line + "\n").encode()})
