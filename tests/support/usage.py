"""Usage events, a store with an outbox, and receivers, for tests of reporters."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Connection, insert

from tests.support.empty_stores import empty_database
from zuebee.contracts.usage import UsageEvent
from zuebee.lib.sql.database import Database
from zuebee.schema.tables import metadata, usage_outbox, usage_records


def make_event(request_id: str = "req_1", **changes: Any) -> UsageEvent:
    """A usage event; `changes` to its fields."""
    fields: dict[str, Any] = {
        "request_id": request_id,
        "user_id": "me",
        "api_key": "key_0123456789",
        "model": "m",
        "prompt_tokens": 7,
        "completion_tokens": 5,
        "total_tokens": 12,
        "is_stream": False,
        "endpoint": "/v1/chat/completions",
        "timestamp": "2027-01-15T08:00:00.500Z",
        "backend_url": "http://vllm:8000",
        "method": "POST",
        "path": "/v1/chat/completions",
        "status_code": 200,
        "latency_ms": 500,
        "key_id": "key_0123456789",
        "key_name": "mine",
        "team_id": "",
        "organization_id": "org",
        "plan": "pro",
        "priority": "normal",
        "tags": (),
        "cached_tokens": 0,
        "usage_source": "provider",
        "termination_reason": "complete",
        "code": "",
        "backend": "vllm",
        "attempts": 1,
        "first_token_ms": None,
        "cost_nano": 1_500_000,
        "currency": "USD",
    }
    return UsageEvent(**{**fields, **changes})


def payload(event: UsageEvent) -> str:
    """As it goes to receivers."""
    return msgspec.json.encode(event).decode()


def make_store(url: str) -> Database:
    """A store with all its tables."""
    empty_database(url)
    database = Database(url, timeout_s=20.0)
    database.call(metadata.create_all)
    return database


def record_of(event: UsageEvent) -> dict[str, Any]:
    """The usage record that says the same."""
    same = ("request_id", "key_id", "key_name", "user_id", "team_id", "organization_id", "plan", "priority", "model",
            "method", "endpoint", "is_stream", "termination_reason", "code", "backend", "backend_url", "attempts",
            "prompt_tokens", "completion_tokens", "cached_tokens", "usage_source", "cost_nano")  # fmt: skip
    return {
        **{name: getattr(event, name) for name in same},
        "at_s": datetime.fromisoformat(event.timestamp.replace("Z", "+00:00")).timestamp(),
        "status": event.status_code,
        "duration_ms": event.latency_ms + 0.25,
        "first_token_ms": None if event.first_token_ms is None else event.first_token_ms + 0.25,
        "tags": msgspec.json.encode(event.tags).decode(),
    }


def put(database: Database, reporter: str, events: Iterable[UsageEvent], at_s: float = 0.0) -> None:
    """Write events and their records, as a settling transaction does."""
    database.call(lambda connection: _put(connection, reporter, list(events), at_s))


def _put(connection: Connection, reporter: str, events: list[UsageEvent], at_s: float) -> None:
    add = insert(usage_records).returning(usage_records.c.id, sort_by_parameter_order=True)
    ids = connection.execute(add, [record_of(event) for event in events]).scalars().all()
    rows = [
        {
            "event_id": event.request_id,
            "reporter": reporter,
            "record": record,
            "currency": event.currency,
            "created_at_s": at_s,
            "due_at_s": at_s,
        }
        for event, record in zip(events, ids, strict=True)
    ]
    connection.execute(insert(usage_outbox), rows)


def put_whole(database: Database, reporter: str, events: Iterable[UsageEvent]) -> None:
    """Write events into the outbox as versions before schema 2 did: whole."""
    rows = [{"event_id": event.request_id, "reporter": reporter, "payload": payload(event)} for event in events]
    database.call(lambda connection: connection.execute(insert(usage_outbox), rows))


def outbox_rows(database: Database) -> list[dict[str, Any]]:
    """What is in the outbox, oldest first."""
    query = usage_outbox.select().order_by(usage_outbox.c.id)
    return database.call(lambda connection: [dict(row) for row in connection.execute(query).mappings()])


class Receiver:
    """An HTTP receiver: `answer` makes the status (and header lines) of each delivery; None closes without a word.

    `got` lists the deliveries as (path, headers, body).
    """

    def __init__(self, answer: Callable[["Receiver", int], Awaitable[bytes | None]]) -> None:
        self.got: list[tuple[str, dict[str, str], bytes]] = []
        self.url = ""
        self.connections = 0
        self.running = 0
        self.most_at_once = 0
        self._answer = answer

    @property
    def ids(self) -> list[str]:
        """The `webhook-id` of each delivery."""
        return [headers["webhook-id"] for _, headers, _ in self.got]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        self.connections += 1
        try:
            while await self._exchange(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:-2])}
        body = await reader.readexactly(int(headers["content-length"]))
        self.got.append((head[0], headers, body))
        self.running += 1
        self.most_at_once = max(self.most_at_once, self.running)
        try:
            answer = await self._answer(self, len(self.got))
        finally:
            self.running -= 1
        if answer is None:
            return False
        status, _, lines = answer.partition(b"\n")
        writer.write(b"HTTP/1.1 %b X\r\n%bcontent-length: 15\r\n\r\n" % (status, lines) + b'{"status":"ok"}')
        await writer.drain()
        return True


def always(answer: bytes | None) -> Callable[[Receiver, int], Awaitable[bytes | None]]:
    """The same answer to everyone."""

    async def say(receiver: Receiver, number: int) -> bytes | None:
        return answer

    return say


def script(*answers: bytes | None) -> Callable[[Receiver, int], Awaitable[bytes | None]]:
    """One answer after the other, the last over and over."""

    async def say(receiver: Receiver, number: int) -> bytes | None:
        return answers[min(number, len(answers)) - 1]

    return say


@asynccontextmanager
async def receiving(
    answer: Callable[[Receiver, int], Awaitable[bytes | None]] | None = None,
) -> AsyncIterator[Receiver]:
    """A running receiver; by default everything is well."""
    receiver = Receiver(answer or always(b"200"))
    server = await asyncio.start_server(receiver.serve, "127.0.0.1", 0)
    receiver.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/llm-usage"
    try:
        yield receiver
    finally:
        server.close()
