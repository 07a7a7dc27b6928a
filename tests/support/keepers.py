"""What every keeper of answers must do, whatever its database: mixed into tests that give it one."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.fakes import make_job
from zuebee.answers.grouped import Grouped
from zuebee.answers.service import LEASE_S, AnswerKeeper
from zuebee.contracts.admission import Principal
from zuebee.contracts.answers import KeptAnswer
from zuebee.contracts.errors import Refusal
from zuebee.kit import clock
from zuebee.kit.database import Database
from zuebee.schema.tables import kept_answers, metadata

ANSWER = KeptAnswer(200, [(b"content-type", b"application/json")], b"{}" * 500, events=False)
CALLER = Principal("k", "key", "user", organisation_id="org")

Keepers = Callable[[], AnswerKeeper]


def keeper(url: str, **options: Any) -> AnswerKeeper:
    """A keeper on a database that gets its table."""
    database = Database(url, timeout_s=5)
    database.call(lambda connection: metadata.create_all(connection, [kept_answers]))
    grouped = Grouped(database, timeout_s=5, writers=1 if url.startswith("sqlite") else 4)
    return AnswerKeeper(grouped, **{"retention_s": 100.0, "max_bytes": 10_000, **options})


def code(found: object) -> str:
    assert isinstance(found, Refusal), found
    return found.code


class Now:
    """A wall clock that can be moved."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.s = 1_800_000_000.0
        patch.setattr(clock, "wall_s", lambda: self.s)


class KeeperSuite:
    """`keepers` makes keepers that share one database, as processes do."""

    @pytest.fixture
    def now(self, monkeypatch: pytest.MonkeyPatch) -> Now:
        return Now(monkeypatch)

    async def test_what_is_kept_is_found_by_the_same_request_only(self, keepers: Keepers, now: Now) -> None:
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

    async def test_it_is_kept_as_long_as_configured(self, keepers: Keepers, now: Now) -> None:
        keep = keepers()
        ticket = keep.ticket(CALLER, b"key", make_job())
        await keep.claim(ticket)
        await keep.keep(ticket, ANSWER)
        now.s += 99.0
        assert await keep.find(ticket) == ANSWER
        now.s += 1.5
        assert await keep.find(ticket) is None
        assert await keep.claim(keep.ticket(CALLER, b"key", make_job())) is None

    async def test_one_of_many_that_claim_at_once_wins(self, keepers: Keepers, now: Now) -> None:
        several = [keepers() for _ in range(3)]
        tickets = [one.ticket(CALLER, b"key", make_job()) for one in several for _ in range(4)]
        claims = await asyncio.gather(*(several[i // 4].claim(ticket) for i, ticket in enumerate(tickets)))
        assert claims.count(None) == 1
        assert {code(claim) for claim in claims if claim is not None} == {"idempotency_in_progress"}

    async def test_a_claim_of_another_request_is_told_apart(self, keepers: Keepers, now: Now) -> None:
        keep = keepers()
        assert await keep.claim(keep.ticket(CALLER, b"key", make_job())) is None
        other = keep.ticket(CALLER, b"key", make_job(body=b"other"))
        assert code(await keep.claim(other)) == "idempotency_key_reused"

    async def test_a_running_one_is_in_progress_until_its_owner_is_dead(self, keepers: Keepers, now: Now) -> None:
        dying, other = keepers(), keepers()
        lost = dying.ticket(CALLER, b"key", make_job())
        await dying.claim(lost)
        again = other.ticket(CALLER, b"key", make_job())
        refusal = await other.find(again)
        assert code(refusal) == "idempotency_in_progress"
        assert isinstance(refusal, Refusal)
        assert refusal.retry_after_s == 1.0
        now.s += LEASE_S - 1
        assert code(await other.find(again)) == "idempotency_in_progress"
        await dying._renew()
        now.s += LEASE_S - 1
        assert code(await other.find(again)) == "idempotency_in_progress", "a lease that is renewed lives on"
        now.s += 1.5
        assert await other.find(again) is None
        assert await other.claim(again) is None
        await dying.keep(lost, KeptAnswer(200, [], b"late", events=False))
        assert dying.failures == 1, "who lost its lease keeps nothing"
        await dying.free(lost)
        await other.keep(again, ANSWER)
        assert await dying.find(lost) == ANSWER

    async def test_what_is_freed_may_run_again(self, keepers: Keepers, now: Now) -> None:
        keep = keepers()
        ticket = keep.ticket(CALLER, b"key", make_job())
        await keep.claim(ticket)
        await keep.free(ticket)
        assert await keep.find(ticket) is None
        assert await keep.claim(keep.ticket(CALLER, b"key", make_job())) is None

    async def test_a_too_large_answer_is_remembered_as_such(self, keepers: Keepers, now: Now) -> None:
        keep = keepers()
        ticket = keep.ticket(CALLER, b"key", make_job())
        await keep.claim(ticket)
        await keep.keep(ticket, None)
        assert code(await keep.find(ticket)) == "idempotency_answer_too_large"

    async def test_what_has_expired_is_swept_and_nothing_else(self, keepers: Keepers, now: Now) -> None:
        keep = keepers()
        for number in range(30):
            ticket = keep.ticket(CALLER, b"%d" % number, make_job())
            await keep.claim(ticket)
            await keep.keep(ticket, ANSWER)
            now.s += 5
        await keep._sweep()
        left = await keep._run(lambda connection: len(connection.execute(kept_answers.select()).all()))
        assert 15 <= left <= 20
        assert await keep.find(ticket) == ANSWER

    async def test_the_table_alone_gives_nothing_away(self, keepers: Keepers, now: Now) -> None:
        keep = keepers()
        ticket = keep.ticket(CALLER, b"name-of-request", make_job(body=b"canary prompt"))
        await keep.claim(ticket)
        await keep.keep(ticket, KeptAnswer(200, [(b"x-canary", b"field")], b"canary answer", events=False))
        [row] = await keep._run(lambda connection: connection.execute(kept_answers.select()).all())
        for secret in (b"canary", b"name-of-request", b"org", b"user", ticket.secret, ticket.secret.hex().encode()):
            assert secret not in repr(tuple(row)).encode()
            assert secret not in bytes(row.answer)
        await keep._run(lambda connection: connection.execute(kept_answers.update().values(answer=b"\x01" + b"x" * 99)))
        assert code(await keep.find(ticket)) == "idempotency_unavailable"
