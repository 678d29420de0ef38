"""Who may ask, how much, and how many at a time."""

import asyncio

import pytest
from fastapi import HTTPException

from hct_lightning.serving.gate import Figures, Gate


class Behind:
    """An app that reads the body, and answers 200 when it may."""

    def __init__(self) -> None:
        self.may = asyncio.Event()
        self.bodies = []

    async def __call__(self, scope, receive, send):
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message["body"], message.get("more_body", False)
        self.bodies.append(body)
        if scope["path"] == "/predict":
            await self.may.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})


async def ask(gate, path="/predict", headers=(), chunks=(b"",)):
    """Status and headers of the answer, and what was left of the body."""
    waiting = list(chunks)
    said = {"left": waiting}

    async def receive():
        chunk = waiting.pop(0)
        return {"type": "http.request", "body": chunk, "more_body": bool(waiting)}

    async def send(message):
        if message["type"] == "http.response.start":
            said.update(status=message["status"], headers=dict(message["headers"]))

    scope = {"type": "http", "method": "POST", "path": path, "headers": list(headers)}
    await gate(scope, receive, send)
    return said


def gate_of(behind, **options):
    return Gate(behind, **{"token": None, "max_bytes": 100, "waiting": 2, "figures": Figures()} | options)


def test_more_at_a_time_are_refused_at_once():
    async def run():
        behind = Behind()
        gate = gate_of(behind)
        inside = [asyncio.create_task(ask(gate)) for _ in range(2)]
        await asyncio.sleep(0)
        chunks = [bytes(60)] * 3
        refused = await asyncio.wait_for(ask(gate, chunks=chunks), 1)
        assert refused["left"] == [], "else the client, which still sends, would see a broken pipe"
        assert (refused["status"], refused["headers"][b"retry-after"]) == (503, b"1")
        behind.may.set()
        assert [(await task)["status"] for task in inside] == [200, 200]
        assert (await ask(gate))["status"] == 200
        text = gate.figures.text().decode()
        for line in ('hct_requests_total{status="200"} 3.0', 'hct_requests_total{status="503"} 1.0'):
            assert line in text
        assert "hct_requests_inside 0.0" in text
        assert "hct_request_seconds_count 3.0" in text

    asyncio.run(run())


def test_large_bodies_are_refused_whatever_they_say_of_their_length():
    async def run():
        behind = Behind()
        behind.may.set()
        gate = gate_of(behind)
        assert (await ask(gate, headers=[(b"content-length", b"101")], chunks=[bytes(101)]))["status"] == 413
        assert behind.bodies == [], "nothing of it was read"
        with pytest.raises(HTTPException) as raised:  # which FastAPI answers with
            await ask(gate, chunks=[bytes(60), bytes(60), bytes(60)])
        assert raised.value.status_code == 413
        assert (await ask(gate, chunks=[bytes(60), bytes(40)]))["status"] == 200

    asyncio.run(run())


def test_a_token_is_needed_but_for_page_and_health():
    async def run():
        behind = Behind()
        behind.may.set()
        gate = gate_of(behind, token="s3cret")
        for given in ([], [(b"authorization", b"Bearer s3cre")], [(b"authorization", "Bearer é".encode())]):
            for path in ("/predict", "/metrics", "/info"):
                refused = await ask(gate, path, given)
                assert (refused["status"], refused["headers"][b"www-authenticate"]) == (401, b"Bearer")
        assert behind.bodies == []
        for path in ("/", "/health"):
            assert (await ask(gate, path))["status"] == 200
        assert (await ask(gate, headers=[(b"authorization", b"Bearer s3cret")]))["status"] == 200

    asyncio.run(run())
