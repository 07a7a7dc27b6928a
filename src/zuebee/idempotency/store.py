"""The table of idempotency records, on SQLite and PostgreSQL. Each function is one transaction of its caller.

A row is `running` while its request runs: then `expires_at_s` is the end of a lease that its process renews. A lease
that ran out says that the request may have run, and what became of it is `lost`: it stays so for as long as an answer
would have been kept, and is never run again. After the run a row is `done`, `too_large` or `lost` until it expires. Who
may change a running row is told by `owner`. The time is the database's where several machines use it.
"""

import asyncio
import os
from collections import deque
from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Any, Literal, NamedTuple, TypeVar

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from sqlalchemy import ColumnElement, Connection, Double, cast, delete, extract, func, literal, select, update
from sqlalchemy.dialects import postgresql, sqlite

from zuebee.contracts.idempotency import IdempotencyRecord, Ticket
from zuebee.lib import clock
from zuebee.lib.sql.database import Database, DatabaseError
from zuebee.lib.tasks import Tasks
from zuebee.schema.tables import kept_answers as rows

SWEEP_ROWS = 500
TRIES = 3
"""A row that stood in the way may be gone by the time it is read."""

State = Literal["running", "done", "too_large", "lost"]


class Row(NamedTuple):
    """What is known of a key, and for how long."""

    fingerprint: str
    state: str
    owner: int
    answer: bytes | None
    left_s: float


def _now(connection: Connection) -> ColumnElement[float]:
    if connection.dialect.name == "postgresql":
        return cast(extract("epoch", func.clock_timestamp()), Double)
    return literal(clock.wall_s(), Double)


def _gone(now: ColumnElement[float], retention_s: float) -> ColumnElement[bool]:
    return (rows.c.expires_at_s <= now - retention_s) | ((rows.c.state != "running") & (rows.c.expires_at_s <= now))


def read(connection: Connection, row_id: str, retention_s: float) -> Row | None:
    """The row of a key; None if there is none, or it has expired."""
    now = _now(connection)
    columns = (rows.c.fingerprint, rows.c.state, rows.c.owner, rows.c.answer, rows.c.expires_at_s - now)
    found = connection.execute(select(*columns).where(rows.c.id == row_id, ~_gone(now, retention_s))).one_or_none()
    if found is None:
        return None
    row = Row(*found)
    return row._replace(state="lost") if row.state == "running" and row.left_s <= 0 else row


def claim(connection: Connection, ticket: Ticket, lease_s: float, retention_s: float) -> Row | None:
    """Enter a running row, in the place of an expired one if need be; the row that stands in the way, if one does."""
    now = _now(connection)
    connection.execute(delete(rows).where(rows.c.id == ticket.id, _gone(now, retention_s)))
    insert: Any = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
    enter = (
        insert(rows)
        .values(
            id=ticket.id, fingerprint=ticket.fingerprint, state="running", owner=ticket.owner, answer=None,
            created_at_s=now, expires_at_s=now + lease_s,
        )
        .on_conflict_do_nothing()
        .returning(rows.c.id)
    )  # fmt: skip
    for _ in range(TRIES):
        if connection.execute(enter).first() is not None:
            return None
        if (other := read(connection, ticket.id, retention_s)) is not None:
            return other
    return Row(ticket.fingerprint, "running", 0, None, 1.0)


def finish(connection: Connection, ticket: Ticket, state: State, answer: bytes | None, retention_s: float) -> bool:
    """What became of it; False if the row is not its own."""
    changed = connection.execute(
        update(rows)
        .where(rows.c.id == ticket.id, rows.c.owner == ticket.owner)
        .values(state=state, answer=answer, expires_at_s=_now(connection) + retention_s)
    )
    return bool(changed.rowcount)


def remove(connection: Connection, ticket: Ticket) -> None:
    """Take an own row away."""
    connection.execute(delete(rows).where(rows.c.id == ticket.id, rows.c.owner == ticket.owner))


def renew(connection: Connection, owners: Sequence[int], lease_s: float) -> None:
    """Renew the leases of running rows."""
    until = _now(connection) + lease_s
    connection.execute(
        update(rows).where(rows.c.owner.in_(owners), rows.c.state == "running").values(expires_at_s=until)
    )


def sweep(connection: Connection, retention_s: float) -> int:
    """Remove some of the expired rows; how many."""
    gone = _gone(_now(connection), retention_s)
    oldest = select(rows.c.id).where(gone).order_by(rows.c.expires_at_s).limit(SWEEP_ROWS)
    return connection.execute(delete(rows).where(rows.c.id.in_(oldest))).rowcount


