"""The door of the service: who may come in, what each answer carries, and what is counted."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import time
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from headstart.deploy.service.metrics import Metrics
from headstart.deploy.service.problems import RefusedError, answer_of, problem_of
from headstart.deploy.service.settings import Settings

log = logging.getLogger("headstart.service")

PATHS = ("/", "/predict", "/explain", "/models", "/metrics", "/health", "/ready", "/openapi.json")
# What may be read without the token: the page asks for it, and those that watch a service have none.
_OPEN = frozenset({"/", "/health", "/ready", "/openapi.json"})
# Of all names and values; the parser bounds a head only while it is incomplete.
_HEAD_BYTES = 2**15
_DISCARD_SECONDS = 1.0
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Frame-Options": "DENY",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}


class _Body:
    """A request's body as it comes; what nobody wanted of it can be thrown away."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._complete = False

    async def receive(self) -> Message:
        """Return the next message."""
        message = await self._receive()
        self._complete = self._complete or not message.get("more_body", False)
        return message

    async def discard(self, limit: int) -> None:
        """Read on to the end, for a second and `limit` bytes at most."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_DISCARD_SECONDS):
                while not self._complete and limit > 0:
                    limit -= len((await self.receive()).get("body", b""))


class Guard:
    """Stands before the app: checks names, origins and the token, and turns whatever escapes into an answer.

    A browser sends a page's own requests with its origin: those of other pages are refused, and so are those
    that reach the service by another name than it has, where names are known (a page can have its own name
    lead to this machine). While the service stops, pictures are not taken any more.
    """

    def __init__(self, app: ASGIApp, settings: Settings, metrics: Metrics) -> None:
        self.app, self.settings, self.metrics = app, settings, metrics
        self.stopping = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500
        answered = False
        body = _Body(receive)
        head = Headers(scope=scope)

        async def sent(message: Message) -> None:
            nonlocal status, answered
            if message["type"] == "http.response.start":
                status, answered = message["status"], True
                if self.stopping or head.get("connection", "").lower() == "close":
                    # To close on a client that is still sending would tear the answer from its hands.
                    await body.discard(self.settings.body_bytes)
                headers = MutableHeaders(raw=message["headers"])
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                if self.stopping:
                    headers["Connection"] = "close"
            await send(message)

        self.metrics.in_flight += 1
        try:
            problem = self._refusal(scope["method"], scope["path"], head)
            await (self.app if problem is None else answer_of(problem))(scope, body.receive, sent)
        except Exception as error:
            # One line, whatever is in it: a log is read by people and by programs.
            said = ascii(f"{type(error).__name__}: {error}"[:300])
            log.error("a request failed: %s", said, exc_info=log.isEnabledFor(logging.DEBUG))
            if not answered:
                await answer_of(problem_of(error))(scope, body.receive, sent)
        finally:
            self.metrics.in_flight -= 1
            path = scope["path"] if scope["path"] in PATHS else "other"
            self.metrics.request(path, status, time.perf_counter() - started)

    def _refusal(self, method: str, path: str, headers: Headers) -> RefusedError | None:
        if sum(len(name) + len(value) for name, value in headers.raw) > _HEAD_BYTES:
            return RefusedError(431, "HEAD_TOO_LARGE", "the request's head is too long", "send fewer headers")
        host = headers.get("host", "")
        if self.settings.hosts and _name_of(f"//{host}") not in self.settings.hosts:
            return RefusedError(
                421, "WRONG_HOST", "the service is not known by this name", "allow it with --allow-host"
            )
        origin = headers.get("origin")
        if origin is not None and method != "GET" and urlsplit(origin).netloc.lower() != host.lower():
            return RefusedError(
                403, "OTHER_ORIGIN", "pages of other sites may not ask", "use the service's page"
            )
        if self.settings.token and path not in _OPEN and not self._knows_token(headers):
            return RefusedError(
                401, "NO_TOKEN", "the token is missing or wrong", "send it as Authorization: Bearer …"
            )
        if self.stopping and path not in ("/health", "/metrics"):
            return RefusedError(503, "STOPPING", "the service is stopping", "try again soon", retry_after=5)
        return None

    def _knows_token(self, headers: Headers) -> bool:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        known = hmac.compare_digest(given.strip().encode("latin-1", "replace"), self.settings.token.encode())
        return known and scheme.lower() == "bearer"


def _name_of(address: str) -> str:
    try:
        return (urlsplit(address).hostname or "").lower()
    except ValueError:
        return ""
