"""What a meter cannot read passes all the same, and is counted by its size; what is no end is none."""

import pytest

from zuebee.dialects.openai_stream import StreamMeter
from zuebee.dialects.openai_usage import TokenCounts

CHUNK = b'data: {"choices":[{"delta":{"content":"x"},"finish_reason":null}]}\n\n'
LAST = b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\n'
USAGE = b'"usage":{"prompt_tokens":3,"completion_tokens":2}'
DONE = b"data: [DONE]\n\n"
DEEP = b"[" * 3000 + b"]" * 3000


def pass_on(*parts: bytes, hide: bool = True, **options: int) -> tuple[bytes, StreamMeter]:
    meter = StreamMeter(hide_usage=hide, **options)
    passed = b"".join(meter.feed(part) for part in parts)
    return passed + meter.end() + meter.last_words, meter


def chunk(content: bytes = b"x", more: bytes = b"") -> bytes:
    return b'data: {"choices":[{"delta":{"content":"%b"},"finish_reason":null}]%b}\n\n' % (content, more)


ODD = {
    "half a character": chunk(rb"\ud83d"),
    "the other half": chunk(rb"\ude00"),
    "not a number": chunk(more=b',"logprobs":[NaN]'),
    "infinity": chunk(more=b',"logprobs":{"a":-Infinity}'),
    "a control character": chunk(b"\x01"),
    "no escape": chunk(rb"\x41"),
    "no UTF-8": chunk(b"\xff"),
    "a number that is none": chunk(more=b',"a":+1'),
    "a comma too many": chunk(more=b',"a":[1,]'),
    "deep": chunk(more=b',"a":' + DEEP),
    "no error": chunk(more=b',"error":""'),
    "an empty error": chunk(more=b',"error":{}'),
}


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("name", ODD)
def test_what_cannot_be_read_passes(name: str, first: bool) -> None:
    parts = [ODD[name], CHUNK] if first else [CHUNK, ODD[name]]
    for cut in (parts, [b"".join(parts)], [b"".join(parts)[:20], b"".join(parts)[20:]]):
        passed, meter = pass_on(*cut, b'data: {"choices":[],%b}\n\n' % USAGE, LAST, DONE)
        assert passed == b"".join(parts) + LAST + DONE
        assert (meter.usage, meter.whole, meter.fault) == (TokenCounts(3, 2), True, "")


@pytest.mark.parametrize("choices", [b'"choices":[],', b'"choices":null,', b'"choices" : [ ] ,', b""])
@pytest.mark.parametrize("odd", [b"", rb'"a":"\ud83d",', b'"a":NaN,', b'"a":+1,', b'"a":%b,' % DEEP])
def test_usage_that_nobody_asked_for_is_found_and_cut(choices: bytes, odd: bytes) -> None:
    extra = b"data: {%b%b%b}\n\n" % (choices, odd, USAGE)
    for parts in ([CHUNK, LAST, extra, DONE], [CHUNK + LAST + extra + DONE], [CHUNK, LAST + extra, DONE]):
        passed, meter = pass_on(*parts)
        assert passed == CHUNK + LAST + DONE
        assert meter.usage == TokenCounts(3, 2)
        passed, meter = pass_on(*parts, hide=False)
        assert passed == CHUNK + LAST + extra + DONE
        assert meter.usage == TokenCounts(3, 2)


def test_usage_that_is_no_number_is_none() -> None:
    _, meter = pass_on(CHUNK, b'data: {"choices":[],"usage":{"prompt_tokens":NaN,"completion_tokens":5}}\n\n', DONE)
    assert meter.usage is None


@pytest.mark.parametrize("size", [100_000, 1 << 20, 3 << 20])
@pytest.mark.parametrize("bound", [64 << 10, 8 << 20])
def test_an_event_of_any_size_passes(size: int, bound: int) -> None:
    big = chunk(b"x" * size)
    stream = CHUNK + big + LAST + b'data: {"choices":[],%b}\n\n' % USAGE + DONE
    parts = [stream[at : at + 65536] for at in range(0, len(stream), 65536)]
    passed, meter = pass_on(*parts, max_event_bytes=bound)
    assert passed == CHUNK + big + LAST + DONE
    assert (meter.usage, meter.whole) == (TokenCounts(3, 2), True)
    assert meter.unread == (size > 2 * bound)
    assert size // 4 <= meter.tokens < size // 4 + 100, "counted by its size"


def test_no_more_of_an_event_is_held_than_may_be() -> None:
    meter = StreamMeter(hide_usage=True, max_event_bytes=65536)
    meter.feed(b'data: {"choices":[{"delta":{"content":"')
    for _ in range(100):
        meter.feed(b"x" * 10_000)
        assert len(meter.begun_event) <= 65536 + 10_000
    assert not meter.over
    assert not meter.whole


