"""What is known again says exactly what a parser would have said; all else is left to the parser."""

from dataclasses import dataclass, field
from typing import Any

import httptools
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from zuebee.http.head_cache import MAX_HEAD_BYTES, MAX_MISSES, KnownHead

REQUEST = b"POST /v1/chat HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\nAuthorization: Bearer k\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\ndate: %b\r\nserver: s\r\ncontent-length: %d\r\ncontent-type: application/json\r\n\r\n"
MONDAY = b"Mon, 02 Nov 2026 08:49:37 GMT"
FRIDAY = b"Fri, 06 Nov 2026 23:59:59 GMT"


def request(body: bytes) -> bytes:
    return REQUEST % len(body) + body


def answer(body: bytes, date: bytes = MONDAY) -> bytes:
    return ANSWER % (date, len(body)) + body


@dataclass
class Read:
    """What httptools makes of some bytes."""

    fields: list[tuple[bytes, bytes]] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    whole: int = 0
    lasts: bool = False
    parser: Any = None

    def on_headers_complete(self) -> None:
        self.lasts = self.parser.should_keep_alive()

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name.lower(), value))

    def on_body(self, body: bytes) -> None:
        self.bodies.append(body)

    def on_message_complete(self) -> None:
        self.whole += 1


def parsed(data: bytes, kind: type[httptools.HttpRequestParser | httptools.HttpResponseParser]) -> Read | None:
    read = Read()
    read.parser = kind(read)
    try:
        read.parser.feed_data(data)
    except (httptools.HttpParserError, httptools.HttpParserUpgrade):
        return None
    return read if read.lasts else None


def learned(data: bytes, body: bytes, *, dated: bool = False) -> KnownHead:
    kind = httptools.HttpResponseParser if data.startswith(b"HTTP") else httptools.HttpRequestParser
    read = parsed(data, kind)
    assert read is not None
    known = KnownHead(dated=dated)
    assert known.learn(data, len(body), read.fields)
    return known


def test_another_length_is_read_and_told() -> None:
    known = learned(request(b"hello"), b"hello")
    before = known.fields
    assert known.body_of(request(b"hello")) == b"hello"
    assert known.fields is before
    longer = b"x" * 1234
    assert known.body_of(request(longer)) == longer
    assert known.fields == [(b"host", b"a"), (b"content-length", b"1234"), (b"authorization", b"Bearer k")]
    assert before[1] == (b"content-length", b"5"), "who holds the fields of an earlier message keeps them"
    assert known.body_of(request(b"")) == b""


def test_another_date_is_no_other_head() -> None:
    known = learned(answer(b"{}"), b"{}", dated=True)
    assert known.body_of(answer(b"[1]", FRIDAY)) == b"[1]"
    assert known.body_of(answer(b"[1]", FRIDAY)) == b"[1]"
    assert known.body_of(answer(b"[1]", MONDAY)) == b"[1]"
    assert learned(answer(b"{}"), b"{}").body_of(answer(b"{}", FRIDAY)) is None, "not asked for: a byte is a byte"


def test_a_date_behind_the_length_is_taken_as_it_is() -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\ndate: %b\r\n\r\n"
    known = learned(head % (2, MONDAY) + b"{}", b"{}", dated=True)
    assert known.body_of(head % (12, MONDAY) + b"x" * 12) == b"x" * 12
    assert known.body_of(head % (2, FRIDAY) + b"{}") is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        request(b"hello")[:-1],
        request(b"hello") + b"P",
        request(b"hello") + request(b"hello"),
        request(b"hello").replace(b"Bearer k", b"Bearer K"),
        request(b"hello").replace(b": 5", b": +5"),
        request(b"hello").replace(b": 5", b": 5 "),
        request(b"hello").replace(b": 5", b": 0x5"),
        request(b"hello").replace(b": 5", b": "),
        request(b"hello").replace(b": 5", b": 5\r\nContent-Length: 5"),
        request(b"hello").replace(b": 5", b": 5\r\nTransfer-Encoding: chunked"),
        request(b"hello").replace(b": 5", b": 5\n"),
        request(b"hello").replace(b": 5", b": 0000000005"),
        request(b"hello").replace(b": 5", ": \u0665".encode()),
        REQUEST[:60],
    ],
)
def test_whatever_is_not_just_this_head_is_left_to_the_parser(data: bytes) -> None:
    known = learned(request(b"hello"), b"hello")
    assert known.body_of(data) is None
    assert known.body_of(request(b"hello")) == b"hello", "and it is still known"


def test_a_head_that_is_not_whole_is_no_message_whatever_its_size() -> None:
    for size in range(200):
        body = b"x" * size
        known = learned(request(body), body)
        whole = request(body)
        assert all(known.body_of(whole[:cut]) is None for cut in range(len(whole)))