# Small transactions of many requests, done together: one commit to disk for all that wait at a moment.

MAX_GROUP = 64
MAX_WAITING = 10_000

T = TypeVar("T")


class Grouped:
    """A database whose `run` may share its transaction with others. For works that never fail by themselves.

    SQLite has one writer: its groups are as large as what has come meanwhile. Elsewhere each work has a transaction of
    its own, as locks that several processes take in different orders would block one another.
    """

    def __init__(self, database: Database, *, timeout_s: float, writers: int, max_waiting: int = MAX_WAITING) -> None:
        self._database = database
        self._timeout_s = timeout_s
        self._writers = writers
        self._max_waiting = max_waiting
        self._max_group = MAX_GROUP if database.engine.dialect.name == "sqlite" else 1
        self._waiting: deque[tuple[Callable[[Connection], Any], asyncio.Future[Any]]] = deque()
        self._busy = 0
        self._tasks = Tasks()

    async def run(self, work: Callable[[Connection], T]) -> T:
        """Do `work`; when it returns, it is committed. Raises DatabaseError, also when that takes too long."""
        if len(self._waiting) >= self._max_waiting:
            raise DatabaseError("too much to do")
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.append((work, done))
        if self._busy < self._writers:
            self._busy += 1
            self._tasks.spawn(self._work(), "idempotency store: write")
        try:
            async with asyncio.timeout(self._timeout_s):
                return await done
        except TimeoutError:
            raise DatabaseError("no answer in time") from None

    async def aclose(self) -> None:
        """Finish what waits, and close the database."""
        await self._tasks.wait(self._timeout_s)
        await self._tasks.aclose()
        self._database.close()

    async def _work(self) -> None:
        try:
            while self._waiting:
                group = [self._waiting.popleft() for _ in range(min(len(self._waiting), self._max_group))]
                await self._do([(work, done) for work, done in group if not done.done()])
        finally:
            self._busy -= 1

    async def _do(self, group: list[tuple[Callable[[Connection], Any], asyncio.Future[Any]]]) -> None:
        try:
            results = await self._database.run(lambda connection: [work(connection) for work, _ in group])
        except Exception as error:
            for _, done in group:
                if not done.done():
                    done.set_exception(error)
            return
        for (_, done), result in zip(group, results, strict=True):
            if not done.done():
                done.set_result(result)


# How an answer is locked: whoever reads the table alone learns neither prompt nor answer.
#
# The key of each answer is derived from the request that asked for it (its caller, its `Idempotency-Key`, its body),
# with HKDF-SHA256 (RFC 5869), and is kept nowhere. AES-256-GCM with a random nonce (NIST SP 800-38D) locks the answer
# to its row. What can be guessed as a whole (caller, key and body) can be confirmed: a key should be random.

NONCE_BYTES = 12
_VERSION = b"\x01"
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(IdempotencyRecord).decode


class Unreadable(Exception):
    """What is kept was made by another request, or was changed."""


def name(*parts: bytes) -> str:
    """The name of a row: the same for the same parts, and for no others."""
    return sha256(b"zuebee answer" + _joined(parts)).hexdigest()


def root_secret(*parts: bytes) -> bytes:
    """What all keys of one request are derived from: 32 bytes."""
    return sha256(b"zuebee secret" + _joined(parts)).digest()


def fingerprint(root: bytes) -> str:
    """Shows whether two requests are the same, and nothing else."""
    return _derive(root, b"fingerprint").hex()


def seal(root: bytes, row: str, answer: IdempotencyRecord) -> bytes:
    """Lock an answer to its row."""
    nonce = os.urandom(NONCE_BYTES)
    return _VERSION + nonce + AESGCM(_derive(root, b"answer")).encrypt(nonce, _encode(answer), row.encode())


def unseal(root: bytes, row: str, sealed: bytes) -> IdempotencyRecord:
    """The answer that `seal` locked. Raises Unreadable."""
    nonce, body = sealed[1 : 1 + NONCE_BYTES], sealed[1 + NONCE_BYTES :]
    try:
        if sealed[:1] != _VERSION:
            raise Unreadable
        return _decode(AESGCM(_derive(root, b"answer")).decrypt(nonce, body, row.encode()))
    except (InvalidTag, ValueError, msgspec.DecodeError):
        raise Unreadable from None


def _derive(root: bytes, purpose: bytes) -> bytes:
    return HKDFExpand(SHA256(), 32, b"zuebee " + purpose).derive(root)


def _joined(parts: tuple[bytes, ...]) -> bytes:
    # With their lengths, so that no two lists of parts look the same.
    return b"".join(b"%d:%b" % (len(part), part) for part in parts)