@pytest.mark.parametrize("cut", range(1, 12))
@pytest.mark.parametrize("line", [b"\n", b"\r\n", b"\r"])
def test_where_the_end_of_a_large_event_is_cut_changes_nothing(cut: int, line: bytes) -> None:
    tail = b'x"},"finish_reason":null}]}\n\n'.replace(b"\n", line)
    begun = b'data: {"choices":[{"delta":{"content":"' + b"x" * 20_000
    rest = (LAST + DONE).replace(b"\n", line)
    at = len(tail) - 6 + cut
    stream = tail + rest
    passed, meter = pass_on(begun, stream[:at], stream[at:], max_event_bytes=4096)
    assert passed == begun + stream
    assert meter.whole


def test_usage_in_a_large_event_is_found() -> None:
    big = b'data: {"choices":[{"delta":{"content":"' + b"x" * 50_000 + b'"}}],' + USAGE + b"}\n\n"
    passed, meter = pass_on(CHUNK, big[:30_000], big[30_000:], LAST, DONE, max_event_bytes=8192)
    assert passed == CHUNK + big + LAST + DONE
    assert meter.usage == TokenCounts(3, 2)


# --- ends ---


@pytest.mark.parametrize(
    "end", [b"data: [DONE]\n", b"data: [DONE]", b"data:[DONE]\r\n", b"data: [DONE]\r", b": x\ndata: [DONE]"]
)
def test_the_last_event_may_lack_its_empty_line(end: bytes) -> None:
    for parts in ([CHUNK, end], [CHUNK + end], [CHUNK, *[end[n : n + 1] for n in range(len(end))]]):
        passed, meter = pass_on(*parts)
        assert passed == CHUNK + end
        assert meter.done
        assert meter.last_words == end


@pytest.mark.parametrize("hide", [True, False])
def test_a_last_chunk_without_its_empty_line_counts(hide: bool) -> None:
    extra = b'data: {"choices":[],%b}' % USAGE
    passed, meter = pass_on(CHUNK, LAST, extra, hide=hide)
    assert passed == CHUNK + LAST + (b"" if hide else extra)
    assert (meter.usage, meter.whole) == (TokenCounts(3, 2), True)
    passed, meter = pass_on(CHUNK, LAST.rstrip(), hide=hide)
    assert passed == CHUNK + LAST.rstrip()
    assert meter.whole
    passed, meter = pass_on(CHUNK, CHUNK.rstrip(), hide=hide)
    assert passed == CHUNK + CHUNK, "an error event follows, and must be an event of its own"
    assert not meter.whole


@pytest.mark.parametrize("rest", [b'data: {"choices":[{"de', b"data: [DO", b"data", b": comment"])
def test_what_was_cut_off_does_not_pass(rest: bytes) -> None:
    passed, meter = pass_on(CHUNK, rest)
    assert passed == CHUNK
    assert not meter.whole


@pytest.mark.parametrize("reason", [b'""', b'" "', b'"null"', b'"None"', b"false", b"0", b"{}", b'"stop"'])
def test_a_word_in_each_chunk_is_no_reason_to_end(reason: bytes) -> None:
    each = b'data: {"choices":[{"delta":{"content":"x"},"finish_reason":%b}]}\n\n' % reason
    for parts in ([each] * 5, [each * 5]):
        _, meter = pass_on(*parts)
        assert not meter.whole
        _, meter = pass_on(*parts, DONE)
        assert meter.whole


def test_of_several_texts_each_must_have_ended() -> None:
    def part(index: int, reason: bytes = b"null") -> bytes:
        return b'data: {"choices":[{"index":%d,"delta":{},"finish_reason":%b}]}\n\n' % (index, reason)

    begun = part(0) + part(1)
    assert not pass_on(begun, part(0, b'"stop"'), several=True)[1].whole
    assert not pass_on(begun + part(1, b'"stop"'), several=True)[1].whole
    assert pass_on(begun, part(0, b'"stop"'), part(1, b'"length"'), several=True)[1].whole


# --- errors ---


@pytest.mark.parametrize(
    "event",
    [
        b'data: {"object":"error","message":"boom","type":"Oops","param":null,"code":400}\n\n',
        b'data: {"object" : "Error", "message":"boom"}\n\n',
        b'event: error\ndata: {"message":"boom"}\n\n',
        b'event:error\r\ndata: {"message":"boom"}\r\n\r\n',
        b'data: {"error":{"message":"boom"},"choices":[{"delta":{},"finish_reason":"error"}]}\n\n',
        b'data: {"error":{"message":"boom \\ud83d","x":NaN}}\n\n',
        b'data: {"type":"error","error":{"message":"boom"}}',
    ],
)
def test_errors_in_other_forms_are_errors(event: bytes) -> None:
    for parts in ([event], [CHUNK, event], [CHUNK + event]):
        passed, meter = pass_on(*parts)
        assert passed == (CHUNK if len(b"".join(parts)) > len(event) else b"")
        assert meter.error is not None
        assert b"boom" in bytes(meter.error)
        assert not meter.whole
