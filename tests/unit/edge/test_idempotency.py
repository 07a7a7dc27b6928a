import asyncio
from collections.abc import Awaitable, Callable
from hashlib import sha256

import pytest

from tests.support.fakes import make_job, until
from zuebee.contracts.admission import Caller, Principal
from zuebee.contracts.errors import INTERNAL, STORE_UNAVAILABLE, Refusal
from zuebee.contracts.idempotency import REUSED, IdempotencyRecord, Ticket
from zuebee.contracts.inference import Job
from zuebee.edge.idempotency import HEADER, INVALID_KEY, LOST, Attempt, Recording, Replays, is_signed_for

PRINCIPAL = Principal("k")
LIMIT = Refusal(429, "rate_limit_error", "c", "m")
BROKEN = Refusal(502, "api_error", "backend_broken", "m")
ANSWER = IdempotencyRecord(200, [], b"ok", events=False)

Play = Callable[[Recording], Awaitable[Refusal | None]]


class Drawer:
    """`Answers` in a dictionary; `log` says what was asked."""

    max_bytes = 100

    def __init__(self) -> None:
        self.log: list[str] = []
        self.kept: dict[str, IdempotencyRecord | Refusal | None] = {}
        self.busy: Refusal | None = None

    def ticket(self, principal: Principal, key: bytes, job: Job) -> Ticket:
        return Ticket(key.decode(), job.body.decode(), b"", 1)

    async def find(self, ticket: Ticket) -> IdempotencyRecord | Refusal | None:
        await asyncio.sleep(0)
        return self.kept.get(ticket.id)

    async def claim(self, ticket: Ticket) -> Refusal | None:
        self.log.append("claim")
        return self.busy

    async def keep(self, ticket: Ticket, answer: IdempotencyRecord | None) -> None:
        await asyncio.sleep(0)
        self.log.append("keep" if answer is not None else "too large")
        self.kept[ticket.id] = answer

    async def free(self, ticket: Ticket) -> None:
        await asyncio.sleep(0)
        self.log.append("free")


class Scene:
    def __init__(self, status: int = 200, refusal: Refusal | None = None, body: bytes = b"ok") -> None:
        self.drawer = Drawer()
        self.replays = Replays(self.drawer)
        self.runs = 0
        self.go = asyncio.Event()
        self.go.set()
        self.played: list[int] = []
        self.status, self.refusal, self.body = status, refusal, body

    async def execute(self, attempt: Attempt) -> Refusal | None:
        self.runs += 1
        if (busy := await attempt.claim()) is not None:
            return busy
        await self.go.wait()
        if self.refusal is None:
            attempt.recording.begin(self.status, [], events=False)
            attempt.recording.add(self.body)
            await attempt.decide()
            attempt.recording.whole = True
        return self.refusal

    async def play(self, recording: Recording) -> Refusal | None:
        await until(lambda: recording.over)
        if recording.refusal is None:
            assert recording.head is not None
            self.played.append(recording.head[0])
        return recording.refusal

    async def ask(self, key: bytes = b"key", body: bytes = b"b") -> Refusal | None:
        job = make_job(body=body)
        return await self.replays.answer(key, PRINCIPAL, job, "req_1", self.execute, self.play)


async def test_an_answer_is_kept_and_played_again() -> None:
    scene = Scene()
    assert [await scene.ask() for _ in range(3)] == [None, None, None]
    assert (scene.runs, scene.played, scene.drawer.log) == (1, [200, 200], ["claim", "keep"])
    assert scene.replays.counts == {"run": 1, "joined": 0, "replayed": 2, "refused": 0}


async def test_who_comes_meanwhile_joins() -> None:
    scene = Scene()
    scene.go.clear()
    asks = [asyncio.ensure_future(scene.ask()) for _ in range(5)]
    await asyncio.sleep(0.01)
    assert await scene.ask(body=b"other") == REUSED
    scene.go.set()
    assert await asyncio.gather(*asks) == [None] * 5
    assert (scene.runs, scene.played) == (1, [200] * 4)


