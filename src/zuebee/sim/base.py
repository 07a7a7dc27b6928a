"""Requests as they came over the wire, the steps and texts of replies, and the settings of the simulation."""

import enum
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from ssl import SSLContext
from typing import Any, NamedTuple

import msgspec

# What is done on a connection, as a sequence of steps; faults are rewritings of that sequence.

LAST_CHUNK = b"0\r\n\r\n"
DONE = b"data: [DONE]\n\n"


class Send(NamedTuple):
    """Write bytes; once they are written, that many events and completion tokens count as delivered."""

    data: bytes
    events: int = 0
    tokens: int = 0


class Wait(NamedTuple):
    """Do nothing for a while, counted from when the previous wait was due, so that a pace is kept."""

    delay_s: float


class Stop(enum.Enum):
    """Ways to end an exchange otherwise than by finishing it."""

    HANG = "hang"
    """Send nothing more until the peer leaves."""
    RESET = "reset"
    """Close with a TCP reset."""
    CLOSE = "close"
    """Close the connection properly, but in the middle of the message."""


Step = Send | Wait | Stop


def after_events(steps: Iterable[Step], count: int, insert: Iterable[Step], *, go_on: bool) -> Iterator[Step]:
    """Yield the steps up to `count` events, then those of `insert`, then the rest if `go_on`.

    A stream with fewer events than `count` passes unchanged.
    """
    events, inserted = 0, False
    for step in steps:
        if not inserted and events >= count:
            yield from insert
            inserted = True
            if not go_on:
                return
        yield step
        if isinstance(step, Send):
            events += step.events
    if not inserted and events >= count:
        yield from insert


def without_done(steps: Iterable[Step]) -> Iterator[Step]:
    """Yield the steps without the closing `[DONE]` event."""
    return (step for step in steps if not (isinstance(step, Send) and step.data == DONE))


def rewritten(steps: Iterable[Step], change: Callable[[bytes], bytes]) -> Iterator[Step]:
    """Yield the steps with the bytes of each changed."""
    for step in steps:
        yield step._replace(data=change(step.data)) if isinstance(step, Send) else step


def chunked(steps: Iterable[Step]) -> Iterator[Step]:
    """Yield the steps in the chunked transfer coding, each write its own chunk, with the closing chunk."""
    for step in steps:
        if isinstance(step, Send):
            yield Send(b"%x\r\n%b\r\n" % (len(step.data), step.data), step.events, step.tokens)
        else:
            yield step
            if isinstance(step, Stop):
                return
    yield Send(LAST_CHUNK)


def gzipped(steps: Iterable[Step]) -> Iterator[Step]:
    """Yield the steps as one gzip member, flushed after every write."""
    packer = zlib.compressobj(wbits=31)
    yield from rewritten(steps, lambda data: packer.compress(data) + packer.flush(zlib.Z_SYNC_FLUSH))
    yield Send(packer.flush())


def dripped(steps: Iterable[Step], interval_s: float) -> Iterator[Step]:
    """Yield the steps with every byte sent alone, `interval_s` apart."""
    pause = Wait(interval_s)
    for step in steps:
        if not isinstance(step, Send):
            yield step
            continue
        last = len(step.data) - 1
        for place in range(len(step.data)):
            yield (step._replace(data=step.data[place:]) if place == last else Send(step.data[place : place + 1]))
            yield pause


Headers = list[tuple[bytes, bytes]]

JSON = (b"content-type", b"application/json")
HTML = (b"content-type", b"text/html; charset=utf-8")
EVENT_STREAM = (b"content-type", b"text/event-stream; charset=utf-8")

_ERROR_TYPES = {
    400: "BadRequestError",
    401: "AuthenticationError",
    404: "NotFoundError",
    413: "BadRequestError",
    429: "RateLimitError",
    500: "InternalServerError",
    503: "ServiceUnavailableError",
}