@pytest.mark.parametrize("date", [b"Mon, 02 Nov 2026 08:49:37 UTC", b"x\r\nContent-Length: 1000\r\nY: ", MONDAY[:-1]])
def test_only_a_date_may_stand_where_the_date_was(date: bytes) -> None:
    assert learned(answer(b"{}"), b"{}", dated=True).body_of(answer(b"{}", date)) is None


@pytest.mark.parametrize(
    ("data", "fields"),
    [
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", [(b"host", b"a")]),
        (request(b"") + request(b""), [(b"host", b"a"), (b"content-length", b"0")]),
        (b"POST / HTTP/1.1\r\nContent-Length: 0\r\nExpect: x\r\n\r\n", [(b"content-length", b"0"), (b"expect", b"x")]),
        (b"POST / HTTP/1.1\r\nContent-Length: 0\r\nUpgrade: x\r\n\r\n",
         [(b"content-length", b"0"), (b"upgrade", b"x")]),
        (b"POST / HTTP/1.1\r\nContent-Length: 0\r\nA: 1\r\nA: 1\r\n\r\n",
         [(b"content-length", b"0"), (b"a", b"1"), (b"a", b"1")]),
        (b"POST / HTTP/1.1\r\nContent-Length: 0\r\nA: %b\r\n\r\n" % (b"x" * MAX_HEAD_BYTES),
         [(b"content-length", b"0")]),
    ],
)  # fmt: skip
def test_special_heads_are_not_learned(data: bytes, fields: list[tuple[bytes, bytes]]) -> None:
    known = KnownHead(dated=False)
    assert not known.learn(data, 0, fields)
    assert known.body_of(data) is None


def test_a_head_that_is_another_one_each_time_is_learned_a_few_times_only() -> None:
    known = KnownHead(dated=False)
    fields = [(b"host", b"a"), (b"content-length", b"0"), (b"authorization", b"Bearer k")]
    new = [request(b"").replace(b"Bearer k", b"Bearer %d" % n) for n in range(MAX_MISSES + 1)]
    assert [known.learn(data, 0, fields) for data in new] == [True] * MAX_MISSES + [False]
    known = KnownHead(dated=False)
    for data in new * 3:
        assert known.learn(data, 0, fields)
        assert known.body_of(data) is not None, "what comes again is worth it"


def test_what_is_attached_belongs_to_one_head() -> None:
    known = learned(request(b"hello"), b"hello")
    attachment = known.attachment
    attachment.value = "made of it"
    assert known.body_of(request(b"hello!")) == b"hello!"
    assert known.attachment is attachment
    assert attachment.value == "made of it"
    other = request(b"hello").replace(b"Bearer k", b"Bearer l")
    assert known.learn(other, 5, [(b"content-length", b"5")])
    assert known.attachment is not attachment
    assert known.attachment.value is None


pieces = st.sampled_from(
    [b"\r\n", b"Content-Length: 3\r\n", b"content-length: 3", b"Transfer-Encoding: chunked\r\n", b" ", b"0", b"7", b"a",
     b"\x00", MONDAY, b"Connection: close\r\n", b"Host: a\r\n", b":", b"\n", b"\r"]
)  # fmt: skip


@st.composite
def changed(draw: st.DrawFn) -> tuple[bytes, bytes, bytes]:
    """A message, its body, and the message with something else in it or missing."""
    body = draw(st.binary(max_size=12))
    data = request(body) if draw(st.booleans()) else answer(body)
    other = draw(st.sampled_from([data, request(b"x" * 30), answer(b"{}", FRIDAY), answer(b"x" * 11)]))
    for _ in range(draw(st.integers(0, 3))):
        start = draw(st.integers(0, len(other)))
        end = draw(st.integers(start, min(len(other), start + 12)))
        other = other[:start] + draw(pieces | st.just(b"")) + other[end:]
    return data, body, other


def agrees(known: KnownHead, other: bytes) -> bool:
    """Whether what is said of a message is what the parser says of it."""
    got = known.body_of(other)
    if got is None:
        return True
    kind = httptools.HttpResponseParser if other.startswith(b"HTTP") else httptools.HttpRequestParser
    read = parsed(other, kind)
    if read is None or read.whole != 1 or b"".join(read.bodies) != got:
        return False
    said, parsed_fields = ([f for f in fields if f[0] != b"date"] for fields in (known.fields, read.fields))
    return said == parsed_fields


@given(changed())
@example((answer(b""), b"", answer(b"x" * 10, FRIDAY)))
def test_it_never_says_anything_that_the_parser_would_not(case: tuple[bytes, bytes, bytes]) -> None:
    data, body, other = case
    known = learned(data, body, dated=True)
    assert agrees(known, other)


@pytest.mark.plain
def test_the_comparison_sees_a_head_that_was_not_looked_at() -> None:
    class Careless(KnownHead):
        def _has_another_date(self, data: bytes) -> bool:
            return True

    known = Careless(dated=True)
    assert known.learn(answer(b"{}"), 2, [(b"date", MONDAY), (b"content-length", b"2")])
    assert not agrees(known, answer(b"{}").replace(b"200 OK", b"500 No"))
