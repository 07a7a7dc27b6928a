import asyncio
from collections.abc import Awaitable, Sequence
from typing import Any

import pytest

from tests.support.fakes import USAGE, FakeInference, Step, answer, failure, head, make_job, until
from zuebee.contracts.admission import ANONYMOUS, Caller, Grant, Principal, Settlement
from zuebee.contracts.errors import DRAINED, INTERNAL, KEY_REVOKED, NO_KEY, STORE_UNAVAILABLE, Refusal, bad_request
from zuebee.contracts.inference import QUIET, End, FailureCause, Headers, Job, Sink, Usage
from zuebee.edge.pipeline import Pipeline

BROKEN = Refusal(502, "api_error", "incomplete_answer", "It broke off.")
STREAM: Headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
CALLER = Caller("POST", "/v1/chat/completions", {}, "10.0.0.1")


def refusal(code: str) -> Refusal:
    return Refusal(429, "rate_limit_error", code, "No.")


class Desk:
    """An admission that says what it is told, and keeps what is settled; `log` is shared with the client."""

    def __init__(self, log: list[str]) -> None:
        self.who: Principal | Refusal | Exception = Principal("k", "key", "user")
        self.limit: Refusal | None = None
        self.settled: list[Settlement] = []
        self.as_settled: list[tuple[Any, ...]] = []
        self.held = 0
        self.hold: Pledge | None = None
        self.cut: Refusal | None = None
        self._log = log

    async def identify(self, caller: Caller) -> Principal | Refusal:
        if isinstance(self.who, Exception):
            raise self.who
        return self.who

    async def admit(self, caller: Caller, principal: Principal, job: Job) -> Grant | Refusal:
        if self.limit is not None:
            return self.limit
        self.held += 1
        return Grant(principal, hold=self.hold)

    async def attend(self, grants: Sequence[Grant]) -> Sequence[tuple[Grant, Refusal]]:
        return [(grant, self.cut) for grant in grants if self.cut is not None]

    def settle(self, settlement: Settlement) -> Awaitable[None] | None:
        self._log.append("settled")
        self.settled.append(settlement)
        self.as_settled.append((settlement.ending, settlement.status, settlement.code, settlement.usage))
        self.held -= settlement.grant is not None
        return self.hold.store() if self.hold is not None else None


class Pledge:
    """A hold that is on disk as soon as somebody waits for it, unless the disk has failed."""

    def __init__(self, log: list[str], *, fails: bool = False) -> None:
        self.secured = False
        self._log = log
        self._fails = fails

    async def wait(self) -> Refusal | None:
        await asyncio.sleep(0)
        self._log.append("hold on disk")
        self.secured = not self._fails
        return STORE_UNAVAILABLE if self._fails else None

    async def store(self) -> None:
        await asyncio.sleep(0)
        self._log.append("settlement on disk")
        self.secured = not self._fails


class Pushed:
    """A client's sink."""

    def __init__(self, visitor: "Visitor") -> None:
        self.written_bytes = 0
        self._visitor = visitor

    def write(self, data: bytes) -> bool:
        self._visitor.body += data
        self.written_bytes += len(data)
        return True

    async def drain(self) -> None:
        await self._visitor._step("drain")


class Visitor:
    """A client that writes down what it sees. At a `gone_at` (such as "write") it leaves: that call never returns."""

    def __init__(self, log: list[str], job: Job | Refusal) -> None:
        self.log = log
        self.gone_at = ""
        self.fails_at = ""
        self.status = 0
        self.headers: Headers = []
        self.body = b""
        self.pushed = Pushed(self)
        self.task: asyncio.Task[None] | None = None
        self._job = job

    async def _step(self, name: str) -> None:
        self.log.append(name)
        if name == self.gone_at:
            await asyncio.sleep(60)
        if name == self.fails_at:
            raise OSError("a defect")

    async def read_job(self) -> Job | Refusal:
        await self._step("read")
        return self._job

    async def start(self, status: int, headers: Headers, *, events: bool) -> None:
        self.status, self.headers = status, headers
        await self._step("start")

    async def write(self, data: bytes) -> None:
        self.body += data
        await self._step("write")

    def sink(self) -> Sink:
        return self.pushed

    def cancel(self) -> None:
        assert self.task is not None
        self.task.cancel()

    async def finish(self) -> None:
        await self._step("finish")

    async def refuse(self, refusal: Refusal, extra: Headers | None = None) -> None:
        self.status, self.headers = refusal.status, extra or []
        await self._step(f"refuse {refusal.code}")

    async def answer(self, status: int, headers: Headers, body: bytes) -> None:
        self.status, self.headers, self.body = status, headers, body
        await self._step("answer")