@dataclass(slots=True, kw_only=True)
class SimRequest:
    """One request: the header names are lower case, the target is as it was sent."""

    method: str
    target: bytes
    headers: Headers
    body: bytes
    connection: int
    """The number of the connection, counted from 1."""
    keep_alive: bool = True
    chunks: bool = True
    """Whether the client understands the chunked coding (HTTP/1.1)."""

    @property
    def path(self) -> str:
        """The target without its query."""
        return self.target.partition(b"?")[0].decode("latin-1")

    def header(self, name: bytes) -> str | None:
        """Return the first value of a header, or None."""
        for key, value in self.headers:
            if key == name:
                return value.decode("latin-1")
        return None


@dataclass(slots=True, kw_only=True)
class Reply:
    """What is to be sent: a body, or events (each step that sends is one server-sent event)."""

    status: int = 200
    headers: Headers = field(default_factory=lambda: [JSON])
    body: bytes = b""
    events: Iterator[Step] | None = None
    delay_s: float = 0.0
    """How long the head of the reply takes."""
    tokens: int = 0
    """Completion tokens that `body` delivers."""


class SimRefused(Exception):
    """A request that is answered with an error body."""

    def __init__(self, status: int, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.param = status, message, param

    @property
    def reply(self) -> Reply:
        """The error as the server sends it."""
        return error_reply(self.status, self.message, param=self.param)


def error_body(status: int, message: str, *, param: str | None = None) -> bytes:
    """Return the JSON of an error as vLLM writes it: `code` is the HTTP status."""
    kind = _ERROR_TYPES.get(status, "InternalServerError" if status >= 500 else "BadRequestError")
    return msgspec.json.encode({"error": {"message": message, "type": kind, "param": param, "code": status}})


def error_reply(status: int, message: str, *, param: str | None = None) -> Reply:
    """Return a reply that carries an error."""
    return Reply(status=status, body=error_body(status, message, param=param))


def json_reply(value: Any, *, status: int = 200) -> Reply:
    """Return a reply that carries `value` as JSON."""
    return Reply(status=status, body=msgspec.json.encode(value))


# Deterministic text that reads like an answer, cut into tokens whose JSON is made once.
#
# A token is a word with the space before it, or a punctuation mark. The same seed always gives the same text.

# 31 sentences: a prime number, so that every stride from 1 to 30 visits all of them before it repeats.
_SENTENCES = """\
The river had carved its valley long before anyone thought of building a bridge.
A good measurement begins with a clear question, and ends with an honest error bar.
Most gardens do better with less water and more patience than their owners expect.
In the evening the harbour fills with small boats, each carrying a lamp at the bow.
The simplest explanation is usually worth testing before the clever one.
Bread dough rises faster in a warm kitchen, although the flavour prefers a slow night.
Every map leaves something out, and that is precisely what makes it useful.
The library keeps its oldest volumes in a cool room without windows.
When two clocks disagree, a third one seldom settles the argument.
Swallows return in April, and the barn is noisy again before the leaves are out.
A careful engineer writes down the assumption first and the formula second.
Snow muffled the street until the first tram of the morning rang its bell.
The committee met on Tuesday, agreed on the principle, and postponed the details.
Copper conducts heat so well that the handle of the pan has to be made of wood.
Old songs survive because they are easy to remember and hard to improve.
It helps to read the last page of a proof before the first one.
The lighthouse was automated years ago, but somebody still paints the door.
Small rivers freeze from the edges, while large ones freeze from the top.
A recipe is a promise that the author has already made the mistakes for you.
The orchestra tuned for a minute, and the hall fell silent without being asked.
Good tools disappear in the hand, whereas poor tools demand attention.
The mountain path is shorter, yet nobody who carries a load would choose it.
Bees prefer the meadow behind the school, where the clover is never mown.
The census counted houses first, then hearths, and only much later people.
A question asked twice is often two different questions.
The night train is slower on purpose, since nobody wants to arrive at four.
Paper remembers pressure, which is how the erased note was read at last.
Wind from the north clears the air, and the islands seem closer than they are.
The museum labels are short because visitors read standing up.
An estimate becomes a deadline as soon as somebody repeats it aloud.
Whoever planted these oaks did not expect to sit in their shade.
""".splitlines()


class Token(NamedTuple):
    """One token: its text, the JSON string of it, and the chat delta that carries it."""

    text: str
    json: bytes
    delta: bytes


def token(text: str) -> Token:
    """Return the token for `text`, its JSON made."""
    encoded = msgspec.json.encode(text)
    return Token(text, encoded, b'{"content":%b}' % encoded)


_CORPUS = [[token(word) for word in re.findall(r" [\w'-]+|[^\w\s]", " " + sentence)] for sentence in _SENTENCES]
_OPENINGS = [token(sentence[0].text.lstrip()) for sentence in _CORPUS]
_FULL_STOP = token(".")


def seed_of(parts: Iterable[str]) -> int:
    """Return the seed of a request: a checksum of what was asked, in order."""
    seed = 0
    for part in parts:
        seed = zlib.crc32(part.encode("utf-8", "surrogatepass"), seed)
    return seed


def tokens(seed: int, count: int, *, whole: bool) -> list[Token]:
    """Return `count` tokens of the text of `seed`; a `whole` text ends with a full stop."""
    size = len(_CORPUS)
    start, stride = seed % size, 1 + seed // size % (size - 1)
    words = (word for step in range(count) for word in _CORPUS[(start + step * stride) % size])
    found = list(islice(words, count))
    if found:
        found[0] = _OPENINGS[start]
    if whole and count > 1:
        found[-1] = _FULL_STOP
    return found


def cut_at(found: list[Token], stops: list[str]) -> list[Token] | None:
    """Return the tokens before the first of the `stops` strings, or None when none of them occurs."""
    text = "".join(word.text for word in found)
    places = [place for stop in stops if stop and (place := text.find(stop)) >= 0]
    if not places:
        return None
    end, kept = min(places), []
    for word in found:
        if end <= 0:
            break
        kept.append(word if len(word.text) <= end else token(word.text[:end]))
        end -= len(word.text)
    return kept


def count_tokens(text: str) -> int:
    """Return how many tokens a prompt of `text` counts for: one for every four bytes of UTF-8, rounded up."""
    return (len(text.encode("utf-8", "surrogatepass")) + 3) // 4


# What can be set on a simulated model server.

MODELS = ("sim-small", "sim-large")
"""The models that answer when nothing else is configured."""

CREATED_S = 1_767_225_600
"""Every `created` field (2026-01-01T00:00:00Z): answers to equal requests are equal, today and tomorrow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SimSettings:
    """How a simulated model server listens and how it answers."""

    host: str = "127.0.0.1"
    port: int = 0
    """0 takes any free port; `SimServer.port` says which."""
    models: tuple[str, ...] = MODELS
    tokens: int = 64
    """Length of an answer, unless the request sets a lower `max_tokens` or a `sim.tokens`."""
    tokens_per_s: float = 50.0
    """Speed of each choice of an answer; 0 means as fast as the client reads."""
    first_token_delay_s: float = 0.0
    """Time before the first token, in addition to the pace of `tokens_per_s`."""
    max_model_tokens: int = 131_072
    """Prompt and answer together may not be longer; a request for more is answered 400, as vLLM does."""
    max_body_bytes: int = 64 * 1024 * 1024
    embedding_dimensions: int = 64
    api_key: str | None = None
    """When set, `/v1` answers 401 to requests without `Authorization: Bearer <api_key>`."""
    ssl: SSLContext | None = None
    """When set, the server speaks TLS."""
    keep_requests: int = 1000
    """How many of the last requests `GET /_sim/requests` shows; 0 records none."""
