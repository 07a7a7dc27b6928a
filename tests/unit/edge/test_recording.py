import asyncio
import sys
from typing import Any

from tests.support.memory import alive
from zuebee.contracts.errors import Refusal
from zuebee.contracts.idempotency import TOO_LARGE, IdempotencyRecord, Ticket
from zuebee.contracts.inference import Headers, Job, Sink
from zuebee.dialects import sse
from zuebee.dialects.hub.wires import OPENAI
from zuebee.edge.idempotency import LOST, PIECE_BYTES, REPLAYED, Recording, RecordingClient

TICKET = Ticket("id", "f", b"", 1)
STREAM: Headers = [(b"content-type", b"text/event-stream")]
JSON: Headers = [(b"content-type", b"application/json"), (b"content-length", b"6")]


class Reader:
    """A client that keeps what it is sent."""

    wire = OPENAI

    def __init__(self) -> None:
        self.status = 0
        self.headers: Headers = []
        self.body = b""
        self.writes = 0
        self.finished = False
        self.pushed = b""
        self.written_bytes = 0

    async def read_job(self, *entering: Any) -> Job | Refusal:
        return LOST

    async def start(self, status: int, headers: Headers, *, events: bool) -> None:
        self.status, self.headers = status, headers

    takes_comments = True

    async def start_early(self, headers: Any) -> None:
        await self.start(200, headers, events=True)

    async def write(self, data: bytes) -> None:
        self.body += data
        self.writes += 1
        await asyncio.sleep(0)

    def sink(self) -> Sink | None:
        return Pushed(self)

    translates = False

    async def unfit(self, last: bytes) -> Refusal | None:
        return None

    async def finish(self, last: bytes = b"") -> None:
        if last:
            await self.write(last)
        self.finished = True

    def cancel(self) -> None: ...

    def outlive(self, goes_on: Any) -> None: ...

    async def refuse(self, refusal: Refusal, extra: Headers | None = None) -> None: ...

    async def answer(self, status: int, headers: Headers, body: bytes) -> None: ...


class Pushed:
    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self.written_bytes = 0

    def write(self, data: bytes) -> bool:
        self.reader.body += data
        self.written_bytes += len(data)
        return True

    async def drain(self) -> None:
        self.reader.finished = False


async def play(recording: Recording, reader: Reader, keepalive_s: float = 0.0) -> tuple[Refusal | None, list[Any]]:
    seen: list[Any] = []
    refusal = await recording.play(
        reader, keepalive_s, lambda status, events: seen.append((status, events)), seen.append
    )
    return refusal, seen


async def record(recording: Recording, headers: Headers, *pieces: bytes, events: bool = True) -> Reader:
    reader = Reader()
    client = RecordingClient(reader, recording)
    await client.start(200, headers, events=events)
    for piece in pieces:
        await client.write(piece)
    await client.finish()
    return reader


async def test_a_stream_is_followed_from_its_beginning_and_as_it_comes() -> None:
    recording, reader = Recording(TICKET, 1000), Reader()
    following = asyncio.ensure_future(play(recording, reader))
    await asyncio.sleep(0)
    first = Reader()
    client = RecordingClient(first, recording)
    await client.start(200, STREAM, events=True)
    await client.write(b"data: 1\n\n")
    await asyncio.sleep(0.01)
    assert reader.body == b"data: 1\n\n"
    sink = client.sink()
    assert sink is not None
    assert sink.write(b"data: 2\n\n")
    sink.write(sse.COMMENT)
    await sink.drain()
    assert sink.written_bytes == 9 + len(sse.COMMENT)
    late = Reader()
    joined = asyncio.ensure_future(play(recording, late))
    await client.write(b"data: 3\n\n")
    await client.finish()
    recording.end(None)
    assert await following == (None, [(200, True), 27])
    assert await joined == (None, [(200, True), 27])
    assert reader.body == late.body == b"data: 1\n\ndata: 2\n\ndata: 3\n\n"
    assert first.body == b"data: 1\n\ndata: 2\n\n" + sse.COMMENT + b"data: 3\n\n"
    assert reader.headers == [*STREAM, REPLAYED]
    assert reader.finished


