"""What every keeper of answers must do, whatever its database: mixed into tests that give it one."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.fakes import make_job
from zuebee.contracts.admission import Principal
from zuebee.contracts.errors import Refusal
from zuebee.contracts.idempotency import IdempotencyRecord
from zuebee.idempotency.service import LEASE_S, DatabaseIdempotencyStore
from zuebee.idempotency.store import Grouped
from zuebee.lib.sql.database import Database, DatabaseError
from zuebee.schema.tables import kept_answers, metadata

ANSWER = IdempotencyRecord(200, [(b"content-type", b"application/json")], b"{}" * 500, events=False)
CALLER = Principal("k", "key", "user", organization_id="org")


class Keeper(DatabaseIdempotencyStore):
    """A keeper with what it stands on at hand."""

    def __init__(self, database: Database, grouped: Grouped, **options: Any) -> None:
        super().__init__(grouped, **options)
        self.database = database
        self.grouped = grouped


Keepers = Callable[..., Keeper]


def keeper(url: str, **options: Any) -> Keeper:
    """A keeper on a database that gets its table."""
    database = Database(url, timeout_s=5)
    database.call(lambda connection: metadata.create_all(connection, [kept_answers]))
    grouped = Grouped(database, timeout_s=5, writers=1 if url.startswith("sqlite") else 4)
    return Keeper(database, grouped, **{"retention_s": 100.0, "max_bytes": 10_000, **options})


def code(found: object) -> str:
    assert isinstance(found, Refusal), found
    return found.code


async def passes(keeper: Keeper, seconds: float) -> None:
    """As if so much time had passed for all rows, whoever's clock they go by."""
    times = {each: each - seconds for each in (kept_answers.c.created_at_s, kept_answers.c.expires_at_s)}
    await keeper.grouped.run(lambda connection: connection.execute(kept_answers.update().values(times)))


async def _broken(work: object) -> None:
    raise DatabaseError("down")


