import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.samples import BIG, SMALL, VLLM
from zuebee.dialects.sse import MAX_EVENT_BYTES, EventCutter, EventTooLarge, event_data, split_events

STREAMS = {**VLLM, **SMALL, **BIG}
pieces_of_events = st.lists(
    st.sampled_from(
        [b"\n", b"\r\n", b"\r", b"data: x", b": c", b"data:", b"id: 1", b"\xef\xbb\xbf", b"data: \xc3\xa9"]
    ),
    max_size=30,
).map(b"".join)


def cut(parts: list[bytes]) -> tuple[bytes, bytes]:
    cutter = EventCutter()
    return b"".join(cutter.feed(part) for part in parts), bytes(cutter.rest)


@pytest.mark.parametrize("name", STREAMS)
def test_a_whole_stream_leaves_nothing_behind(name: str) -> None:
    assert cut([STREAMS[name]]) == (STREAMS[name], b"")


@given(stream=pieces_of_events, sizes=st.lists(st.integers(1, 12), max_size=40))
def test_cutting_loses_no_byte_and_gives_whole_events_only(stream: bytes, sizes: list[int]) -> None:
    cutter = EventCutter()
    at = 0
    given_back = b""
    for size in [*sizes, len(stream) + 1]:
        block = cutter.feed(stream[at : at + size])
        at += size
        given_back += block
        assert not block or block.endswith((b"\n\n", b"\n\r\n", b"\r\r"))
    assert given_back + bytes(cutter.rest) == stream


@given(pieces_of_events)
def test_the_events_of_a_block_are_the_block(block: bytes) -> None:
    events = list(split_events(block))
    assert b"".join(events) == block
    assert all(events)


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n", b"\r\r"])
def test_an_event_is_given_as_soon_as_its_empty_line_is_there(end: bytes) -> None:
    event = b"data: x" + end
    cutter = EventCutter()
    assert [cutter.feed(event[n : n + 1]) for n in range(len(event))] == [b""] * (len(event) - 1) + [event]


@pytest.mark.parametrize(
    ("event", "data"),
    [
        (b"data: x\n\n", b"x"),
        (b"data:x\n\n", b"x"),
        (b"data:  x\n\n", b" x"),
        (b"data: a\ndata: b\n\n", b"a\nb"),
        (b"data: a\r\ndata: b\r\n\r\n", b"a\nb"),
        (b"data: a\rdata: b\r\r", b"a\nb"),
        (b"event: e\nid: 1\nretry: 5\ndata: x\n\n", b"x"),
        (b"\xef\xbb\xbfdata: x\n\n", b"x"),
        (b": data: x\n\n", b""),
        (b"database: x\n\n", b""),
        (b"event: ping\n\n", b""),
        (b"\n\n", b""),
    ],
)
def test_the_data_of_an_event(event: bytes, data: bytes) -> None:
    assert event_data(event) == data


def test_an_event_may_have_a_mebibyte_and_no_more() -> None:
    fits = b"data: " + b"x" * (MAX_EVENT_BYTES - 8) + b"\n\n"
    assert cut([fits[n : n + 65536] for n in range(0, len(fits), 65536)]) == (fits, b"")
    cutter = EventCutter()
    for _ in range(16):
        cutter.feed(b"x" * 65536)
    with pytest.raises(EventTooLarge):
        cutter.feed(b"x")


def test_a_block_of_very_many_events_takes_no_time() -> None:
    # Quadratic work would take minutes here.
    assert len(list(split_events(b"a\n\n" * 200_000))) == 200_000
    assert len(list(split_events(b"a\r\r" * 200_000))) == 200_000
