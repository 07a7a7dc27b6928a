"""One request through a pipeline of fakes: an admission, a client and an inference that write down what they see."""

import asyncio
from collections.abc import Awaitable, Callable, Generator, Sequence
from typing import Any

from tests.support.fakes import FakeInference, Step, head, make_job, until
from zuebee.contracts.admission import Caller, Grant, Permit, Principal, Settlement
from zuebee.contracts.errors import STORE_UNAVAILABLE, Refusal
from zuebee.contracts.inference import Headers, Job, Sink
from zuebee.dialects.hub.wires import OPENAI
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

    async def enter(self, caller: Caller, principal: Principal) -> Permit | Refusal | None:
        return None

    def leave(self, early: Permit) -> None: ...

    async def admit(self, caller: Caller, principal: Principal, job: Job) -> Grant | Refusal:
        if self.limit is not None:
            return self.limit
        self.held += 1
        return Grant(principal, hold=self.hold, prompt_tokens=12)

    async def attend(self, grants: Sequence[Grant], early: Sequence[Permit] = ()) -> Sequence[tuple[Grant, Refusal]]:
        return [(grant, self.cut) for grant in grants if self.cut is not None]

    def settle(self, settlement: Settlement) -> Awaitable[None] | None:
        self._log.append("settled")
        self.settled.append(settlement)
        self.as_settled.append((settlement.termination_reason, settlement.status, settlement.code, settlement.usage))
        self.held -= settlement.grant is not None
        return Stored(self._log) if self.hold is not None else None


class Pledge:
    """A hold that is on disk as soon as somebody waits for it, unless the disk has failed.

    `joins`: together with its settlement, from which there is no way back once it is asked for; `slow`: not soon.
    """

    def __init__(self, log: list[str], *, fails: bool = False, joins: bool = False, slow: bool = False) -> None:
        self.secured = False
        self.joined = False
        self._log = log
        self._fails = fails
        self._joins = joins
        self._slow = slow

    async def wait(self, settlement: Settlement | None = None) -> Refusal | None:
        self.joined = self._joins and settlement is not None and not self._fails
        self._log.append("hold on its way")
        await asyncio.sleep(60 if self._slow else 0)
        self._log.append("hold on disk")
        self.secured = not self._fails
        return STORE_UNAVAILABLE if self._fails else None


class Stored:
    """A settlement that is committed as soon as somebody waits for it."""

    def __init__(self, log: list[str]) -> None:
        self._log = log

    def __await__(self) -> Generator[Any, None, None]:
        yield from asyncio.sleep(0).__await__()
        self._log.append("settlement committed")


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

    translates = False
    wire = OPENAI

    def __init__(self, log: list[str], job: Job | Refusal) -> None:
        self.takes_comments = True
        self.log = log
        self.gone_at = ""
        self.fails_at = ""
        self.status = 0
        self.headers: Headers = []
        self.body = b""
        self.pushed = Pushed(self)
        self.task: asyncio.Task[None] | None = None
        self.goes_on: Callable[[], bool] | None = None
        self._job = job

    async def _step(self, name: str) -> None:
        self.log.append(name)
        if name == self.gone_at:
            await asyncio.sleep(60)
        if self.fails_at in (name, f"{name} {self.log.count(name)}"):
            raise OSError("a defect")

    async def read_job(self, *entering: Any) -> Job | Refusal:
        await self._step("read")
        return self._job

    async def start(self, status: int, headers: Headers, *, events: bool) -> None:
        self.status, self.headers = status, headers
        await self._step("start")

    async def start_early(self, headers: Headers) -> None:
        await self.start(200, headers, events=True)

    async def write(self, data: bytes) -> None:
        self.body += data
        await self._step("write")

    def sink(self) -> Sink:
        return self.pushed

    def cancel(self) -> None:
        assert self.task is not None
        self.task.cancel()

    async def unfit(self, last: bytes) -> Refusal | None:
        return None

    def outlive(self, goes_on: Callable[[], bool]) -> None:
        self.goes_on = goes_on

    async def finish(self, last: bytes = b"") -> None:
        self.body += last
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
        now = (self.settlement.termination_reason, self.settlement.status, self.settlement.code, self.settlement.usage)
        assert now == said, "a settlement changed after it was settled"
        assert self.settlement.duration_s >= 0
        return said


def streaming(*rest: Step) -> list[Step]:
    return [head(200, list(STREAM)), b"data: 1\n\n", *rest]
