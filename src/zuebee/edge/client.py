"""The side of a request that its caller sees, as the pipeline knows it."""

from collections.abc import Callable
from typing import Protocol

from zuebee.contracts.errors import Refusal
from zuebee.contracts.inference import Headers, Job, Sink


class Client(Protocol):
    """Reads one request and writes its answer."""

    async def read_job(self) -> Job | Refusal:
        """The request, once its body is there."""
        ...

    async def start(self, status: int, headers: Headers, *, events: bool) -> None:
        """Send the head of the answer; `events`: its body goes out as it comes."""
        ...

    async def write(self, data: bytes) -> None:
        """Send a part of its body; waits while the client is slow."""
        ...

    def sink(self) -> Sink | None:
        """Where the events after the first may be pushed, if that can be; it counts what it was given."""
        ...

    async def finish(self, last: bytes = b"") -> None:
        """End the body, with `last` as its last part."""
        ...

    def cancel(self) -> None:
        """Cancel the task that serves this request."""
        ...

    def outlive(self, goes_on: Callable[[], bool]) -> None:
        """Ask `goes_on` when the client leaves: True lets the task run on, and nobody sees what it writes."""
        ...

    async def refuse(self, refusal: Refusal, extra: Headers | None = None) -> None:
        """Send an error answer with `extra` header fields. Only when nothing was sent yet."""
        ...

    async def answer(self, status: int, headers: Headers, body: bytes) -> None:
        """Send a whole answer. Only when nothing was sent yet."""
        ...
