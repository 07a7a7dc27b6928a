"""The HTTP edge with fakes behind it."""

from collections.abc import Sequence
from typing import Any

from tests.support.asgi import AsgiRequest
from tests.support.fakes import FakeInference, Step, answer
from zuebee.contracts.admission import Caller, Grant, Permit, Principal, Settlement
from zuebee.contracts.errors import NO_KEY, Refusal
from zuebee.contracts.inference import Job, Reply
from zuebee.edge.client import TrustedProxies
from zuebee.edge.cors import Cors
from zuebee.edge.http import HttpEdge
from zuebee.edge.operator import Operator, OperatorPorts, Readiness
from zuebee.edge.pipeline import Pipeline

KEY = (b"authorization", b"Bearer k")


class Doorman:
    """Lets everybody in who shows KEY, and keeps the settlements."""

    def __init__(self) -> None:
        self.settled: list[Settlement] = []
        self.callers: list[Caller] = []
        self.screened: Refusal | None = None
        self.unusable: dict[str, Refusal] = {}

    def screen(self, caller: Caller) -> Refusal | None:
        return self.screened

    async def identify(self, caller: Caller) -> Principal | Refusal:
        self.callers.append(caller)
        return Principal("k", "key", "user") if KEY in caller.fields.items() else NO_KEY

    def may_use(self, principal: Principal, model: str) -> Refusal | None:
        return self.unusable.get(model)

    async def enter(self, caller: Caller, principal: Principal) -> Permit | Refusal | None:
        return None

    def leave(self, early: Permit) -> None: ...

    async def admit(self, caller: Caller, principal: Principal, job: Job) -> Grant | Refusal:
        return Grant(principal)

    async def attend(self, grants: Sequence[Grant], early: Sequence[Permit] = ()) -> Sequence[tuple[Grant, Refusal]]:
        return []

    def settle(self, settlement: Settlement) -> None:
        self.settled.append(settlement)


class KeepsJobs(FakeInference):
    """Answers, and keeps what it was asked."""

    def __init__(self, script: list[Step]) -> None:
        super().__init__(script)
        self.jobs: list[Job] = []

    async def run(self, job: Job) -> Reply:
        self.jobs.append(job)
        return await super().run(job)


class FakeEdge:
    """An edge. `readiness` and `cards` are what its ports say."""

    def __init__(
        self, *, metrics_path: str | None = "/metrics", metrics_token: str | None = None, origins: Sequence[str] = ()
    ) -> None:
        self.doorman = Doorman()
        self.inference = KeepsJobs(answer())
        self.readiness = Readiness(True, "", 2, 2)
        self.cards: list[dict[str, Any]] = [{"id": "m"}, {"id": "org/m:1"}]
        pipeline = Pipeline(self.doorman, self.inference)
        ports = OperatorPorts(
            lambda: self.readiness, lambda _key, _job: (7, 70), self._count, list, self._models, self._exposition
        )
        operator = Operator(pipeline, ports)
        operator.show_metrics(metrics_path, metrics_token)
        proxies = TrustedProxies(["10.0.0.0/8"])
        self.app = HttpEdge(pipeline, operator, max_body_bytes=100, proxies=proxies, cors=Cors(origins))

    async def _exposition(self, accept: str) -> tuple[bytes, str]:
        return b"# " + accept.encode(), "text/x"

    async def _count(self, job: Job) -> bytes | None:
        return None

    async def _models(self) -> list[dict[str, Any]]:
        return self.cards

    async def ask(self, method: str, path: str, body: bytes = b"", *headers: tuple[bytes, bytes]) -> AsgiRequest:
        """One request, answered."""
        request = AsgiRequest(method, path, body, headers=list(headers))
        await self.app(request.scope, request.receive, request.send)
        return request
