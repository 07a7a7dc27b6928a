"""The side of a request that its caller sees, as the pipeline knows it."""

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeAlias

from zuebee.contracts.errors import Refusal
from zuebee.contracts.inference import Headers, Job, Sink

Enter: TypeAlias = Callable[[], Awaitable[Refusal | None]]
"""Takes a place among the running requests for one whose body is not all here, or refuses it."""


class Client(Protocol):
    """Reads one request and writes its answer. One that `translates` may find that an answer cannot be told.

    `takes_comments`: while a stream has nothing to say, comments can show that it is alive.
    """

    takes_comments: bool

    @property
    def translates(self) -> bool:
        """Whether to ask `unfit` before an answer is accounted for."""
        ...

    async def unfit(self, last: bytes) -> Refusal | None:
        """Take the `last` of an answer that is no error, before it is accounted for. A refusal: it cannot be told.

        The last may be given or written again.
        """
        ...

    async def read_job(self, enter: Enter | None = None, holder: str = "", patience_s: float = 0.0) -> Job | Refusal:
        """The request, once its body is there.

        Where that has to be waited for (longer than `patience_s`), `enter` is asked before. What is here of it counts
        as `holder`'s.
        """
        ...

    async def start(self, status: int, headers: Headers, *, events: bool) -> None:
        """Send the head of the answer; `events`: its body goes out as it comes."""
        ...

    async def start_early(self, headers: Headers) -> None:
        """Send the head of a stream that is to come, if all goes well; nothing but comments was there of it yet."""
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
