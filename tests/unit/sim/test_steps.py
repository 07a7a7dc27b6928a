import zlib

from zuebee.sim.base import (
    DONE,
    Send,
    Step,
    Stop,
    Wait,
    after_events,
    chunked,
    dripped,
    gzipped,
    without_done,
)

STREAM: list[Step] = [Send(b"a", 1, 0), Wait(1), Send(b"b", 1, 1), Send(b"c", 1, 1)]


def test_what_is_inserted_comes_after_so_many_events() -> None:
    assert list(after_events(STREAM, 0, [Stop.RESET], go_on=False)) == [Stop.RESET]
    assert list(after_events(STREAM, 2, [Stop.RESET], go_on=False)) == [*STREAM[:3], Stop.RESET]
    assert list(after_events(STREAM, 3, [Stop.RESET], go_on=False)) == [*STREAM, Stop.RESET]
    assert list(after_events(STREAM, 1, [Send(b"x")], go_on=True)) == [STREAM[0], Send(b"x"), *STREAM[1:]]


def test_a_stream_with_fewer_events_passes_unchanged() -> None:
    assert list(after_events(STREAM, 4, [Stop.RESET], go_on=False)) == STREAM


def test_chunks_carry_their_length_and_end_with_an_empty_one() -> None:
    steps = list(chunked([Send(b"x" * 16, 1, 1), Wait(1)]))
    assert steps == [Send(b"10\r\n" + b"x" * 16 + b"\r\n", 1, 1), Wait(1), Send(b"0\r\n\r\n")]


def test_a_stopped_stream_has_no_last_chunk() -> None:
    assert list(chunked([Stop.CLOSE, Send(b"never")])) == [Stop.CLOSE]


def test_dripped_bytes_are_alone_and_the_last_one_delivers_the_event() -> None:
    steps = list(dripped([Send(b"abc", 1, 1), Stop.HANG], 0.5))
    pause = Wait(0.5)
    assert steps == [Send(b"a"), pause, Send(b"b"), pause, Send(b"c", 1, 1), pause, Stop.HANG]


def test_gzip_can_be_read_after_every_step() -> None:
    reader = zlib.decompressobj(wbits=31)
    *steps, last = gzipped(STREAM)
    assert [reader.decompress(step.data) for step in steps if isinstance(step, Send)] == [b"a", b"b", b"c"]
    assert isinstance(last, Send)
    reader.decompress(last.data)
    assert reader.eof


def test_only_the_done_event_is_taken_out() -> None:
    assert list(without_done([*STREAM, Send(DONE, 1)])) == STREAM
