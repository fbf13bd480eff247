"""ASGI middleware: host, origin, token, body limits, security headers, metrics.

It is plain ASGI, so that a body is measured while it arrives and is never held here.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

from textmask.serve.access import host_name, same_token
from textmask.serve.limits import MAX_JSON_BYTES, Limits
from textmask.serve.problems import PROBLEM_TYPE, Problem, problem_body

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Count = Callable[[str, str, int, float], None]

UPLOAD = "/v1/images"
# what a browser needs before a token can be entered, and the health checks
OPEN_PATHS = ("/", "/healthz", "/readyz", "/openapi.json", "/favicon.ico", "/example.png")
POLICY = (
    "default-src 'self'; img-src 'self' blob: data:; object-src 'none'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
HEADERS = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), microphone=(), geolocation=()"),
    (b"cache-control", b"no-store"),
)


class Guard:
    """Wraps the application.

    Args:
        app: the application.
        limits: limits on request bodies.
        hosts: accepted names in the Host header; DNS rebinding uses other names.
        token: expected in `Authorization: Bearer`; None disables the check.
        count: called with method, route, status and seconds of every request.
    """

    def __init__(
        self, app: App, limits: Limits, hosts: Iterable[str], token: str | None, count: Count
    ) -> None:
        self._app, self._limits, self._token, self._count = app, limits, token, count
        self._hosts = frozenset(host.lower() for host in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request; everything that is not HTTP is passed on or ignored."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return  # web sockets are not supported
        begin, status = time.perf_counter(), 0
        body = _Body(receive, self._cap(scope), self._limits.body_seconds, _brings_body(scope))

        # a route that answers GET answers HEAD: the same headers without the body
        head, verb = scope["method"] == "HEAD", scope["method"]
        if head:
            scope = {**scope, "method": "GET"}  # a copy: the server needs to know what was asked

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = int(message["status"])
                headers = [*message.get("headers", []), *HEADERS]
                if body.unread:  # the rest of the body is not needed
                    headers.append((b"connection", b"close"))
                message = {**message, "headers": headers}
            elif head:
                message = {**message, "body": b""}
            await send(message)

        try:
            self._admit(scope)
            await self._app(scope, body.receive, sending)
        except Problem as problem:
            if status == 0:
                await _refuse(problem, sending)
        finally:
            seconds = time.perf_counter() - begin
            self._count(_known_verb(verb), _route(scope), status, seconds)

    def _cap(self, scope: Scope) -> int:
        return self._limits.max_bytes if scope["path"] == UPLOAD else MAX_JSON_BYTES

    def _admit(self, scope: Scope) -> None:
        """Raise a Problem if the request is not allowed."""
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        host, origin = headers.get(b"host", ""), headers.get(b"origin")
        if host_name(host) not in self._hosts:
            raise Problem(
                400, "unknown_host", "this service does not accept the name in the Host header."
            )

        # pages of other origins must not use a service that runs on the user's machine
        foreign = headers.get(b"sec-fetch-site") == "cross-site" and scope["path"] != "/"
        if foreign or (origin is not None and origin.lower().partition("//")[2] != host.lower()):
            raise Problem(403, "other_origin", "requests from pages of another origin are refused.")

        if self._token is not None and not _is_open(scope["path"]):
            scheme, _, got = headers.get(b"authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not same_token(got.strip(), self._token):
                challenge = {"WWW-Authenticate": 'Bearer realm="textmask"'}
                raise Problem(401, "token", "send Authorization: Bearer TOKEN.", challenge)

        # an announced body is refused before it is read
        length, cap = headers.get(b"content-length", "0"), self._cap(scope)
        if length.isascii() and length.isdigit() and (len(length) > 15 or int(length) > cap):
            raise _body_too_large(cap)


class _Body:
    """A request body that is measured while it is read."""

    def __init__(self, receive: Receive, cap: int, seconds: float, expected: bool) -> None:
        self._receive, self._cap, self._seconds, self._expected = receive, cap, seconds, expected
        self._got, self._until = 0, 0.0
        self._whole = False

    @property
    def unread(self) -> bool:
        """Whether the client still has something to send."""
        return self._expected and not self._whole

    async def receive(self) -> Message:
        """Receive the next message; raise a Problem if the body is too large or too slow."""
        if self._whole:
            return await self._receive()
        now = asyncio.get_running_loop().time()
        self._until = self._until or now + self._seconds
        try:
            async with asyncio.timeout_at(self._until):
                message = await self._receive()
        except TimeoutError as error:
            raise Problem(
                408, "slow", f"the body did not arrive within {self._seconds:g} s."
            ) from error

        if message["type"] == "http.disconnect":
            self._whole = True
            return message

        self._got += len(message.get("body", b""))
        if self._got > self._cap:
            raise _body_too_large(self._cap)
        self._whole = not message.get("more_body", False)
        return message


def _body_too_large(cap: int) -> Problem:
    return Problem(413, "too_many_bytes", f"the body is larger than {cap:,} bytes.")


def _brings_body(scope: Scope) -> bool:
    headers = dict(scope["headers"])
    return b"transfer-encoding" in headers or headers.get(b"content-length", b"0") != b"0"


def _is_open(path: str) -> bool:
    return path in OPEN_PATHS or path.startswith("/static/")


async def _refuse(problem: Problem, send: Send) -> None:
    body = json.dumps(problem_body(problem.status_code, problem.code, problem.message)).encode()
    headers = [
        (b"content-type", PROBLEM_TYPE.encode()),
        (b"content-length", str(len(body)).encode()),
    ]
    for name, value in (problem.headers or {}).items():
        headers.append((name.lower().encode(), value.encode()))
    await send({"type": "http.response.start", "status": problem.status_code, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _route(scope: Scope) -> str:
    """The pattern of the route, not the path, which keeps the number of labels small."""
    return str(getattr(scope.get("route"), "path", "") or "other")


def _known_verb(method: str) -> str:
    return method if method in ("GET", "POST", "DELETE", "HEAD", "OPTIONS") else "other"
