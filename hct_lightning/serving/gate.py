"""What stands before the artifact: who may ask, how much may come, how many at a time; and the figures of it."""

import asyncio
import contextlib
import hmac
import time

from hct_lightning.deploy.extra import extra

with extra("serve"):
    from fastapi import HTTPException
    from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
    from starlette.responses import JSONResponse, Response
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

OPEN = ("/", "/health")  # for those without the token: the page holds no secret, and who watches over a server has none
ASKING = "/predict"
LINGER_S = 5.0  # for the body of a request that is refused


class Figures:
    """What /metrics says, in the text of Prometheus."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("hct_requests", "Requests for an answer", ["status"], registry=self.registry)
        self.seconds = Histogram("hct_request_seconds", "From a request to its answer", registry=self.registry)
        self.inside = Gauge("hct_requests_inside", "Requests that wait for their answer", registry=self.registry)

    def text(self) -> bytes:
        return generate_latest(self.registry)


class Gate:
    """ASGI middleware, for one process.

    Args:
        app: what answers.
        token: that `Authorization: Bearer ...` must bring; None: everyone may ask.
        max_bytes: of a body; larger ones get 413.
        waiting: requests for an answer at a time; others get 503 at once.
        figures: counts and times of those.
    """

    def __init__(self, app: ASGIApp, *, token: str | None, max_bytes: int, waiting: int, figures: Figures) -> None:
        self.app = app
        self.token = token
        self.max_bytes = max_bytes
        self.waiting = waiting
        self.figures = figures
        self._inside = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in OPEN:
            await self.app(scope, receive, send)
        elif self.token is not None and not self._may_ask(dict(scope["headers"]).get(b"authorization", b"")):
            refusal = JSONResponse({"detail": "a token is needed"}, 401, headers={"WWW-Authenticate": "Bearer"})
            await _refuse(refusal, receive, send)
        elif scope["path"] != ASKING:
            await self.app(scope, receive, send)
        elif self._inside >= self.waiting:
            self.figures.requests.labels(503).inc()
            busy = JSONResponse({"detail": "too many requests at a time"}, 503, headers={"Retry-After": "1"})
            await _refuse(busy, receive, send)
        elif int(dict(scope["headers"]).get(b"content-length", b"0")) > self.max_bytes:
            self.figures.requests.labels(413).inc()
            await _refuse(JSONResponse({"detail": self._too_large()}, 413), receive, send)
        else:
            await self._ask(scope, receive, send)

    def _may_ask(self, given: bytes) -> bool:
        wanted = f"Bearer {self.token}".encode()
        return hmac.compare_digest(given, wanted)

    async def _ask(self, scope: Scope, receive: Receive, send: Send) -> None:
        started, status = time.monotonic(), 500

        async def noting(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        self._inside += 1
        self.figures.inside.set(self._inside)
        try:
            await self.app(scope, self._limited(receive), noting)
        finally:
            self._inside -= 1
            self.figures.inside.set(self._inside)
            self.figures.requests.labels(status).inc()
            self.figures.seconds.observe(time.monotonic() - started)

    def _limited(self, receive: Receive) -> Receive:
        """For bodies that do not say their length, or lie about it."""
        came = 0

        async def limited() -> Message:
            nonlocal came
            message = await receive()
            came += len(message.get("body", b""))
            if came > self.max_bytes:
                raise HTTPException(413, self._too_large())
            return message

        return limited

    def _too_large(self) -> str:
        return f"more than {self.max_bytes / 1e6:g} MB; serve.max_mb raises the limit"


async def _refuse(answer: Response, receive: Receive, send: Send) -> None:
    """Answers at once, and lets the body come for a while and forgets it: a client that is cut off sees no answer."""
    await send({"type": "http.response.start", "status": answer.status_code, "headers": answer.raw_headers})
    await send({"type": "http.response.body", "body": answer.body, "more_body": True})
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LINGER_S):
            while (await receive()).get("more_body"):
                pass
    await send({"type": "http.response.body", "body": b""})