class Scene:
    """One request through a pipeline, and all that its parts saw."""

    def __init__(self, script: list[Step], *, stream: bool = True, job: Job | Refusal | None = None) -> None:
        self.log: list[str] = []
        self.desk = Desk(self.log)
        self.client = Visitor(self.log, job or make_job(stream=stream, body=b"x" * 40))
        self.inference = FakeInference(script)
        self.pipeline = Pipeline(self.desk, self.inference)
        self.settlement = Settlement("req_1", "POST", CALLER.route, CALLER.address, 0.0)

    async def run(self) -> tuple[Any, ...]:
        await self.pipeline.serve(CALLER, self.client, self.settlement)
        return self.outcome()

    async def run_until(self, step: str, *, leave: bool) -> tuple[Any, ...]:
        """Run up to a call that hangs; then the client leaves, or the gateway stops."""
        task = self.client.task = asyncio.ensure_future(self.pipeline.serve(CALLER, self.client, self.settlement))
        self.client.gone_at = step if step != "inference" else ""
        await until(lambda: self.inference.begun > 0 if step == "inference" else step in self.log)
        await asyncio.sleep(0)
        self.client.gone_at = ""
        task.cancel() if leave else self.pipeline.end_all()
        await task
        return self.outcome()

    def outcome(self) -> tuple[Any, ...]:
        """How it was settled; fails unless that was once, for good, and nothing is held."""
        assert len(self.desk.settled) == 1
        assert self.desk.settled[0] is self.settlement
        assert self.desk.held == 0
        assert self.inference.closed == self.inference.begun
        assert not self.pipeline.running
        said = self.desk.as_settled[0]
        now = (self.settlement.ending, self.settlement.status, self.settlement.code, self.settlement.usage)
        assert now == said, "a settlement changed after it was settled"
        assert self.settlement.duration_s >= 0
        return said


def streaming(*rest: Step) -> list[Step]:
    return [head(200, list(STREAM)), b"data: 1\n\n", *rest]


# --- endings ---


@pytest.mark.parametrize("stream", [True, False])
async def test_complete(stream: bool) -> None:
    scene = Scene(streaming(b"data: [DONE]\n\n", End(USAGE)) if stream else answer(), stream=stream)
    assert await scene.run() == ("complete", 200, "", USAGE)
    assert scene.log[-2:] == ["settled", "finish"]
    assert scene.settlement.principal.name == "key"
    assert (scene.settlement.model, scene.settlement.request_bytes) == ("m", 40)
    assert scene.settlement.response_bytes == len(scene.client.body)
    assert (scene.settlement.first_token_s >= 0) is stream
    assert (b"x-request-id", b"req_1") in scene.client.headers


async def test_a_stream_is_not_to_be_buffered_and_shows_that_it_lives() -> None:
    headers = [*STREAM, (b"cache-control", b"max-age=9")]
    scene = Scene([head(200, headers), QUIET, b"data: 1\n\n", End(USAGE)])
    await scene.run()
    assert (b"x-accel-buffering", b"no") in scene.client.headers
    assert [value for name, value in scene.client.headers if name == b"cache-control"] == [b"no-cache"]
    assert scene.client.body.startswith(b":")
    assert scene.settlement.response_bytes == len(b"data: 1\n\n")


@pytest.mark.requirement("A048")
async def test_an_error_of_the_backend_passes() -> None:
    scene = Scene(answer(422))
    assert await scene.run() == ("refused", 422, "backend_error", None)
    assert scene.client.body == b"{}"
    assert (b"x-should-retry", b"false") in scene.client.headers


@pytest.mark.requirement("A048", "A049")
@pytest.mark.parametrize(
    ("cause", "ending"),
    [
        ("broken", "upstream_broken"),
        ("connect_failure", "upstream_broken"),
        ("timeout", "timeout"),
        ("none", "refused"),
    ],
)
async def test_broken_before_the_head(cause: FailureCause, ending: str) -> None:
    scene = Scene(failure(cause))
    assert await scene.run() == (ending, 502, f"was_{cause}", None)
    assert scene.log[-2:] == ["settled", f"refuse was_{cause}"]
    assert scene.settlement.backend == "a"


@pytest.mark.requirement("A048", "A049")
@pytest.mark.parametrize(("cause", "ending"), [("broken", "upstream_broken"), ("timeout", "timeout")])
async def test_a_stream_broken_after_the_head_says_so(cause: FailureCause, ending: str) -> None:
    partial = Usage(7, 1, "partial")
    scene = Scene(streaming(End(partial, BROKEN, cause)))
    assert await scene.run() == (ending, 200, "incomplete_answer", partial)
    assert scene.client.body.startswith(b'data: 1\n\ndata: {"error":')
    assert b"[DONE]" not in scene.client.body
    assert scene.log[-3:] == ["settled", "write", "finish"]