class KeeperSuite:
    """`keepers` makes keepers that share one database, as processes do."""

    async def test_what_is_kept_is_found_by_the_same_request_only(self, keepers: Keepers) -> None:
        first, second = keepers(), keepers()
        ticket = first.ticket(CALLER, b"key", make_job())
        assert await first.find(ticket) is None
        assert await first.claim(ticket) is None
        await first.keep(ticket, ANSWER)
        assert await second.find(second.ticket(CALLER, b"key", make_job())) == ANSWER
        for job in (make_job(body=b'{"model":"n"}'), make_job(path="/v1/completions"), make_job(query=b"a=1")):
            assert code(await second.find(second.ticket(CALLER, b"key", job))) == "idempotency_key_reused"
        strangers = [Principal("k2", "key", "user"), Principal("k"), Principal("k", "key", "user", "team")]
        for stranger in strangers:
            assert await second.find(second.ticket(stranger, b"key", make_job())) is None
        assert await second.find(second.ticket(CALLER, b"key2", make_job())) is None

    async def test_it_is_kept_as_long_as_configured(self, keepers: Keepers) -> None:
        keep = keepers()
        ticket = keep.ticket(CALLER, b"key", make_job())
        await keep.claim(ticket)
        await keep.keep(ticket, ANSWER)
        await passes(keep, 99.0)
        assert await keep.find(ticket) == ANSWER
        await passes(keep, 1.5)
        assert await keep.find(ticket) is None
        assert await keep.claim(keep.ticket(CALLER, b"key", make_job())) is None

    async def test_one_of_many_that_claim_at_once_wins(self, keepers: Keepers) -> None:
        several = [keepers() for _ in range(3)]
        tickets = [one.ticket(CALLER, b"key", make_job()) for one in several for _ in range(4)]
        claims = await asyncio.gather(*(several[i // 4].claim(ticket) for i, ticket in enumerate(tickets)))
        assert claims.count(None) == 1
        assert {code(claim) for claim in claims if claim is not None} == {"idempotency_in_progress"}

    async def test_a_claim_of_another_request_is_told_apart(self, keepers: Keepers) -> None:
        keep = keepers()
        assert await keep.claim(keep.ticket(CALLER, b"key", make_job())) is None
        other = keep.ticket(CALLER, b"key", make_job(body=b"other"))
        assert code(await keep.claim(other)) == "idempotency_key_reused"

    async def test_a_running_one_is_in_progress_and_lost_when_its_owner_is_dead(self, keepers: Keepers) -> None:
        dying, other = keepers(), keepers()
        lost = dying.ticket(CALLER, b"key", make_job())
        await dying.claim(lost)
        again = other.ticket(CALLER, b"key", make_job())
        refusal = await other.find(again)
        assert code(refusal) == "idempotency_in_progress"
        assert isinstance(refusal, Refusal)
        assert refusal.retry_after_s == 1.0
        await passes(other, LEASE_S - 1)
        assert code(await other.find(again)) == "idempotency_in_progress"
        await dying.tend()
        await passes(other, LEASE_S - 1)
        assert code(await other.find(again)) == "idempotency_in_progress", "a lease that is renewed lives on"
        await passes(other, 1.5)
        assert code(await other.find(again)) == "idempotency_answer_lost"
        assert code(await other.claim(again)) == "idempotency_answer_lost", "it is not run again"
        await other.tend(sweep=True)
        assert code(await other.find(again)) == "idempotency_answer_lost"
        await passes(other, 100.0)
        assert await other.find(again) is None
        assert await other.claim(again) is None

    async def test_who_was_only_slow_keeps_its_answer(self, keepers: Keepers) -> None:
        slow, other = keepers(), keepers()
        ticket = slow.ticket(CALLER, b"key", make_job())
        await slow.claim(ticket)
        await passes(slow, LEASE_S + 1)
        await slow.keep(ticket, ANSWER)
        assert await other.find(other.ticket(CALLER, b"key", make_job())) == ANSWER

    async def test_an_answer_that_could_not_be_kept_stays_known_as_such(
        self, keepers: Keepers, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        keep, other = keepers(), keepers()
        ticket, again = (each.ticket(CALLER, b"key", make_job()) for each in (keep, other))
        await keep.claim(ticket)
        with monkeypatch.context() as patch:
            patch.setattr(keep.grouped, "run", _broken)
            await keep.keep(ticket, ANSWER)
        assert code(await other.find(again)) == "idempotency_in_progress"
        await keep.tend()
        assert code(await other.find(again)) == "idempotency_answer_lost"
        await passes(other, 99.0)
        assert code(await other.claim(again)) == "idempotency_answer_lost"
        with monkeypatch.context() as patch:
            patch.setattr(keep.grouped, "run", _broken)
            await keep.tend()  # asks the database nothing: there is no more to tell

    @pytest.mark.parametrize("was_kept", [False, True])
    async def test_a_commit_that_was_not_seen(
        self, keepers: Keepers, monkeypatch: pytest.MonkeyPatch, was_kept: bool
    ) -> None:
        keep = keepers()
        ticket = keep.ticket(CALLER, b"key", make_job())
        run = keep.grouped.run

        async def unseen(work: Any) -> None:
            if was_kept:
                await run(work)
            raise DatabaseError("no answer in time")

        await keep.claim(ticket)
        with monkeypatch.context() as patch:
            patch.setattr(keep.grouped, "run", unseen)
            await keep.keep(ticket, ANSWER)
        await keep.tend()
        found = await keep.find(ticket)
        assert found == ANSWER if was_kept else code(found) == "idempotency_answer_lost"

    async def test_a_claim_that_was_not_seen_is_taken_back(
        self, keepers: Keepers, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        keep = keepers()
        ticket = keep.ticket(CALLER, b"key", make_job())
        run = keep.grouped.run

        async def unseen(work: Any) -> None:
            await run(work)
            raise DatabaseError("no answer in time")

        with monkeypatch.context() as patch:
            patch.setattr(keep.grouped, "run", unseen)
            assert code(await keep.claim(ticket)) == "idempotency_unavailable"
        await keep.tend()
        assert await keep.find(ticket) is None, "it never ran"

    async def test_whoever_leaves_while_claiming_leaves_the_key_free(self, keepers: Keepers) -> None:
        keep = keepers()
        for turns in range(12):
            ticket = keep.ticket(CALLER, b"key", make_job())
            claiming = asyncio.ensure_future(keep.claim(ticket))
            for _ in range(turns):
                await asyncio.sleep(0.0005)
            claiming.cancel()
            await asyncio.wait([claiming])
            await keep.free(ticket)
            assert await keep.find(ticket) is None

    async def test_an_answer_is_kept_for_a_caller_that_is_cut_meanwhile(self, keepers: Keepers) -> None:
        keep = keepers()
        ticket = keep.ticket(CALLER, b"key", make_job())
        await keep.claim(ticket)
        keeping = asyncio.ensure_future(keep.keep(ticket, ANSWER))
        await asyncio.sleep(0)
        keeping.cancel()
        async with asyncio.timeout(5):
            while await keep.find(ticket) != ANSWER:  # noqa: ASYNC110 - the keeper knows nothing of the test
                await asyncio.sleep(0.01)

    async def test_what_is_freed_may_run_again(self, keepers: Keepers) -> None:
        keep = keepers()
        ticket = keep.ticket(CALLER, b"key", make_job())
        await keep.claim(ticket)
        await keep.free(ticket)
        assert await keep.find(ticket) is None
        assert await keep.claim(keep.ticket(CALLER, b"key", make_job())) is None

    async def test_a_too_large_answer_is_remembered_as_such(self, keepers: Keepers) -> None:
        keep = keepers()
        ticket = keep.ticket(CALLER, b"key", make_job())
        await keep.claim(ticket)
        await keep.keep(ticket, None)
        assert code(await keep.find(ticket)) == "idempotency_answer_too_large"

    async def test_what_has_expired_is_swept_and_nothing_else(self, keepers: Keepers) -> None:
        keep = keepers()
        for number in range(30):
            ticket = keep.ticket(CALLER, b"%d" % number, make_job())
            await keep.claim(ticket)
            await keep.keep(ticket, ANSWER)
            await passes(keep, 5)
        await keep.tend(sweep=True)
        left = await keep.grouped.run(lambda connection: len(connection.execute(kept_answers.select()).all()))
        assert 15 <= left <= 20
        assert await keep.find(ticket) == ANSWER

    async def test_the_table_alone_gives_nothing_away(self, keepers: Keepers) -> None:
        keep = keepers()
        ticket = keep.ticket(CALLER, b"name-of-request", make_job(body=b"canary prompt"))
        await keep.claim(ticket)
        await keep.keep(ticket, IdempotencyRecord(200, [(b"x-canary", b"field")], b"canary answer", events=False))
        [row] = await keep.grouped.run(lambda connection: connection.execute(kept_answers.select()).all())
        for secret in (b"canary", b"name-of-request", b"org", b"user", ticket.secret, ticket.secret.hex().encode()):
            assert secret not in repr(tuple(row)).encode()
            assert secret not in bytes(row.answer)
        await keep.grouped.run(
            lambda connection: connection.execute(kept_answers.update().values(answer=b"\x01" + b"x" * 99))
        )
        assert code(await keep.find(ticket)) == "idempotency_unavailable"