@pytest.mark.parametrize("key", [b"", b"x" * 256, b"a\x00", b"\xc3\xa9", b"a\x7f"])
async def test_a_key_that_is_none(key: bytes) -> None:
    scene = Scene()
    assert await scene.ask(key) == INVALID_KEY
    assert scene.runs == 0


async def test_two_keys_are_none() -> None:
    scene = Scene()
    job = make_job(headers=[(HEADER, b"a"), (HEADER, b"b")])
    refusal = await scene.replays.answer(b"b", PRINCIPAL, job, "req_1", scene.execute, scene.play)
    assert isinstance(refusal, Refusal)
    assert (refusal.status, refusal.code, refusal.param) == (400, "invalid_idempotency_key", "Idempotency-Key")
    assert scene.runs == 0


@pytest.mark.parametrize(
    ("status", "kept"), [(200, True), (500, True), (504, True), (503, False), (429, False), (400, False)]
)
async def test_only_what_may_have_been_billed_is_kept(status: int, kept: bool) -> None:
    scene = Scene(status)
    await scene.ask()
    assert scene.drawer.log == ["claim", "keep" if kept else "free"]
    await scene.ask()
    assert scene.replays.counts["joined"] == 0, "it runs no more"


async def test_a_too_large_answer_is_noted() -> None:
    scene = Scene(body=b"x" * 101)
    await scene.ask()
    assert scene.drawer.log == ["claim", "too large"]


@pytest.mark.parametrize(
    ("refusal", "kept"), [(BROKEN, True), (LIMIT, False), (STORE_UNAVAILABLE, False), (INTERNAL, False)]
)
async def test_an_error_is_kept_if_it_may_have_cost_something(refusal: Refusal, kept: bool) -> None:
    scene = Scene(refusal=refusal)
    assert await scene.ask() == refusal
    assert scene.drawer.log == ["claim", "keep" if kept else "free"]
    if kept:
        answer = scene.drawer.kept["key"]
        assert isinstance(answer, IdempotencyRecord)
        assert (answer.status, (b"x-request-id", b"req_1") in answer.headers) == (502, True)


async def test_a_request_that_was_never_claimed_leaves_no_trace() -> None:
    scene = Scene()
    scene.drawer.kept["key"] = LIMIT
    assert await scene.ask() == LIMIT
    assert (scene.runs, scene.drawer.log) == (0, [])


async def test_a_claim_that_another_process_has_is_not_run() -> None:
    scene = Scene()
    scene.drawer.busy = LOST
    assert await scene.ask() == LOST
    assert scene.drawer.log == ["claim", "free"]


async def test_one_that_is_cut_frees_its_key_and_tells_those_who_joined() -> None:
    scene = Scene()
    scene.go.clear()
    first = asyncio.ensure_future(scene.ask())
    second = asyncio.ensure_future(scene.ask())
    await until(lambda: scene.drawer.log == ["claim"])
    first.cancel()
    assert await second == LOST
    await until(lambda: scene.drawer.log == ["claim", "free"])
    for _ in range(5):  # turns enough for what ends the first
        await asyncio.sleep(0)
    scene.go.set()
    assert await scene.ask() is None
    await scene.replays.aclose()


async def test_an_end_waits_for_keys_that_are_being_freed() -> None:
    scene = Scene()
    scene.go.clear()
    first = asyncio.ensure_future(scene.ask())
    await until(lambda: scene.drawer.log == ["claim"])
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    await scene.replays.aclose()
    assert scene.drawer.log == ["claim", "free"]


async def test_a_signature_must_be_for_the_body() -> None:
    caller = Caller("POST", "/", {}, "")
    assert await is_signed_for(caller, b"body")
    caller.body_sha256 = sha256(b"body").hexdigest().upper()
    assert await is_signed_for(caller, b"body")
    assert not await is_signed_for(caller, b"other")