async def test_an_answer_in_one_piece_broken_after_the_head_does_not_look_whole() -> None:
    scene = Scene([head(), b'{"a', End(None, BROKEN, "broken")], stream=False)
    assert await scene.run() == ("upstream_broken", 200, "incomplete_answer", None)
    assert "finish" not in scene.log


@pytest.mark.parametrize("by", ["key", "body", "limit"])
async def test_refused(by: str) -> None:
    scene = Scene(answer(), job=bad_request("No JSON.") if by == "body" else None)
    if by == "key":
        scene.desk.who = NO_KEY
    if by == "limit":
        scene.desk.limit = refusal("rate_limit_exceeded")
    wanted = {"key": (401, "missing_api_key"), "body": (400, "invalid_request"), "limit": (429, "rate_limit_exceeded")}
    assert await scene.run() == ("refused", *wanted[by], None)
    assert scene.log[-2:] == ["settled", f"refuse {wanted[by][1]}"]
    assert scene.inference.begun == 0
    assert ("read" in scene.log) is (by != "key")  # who has no key does not make us read a body


@pytest.mark.parametrize(
    ("step", "outcome"),
    [
        ("read", ("client_gone", 499, "client_closed_request", None)),
        ("inference", ("client_gone", 499, "client_closed_request", Usage(10, 0, "estimate"))),
        ("start", ("client_gone", 200, "client_closed_request", USAGE)),
        ("write", ("client_gone", 200, "client_closed_request", USAGE)),
        ("finish", ("complete", 200, "", USAGE)),
    ],
)
async def test_a_client_that_leaves(step: str, outcome: tuple[Any, ...]) -> None:
    scene = Scene([60.0] if step == "inference" else streaming(End(USAGE)))
    assert await scene.run_until(step, leave=True) == outcome
    assert not any(entry.startswith("refuse") for entry in scene.log)


async def test_a_refused_client_that_leaves_stays_refused() -> None:
    scene = Scene(answer())
    scene.desk.who = NO_KEY
    assert await scene.run_until("refuse missing_api_key", leave=True) == ("refused", 401, "missing_api_key", None)


@pytest.mark.parametrize(
    ("step", "outcome"),
    [
        ("read", ("shutdown", 503, DRAINED.code, None)),
        ("inference", ("shutdown", 503, DRAINED.code, Usage(10, 0, "estimate"))),
        ("write", ("shutdown", 200, DRAINED.code, USAGE)),
        ("finish", ("complete", 200, "", USAGE)),
    ],
)
async def test_shutdown(step: str, outcome: tuple[Any, ...]) -> None:
    scene = Scene([60.0] if step == "inference" else streaming(End(USAGE)))
    assert await scene.run_until(step, leave=False) == outcome
    if step in ("read", "inference"):
        assert scene.log[-2:] == ["settled", f"refuse {DRAINED.code}"]
    elif step == "write":
        assert scene.client.body.startswith(b'data: 1\n\ndata: {"error":')
        assert scene.log[-3:] == ["settled", "write", "finish"]
    else:
        assert scene.client.body == b"data: 1\n\n"


async def test_a_shutdown_cuts_an_answer_in_one_piece_visibly() -> None:
    scene = Scene([head(), b'{"a', End(USAGE)], stream=False)
    assert (await scene.run_until("write", leave=False))[0] == "shutdown"
    assert scene.client.body == b'{"a'
    assert "finish" not in scene.log


@pytest.mark.parametrize(
    ("script", "fails_at", "status", "told"),
    [
        ([RuntimeError("secret")], "", 500, True),
        (streaming(RuntimeError("secret")), "", 200, False),
        (answer(), "read", 500, True),
        (answer(), "write", 200, False),
    ],
)
async def test_a_defect(script: list[Step], fails_at: str, status: int, told: bool) -> None:
    scene = Scene(script)
    scene.client.fails_at = fails_at
    with pytest.raises((RuntimeError, OSError)):
        await scene.run()
    assert scene.outcome()[:3] == ("failed", status, INTERNAL.code)
    assert (f"refuse {INTERNAL.code}" in scene.log) is told
    assert "secret" not in INTERNAL.message


async def test_a_defect_behind_the_end_changes_nothing_that_was_settled() -> None:
    scene = Scene(answer())
    scene.client.fails_at = "finish"
    with pytest.raises(OSError, match="a defect"):
        await scene.run()
    assert scene.outcome() == ("complete", 200, "", USAGE)


async def test_a_broken_key_source_is_a_defect() -> None:
    scene = Scene(answer())
    scene.desk.who = RuntimeError("no source")
    with pytest.raises(RuntimeError, match="no source"):
        await scene.run()
    assert scene.outcome() == ("failed", 500, INTERNAL.code, None)


# --- the short way ---


