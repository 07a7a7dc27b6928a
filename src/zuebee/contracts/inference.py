"""The one interface at every hop: `Inference.run(job)` gives the head of the reply, and then its data and its end.

The dispatcher, one backend, a client to another process and a test's fake are all `Inference`; one may wrap another.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Final, Literal, NamedTuple, Protocol, TypeAlias

from zuebee.contracts.errors import Refusal
from zuebee.contracts.heads import Dialect, HeadMemo, Operation

Headers: TypeAlias = list[tuple[bytes, bytes]]
"""Header fields in order, names in lower case."""

Priority = Literal["low", "normal", "high"]

UsageSource = Literal["provider", "partial", "estimate"]
"""Where a usage figure comes from: the server's final word, its word or our count so far in a reply that was cut,
or an estimate because the server said nothing. None is not 0."""


class Usage:
    """Tokens of one request, and who says so.

    `cached_tokens` of the prompt came from the server's cache, `written_tokens` of it went there; `reasoning_tokens` of
    the completion are thoughts. `odd`: the server's total and its parts do not fit together.
    """

    def __init__(
        self,
        prompt_tokens: int,
        completion_tokens: int,
        source: UsageSource,
        cached_tokens: int = 0,
        written_tokens: int = 0,
        reasoning_tokens: int = 0,
        *,
        odd: bool = False,
    ) -> None:
        self.prompt_tokens: Final = prompt_tokens
        self.completion_tokens: Final = completion_tokens
        self.source: Final = source
        self.cached_tokens: Final = cached_tokens
        self.written_tokens: Final = written_tokens
        self.reasoning_tokens: Final = reasoning_tokens
        self.odd: Final = odd

    @property
    def total_tokens(self) -> int:
        """Prompt and completion."""
        return self.prompt_tokens + self.completion_tokens

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Usage) and self._all() == other._all()

    def __hash__(self) -> int:
        return hash(self._all())

    def __repr__(self) -> str:
        return f"Usage{self._all()}"

    def _all(self) -> tuple[int, int, str, int, int, int]:
        return (
            self.prompt_tokens,
            self.completion_tokens,
            self.source,
            self.cached_tokens,
            self.written_tokens,
            self.reasoning_tokens,
        )


class Sender(Protocol):
    """On whose behalf a job runs. Empty: not known. The servers behind the gate may be told all but `key_id`."""

    @property
    def key_id(self) -> str: ...

    @property
    def user_id(self) -> str: ...

    @property
    def team_id(self) -> str: ...

    @property
    def organization_id(self) -> str: ...

    @property
    def plan(self) -> str: ...


class Job:
    """What is to be run: a client's request, its body as it came, in the client's `dialect`.

    `model` is what it is known by here, `asked_model` what stands in the body: an alias, perhaps.
    `path` is the canonical one (`/v1/chat/completions`), `query` what followed `?`. `stream_usage` tells whether the
    client itself asked for usage in a stream. `max_output_tokens` is the caller's own bound on one answer (None: it
    set none), `choices` how many answers it wants (`n`, or `best_of` where that is more) to each of its `prompts` (a
    text completion may have many). `media`: how many pictures, sounds and files are in it, `media_bytes` of the body
    are theirs. `priority` and `sender` are filled in once it is known who calls, `prompt_tokens` (the estimate) and
    `answer_bound` (what to bound each answer to, for the caller has not; 0: nothing) once it is admitted. `waiting` is
    true while the job stands in a queue and no backend has seen it. `memo`: of a head that
    came before. `places`: where
    fields stand in the body that the gateway may write itself (`Request.places` of the dialect). `early`: the place in
    the limits (`Place`) that was taken before the body was read. `doubts`: how many times it was sent to a backend that
    may have begun to work on it, and closed the connection without an answer. `shared`: besides the backend that
    runs it there is another one that could. `translation`: what
    was read of it for a backend of another dialect. `cut_for`: why the gateway itself has ended it.
    """

    def __init__(
        self,
        request_id: str,
        operation: Operation,
        path: str,
        query: bytes,
        headers: Headers,
        body: bytes,
        model: str,
        stream: bool,
        stream_usage: bool,
        max_output_tokens: int | None = None,
        choices: int = 1,
        prompts: int = 1,
        priority: Priority = "normal",
        sender: Sender | None = None,
        waiting: bool = False,
        memo: HeadMemo | None = None,
        media: int = 0,
        media_bytes: int = 0,
        prompt_tokens: int = 0,
        answer_bound: int = 0,
        places: dict[str, tuple[int, int]] | None = None,
        early: object = None,
        dialect: Dialect = "openai",
    ) -> None:
        self.request_id = request_id
        self.operation = operation
        self.path = path
        self.query = query
        self.headers = headers
        self.body = body
        self.model = model
        self.asked_model: Final = model
        self.stream = stream
        self.stream_usage = stream_usage
        self.max_output_tokens = max_output_tokens
        self.choices = choices
        self.prompts = prompts
        self.priority = priority
        self.sender = sender
        self.waiting = waiting
        self.memo = memo
        self.media = media
        self.media_bytes = media_bytes
        self.prompt_tokens = prompt_tokens
        self.answer_bound = answer_bound
        self.places = places
        self.early = early
        self.dialect: Dialect = dialect
        self.translation: object = None
        self.doubts = 0
        self.shared = False
        self.cut_for: Refusal | None = None


def is_bounded(job: Job) -> bool:
    """Whether its answers cannot grow beyond what is known."""
    return job.max_output_tokens is not None or job.answer_bound > 0


class Sink(Protocol):
    """Takes data as it comes, and counts it."""

    @property
    def written_bytes(self) -> int:
        """What went to the client so far."""
        ...

    def write(self, data: bytes) -> bool:
        """Take some; False when the sender should `drain` before it gives more."""
        ...

    async def drain(self) -> None:
        """Wait until more can be taken."""
        ...


class Head:
    """The reply begins: its status and header fields, and who gives it.

    `usage_so_far` answers at any moment what the reply has cost so far, for readers who leave before the `End`.
    `events`: the data is a stream of server-sent events. `pump`, where there is one, is the short way for the data:
    instead of being asked for each piece, the reply pushes all that is still to come into a sink, `keepalive`
    whenever it is quiet; afterwards the reply goes on with its `End`. `rest` is the whole body and the `End` of an
    answer that is all there: then no event follows.
    """

    def __init__(
        self,
        status: int,
        headers: Headers,
        backend: str,
        usage_so_far: Callable[[], "Usage | None"],
        events: bool = False,
        pump: "Callable[[Sink, bytes], Awaitable[None]] | None" = None,
        attempts: int = 1,
        backend_url: str = "",
        rest: "tuple[bytes, End] | None" = None,
    ) -> None:
        self.status = status
        self.headers = headers
        self.backend = backend
        self.usage_so_far = usage_so_far
        self.events = events
        self.pump = pump
        self.attempts = attempts
        self.backend_url = backend_url
        self.rest = rest


FailureCause = Literal["none", "connect_failure", "gone", "timeout", "died", "broken", "overload", "unwelcome"]
"""`died`: the connection was lost before the answer was there, with the server, say. `gone`: the same of a kept one,
which may have been closed before, and there was no new one to be had. `broken`: what it answered is no
answer. `overload`: it says that it failed, or has no room. `unwelcome`: the backend will have none of us (our key,
say). Another one may; this one will not change its mind."""


class End:
    """The reply is over.

    `usage` is what is known of it, if anything. `refusal` is set when the reply is not whole: before a `Head` it is
    the answer, after one the client must be told that the rest is missing. `cause` says how it failed, `sent` whether
    the backend may have begun to work. `last_words` end a whole stream for its reader (`[DONE]`): they are given when
    all is accounted for.
    """

    def __init__(
        self,
        usage: Usage | None = None,
        refusal: Refusal | None = None,
        cause: FailureCause = "none",
        sent: bool = True,
        backend: str = "",
        attempts: int = 1,
        backend_url: str = "",
        last_words: bytes = b"",
    ) -> None:
        self.usage = usage
        self.refusal = refusal
        self.cause = cause
        self.sent = sent
        self.backend = backend
        self.attempts = attempts
        self.backend_url = backend_url
        self.last_words = last_words


class Quiet:
    """Nothing came for a while: a moment to show the client that the stream is alive."""


QUIET: Final = Quiet()

Event: TypeAlias = Head | bytes | Quiet | End
Events: TypeAlias = AsyncGenerator[Event, None]
Reply: TypeAlias = tuple[Head | End, Events | None]
"""The first event, and those that follow: any number of `bytes` and `Quiet`, then `End`. None: nothing follows, for the
first is an `End` (there is no answer) or a `Head` with all the `rest`."""


async def begin(events: Events) -> Reply:
    """The reply that a generator of all its events gives. What is left of it has begun: closing it runs its end."""
    first = await anext(events)
    assert isinstance(first, Head | End)
    if isinstance(first, Head) and first.rest is None:
        return first, events
    await events.aclose()
    return first, None


class Inference(Protocol):
    """Whatever can answer a job."""

    async def run(self, job: Job) -> Reply:
        """Answer the job.

        Consume what follows under `contextlib.aclosing`: leaving early stops the work behind it. It raises nothing but
        cancellation; failures are in the `End`.
        """
        ...


# What is known of a model, whoever serves it.


class ModelFacts(NamedTuple):
    """In tokens; 0: not known. `context`: prompt and answer together. `answer`: the longest answer."""

    context: int = 0
    answer: int = 0


UNKNOWN = ModelFacts()

FactsOf: TypeAlias = Callable[[str], ModelFacts]
"""What is known of the model of that name; `UNKNOWN` of one that nobody knows."""