async def test_whoever_follows_silence_sees_that_it_lives() -> None:
    recording, reader = Recording(TICKET, 1000), Reader()
    recording.begin(200, STREAM, events=True)
    following = asyncio.ensure_future(play(recording, reader, keepalive_s=0.01))
    await asyncio.sleep(0.05)
    recording.end(None)
    await following
    assert reader.body.count(sse.COMMENT) >= 2


async def test_an_answer_in_one_piece_waits_for_its_end() -> None:
    recording, reader = Recording(TICKET, 1000), Reader()
    following = asyncio.ensure_future(play(recording, reader))
    await record(recording, JSON, b"{}", b"1234", events=False)
    await asyncio.sleep(0.01)
    assert reader.status == 0
    recording.end(None)
    assert await following == (None, [(200, False), 6])
    assert (reader.body, reader.headers) == (b"{}1234", [*JSON, REPLAYED])


async def test_an_answer_of_unknown_length_gets_one() -> None:
    recording, reader = Recording(TICKET, 1000), Reader()
    await record(recording, [], b"123", events=False)
    recording.end(None)
    await play(recording, reader)
    assert (b"content-length", b"3") in reader.headers


async def test_a_refusal_is_everybodys() -> None:
    recording = Recording(TICKET, 1000)
    following = asyncio.ensure_future(play(recording, Reader()))
    await asyncio.sleep(0)
    refusal = Refusal(429, "rate_limit_error", "c", "m")
    recording.end(refusal)
    recording.end(LOST)
    assert await following == (refusal, [])
    assert recording.refusal is refusal


async def test_what_is_lost_before_it_began_may_be_sent_again() -> None:
    for begun in (False, True):
        recording = Recording(TICKET, 1000)
        if begun:
            recording.begin(200, JSON, events=False)
        recording.end(LOST)
        assert await play(recording, Reader()) == (LOST, [])


async def test_a_stream_that_is_lost_says_so() -> None:
    recording, reader = Recording(TICKET, 1000), Reader()
    recording.begin(200, STREAM, events=True)
    recording.add(b"data: 1\n\n")
    following = asyncio.ensure_future(play(recording, reader))
    await asyncio.sleep(0.01)
    recording.end(LOST)
    assert (await following)[0] is None
    assert reader.body.startswith(b'data: 1\n\ndata: {"error":')
    assert b"[DONE]" not in reader.body


async def test_what_grows_too_large_is_forgotten() -> None:
    recording, reader = Recording(TICKET, 10), Reader()
    recording.begin(200, STREAM, events=True)
    following = asyncio.ensure_future(play(recording, reader))
    piece = b"data: 1\n\n"
    known = sys.getrefcount(piece)
    recording.add(piece)
    await asyncio.sleep(0.01)
    recording.add(b"data: 2\n\n")
    assert (await following)[0] is None
    assert b"idempotency_answer_too_large" in reader.body
    assert recording.answer(b"") is None
    recording.add(b"x")
    assert sys.getrefcount(piece) == known, "no piece is kept"
    assert await play(recording, Reader()) == (TOO_LARGE, [])


async def test_the_whole_answer_with_its_last_words() -> None:
    recording = Recording(TICKET, 20)
    await record(recording, STREAM, b"data: 1\n\n", sse.COMMENT)
    assert recording.whole
    assert recording.answer(b"data: 2\n\n") == IdempotencyRecord(200, STREAM, b"data: 1\n\ndata: 2\n\n", events=True)
    assert Recording.answer(recording, b"x" * 12) is None


async def test_a_kept_answer_is_played_in_pieces() -> None:
    recording, reader = Recording(TICKET, 10), Reader()
    recording.load(IdempotencyRecord(500, STREAM, b"x" * (PIECE_BYTES + 1), events=True))
    assert await play(recording, reader) == (None, [(500, True), PIECE_BYTES + 1])
    assert (reader.writes, reader.finished) == (2, True)


async def test_who_leaves_is_not_waited_for() -> None:
    recording, before = Recording(TICKET, 10), alive(asyncio.Future)
    following = asyncio.ensure_future(play(recording, Reader()))
    await asyncio.sleep(0)
    assert alive(asyncio.Future) > before
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    del following
    await asyncio.sleep(0)
    assert alive(asyncio.Future) == before