def pumped(*blocks: bytes, error: bool = False) -> list[Step]:
    """A stream whose events after the first are pushed."""

    async def pump(sink: Sink, heartbeat: bytes) -> None:
        for block in (heartbeat, *blocks):
            sink.write(block)
            await sink.drain()

    begun = head(200, list(STREAM))
    begun.pump = pump
    return [begun, b"data: 1\n\n", End(USAGE, BROKEN if error else None, "broken" if error else "none")]


@pytest.mark.requirement("A034", "A048")
@pytest.mark.parametrize("error", [False, True])
async def test_pushed_events_come_before_the_end(error: bool) -> None:
    scene = Scene([])
    scene.inference = scene.pipeline.inference = FakeInference(pumped(b"data: 2\n\n", error=error))
    assert (await scene.run())[0] == ("upstream_broken" if error else "complete")
    events = [event for event in scene.client.body.split(b"\n\n") if not event.startswith(b":")]
    assert events[:2] == [b"data: 1", b"data: 2"]
    assert (b'"error"' in scene.client.body) is error
    assert scene.settlement.response_bytes >= len(b"data: 1\n\ndata: 2\n\n")
    assert scene.settlement.first_token_s >= 0


@pytest.mark.parametrize("leave", [True, False])
async def test_an_end_while_events_are_pushed(leave: bool) -> None:
    scene = Scene([])
    scene.inference = scene.pipeline.inference = FakeInference(pumped(b"data: 2\n\n"))
    assert (await scene.run_until("drain", leave=leave))[0] == ("client_gone" if leave else "shutdown")
    assert (b'"error"' in scene.client.body) is not leave
    assert scene.settlement.response_bytes > len(b"data: 1\n\n")


# --- what is no inference ---


async def test_known_callers_get_an_answer_and_others_do_not() -> None:
    async def give() -> tuple[int, bytes]:
        return 200, b"{}"

    scene = Scene([])
    await scene.pipeline.serve_known(CALLER, scene.client, scene.settlement, give)
    assert scene.outcome() == ("complete", 200, "", None)
    assert scene.log == ["settled", "answer"]
    scene = Scene([])
    scene.desk.who = NO_KEY
    await scene.pipeline.serve_known(CALLER, scene.client, scene.settlement, give)
    assert scene.outcome() == ("refused", 401, NO_KEY.code, None)
    assert scene.settlement.principal == ANONYMOUS


async def test_what_is_no_route_is_settled_too() -> None:
    scene = Scene([])
    await scene.pipeline.refuse(scene.client, scene.settlement, refusal("c"), [(b"allow", b"GET")])
    assert scene.outcome() == ("refused", 429, "c", None)
    assert scene.log == ["settled", "refuse c"]
    assert scene.client.headers == [(b"allow", b"GET")]


# --- holds ---


@pytest.mark.parametrize("stream", [True, False])
async def test_no_byte_leaves_before_the_hold_is_on_disk_and_no_end_before_the_settlement(stream: bool) -> None:
    scene = Scene(streaming(b"data: [DONE]\n\n", End(USAGE)) if stream else answer(), stream=stream)
    scene.desk.hold = Pledge(scene.log)
    assert await scene.run() == ("complete", 200, "", USAGE)
    if stream:
        assert scene.log.index("hold on disk") < scene.log.index("start")
    assert scene.log[-3:] == ["settled", "settlement on disk", "finish"]


async def test_a_long_answer_waits_for_the_hold_with_its_second_piece() -> None:
    scene = Scene([head(), b'{"a', b'":1}', End(USAGE)], stream=False)
    scene.desk.hold = Pledge(scene.log)
    await scene.run()
    first, second = (index for index, step in enumerate(scene.log) if step == "write")
    assert first < scene.log.index("hold on disk") < second  # the first piece is held back by the client


async def test_an_answer_that_cannot_be_accounted_for_is_not_given_away() -> None:
    scene = Scene(streaming(End(USAGE)))
    scene.desk.hold = Pledge(scene.log, fails=True)
    assert (await scene.run())[:3] == ("refused", 503, "store_unavailable")
    assert scene.client.body == b""
    whole = Scene(answer(), stream=False)
    whole.desk.hold = Pledge(whole.log, fails=True)
    await whole.run()
    assert whole.log[-1] == "refuse store_unavailable"
    assert "finish" not in whole.log


async def test_a_running_stream_that_may_not_go_on_is_cut_and_told_why() -> None:
    scene = Scene(streaming(End(USAGE)))
    scene.client.gone_at = "write"
    task = scene.client.task = asyncio.ensure_future(scene.pipeline.serve(CALLER, scene.client, scene.settlement))
    await until(lambda: "write" in scene.log)
    await scene.pipeline.attend()
    assert not task.done()
    scene.desk.cut = KEY_REVOKED
    scene.client.gone_at = ""
    await scene.pipeline.attend()
    await task
    assert scene.outcome() == ("cut", 200, "key_revoked", USAGE)
    assert b"key_revoked" in scene.client.body
