import pytest

from zuebee.sim.base import DONE, EVENT_STREAM, Reply, Send, Stop
from zuebee.sim.wire import FAULTS, Wish, play


def stream() -> Reply:
    return Reply(headers=[EVENT_STREAM], events=iter([Send(b"data: 1\n\n", 1, 1), Send(DONE, 1)]))


def text(reply: Reply, fault: Wish, *, keep_alive: bool = True, chunks: bool = True) -> tuple[bytes, Stop | None]:
    data, stop = b"", None
    for step in play(reply, fault, keep_alive=keep_alive, chunks=chunks).steps:
        if isinstance(step, Send):
            data += step.data
        elif isinstance(step, Stop):
            stop = step
            break
    return data, stop


def test_honest_messages_have_a_length_or_chunks() -> None:
    assert text(Reply(body=b"{}"), Wish())[0].endswith(b"content-length: 2\r\n\r\n{}")
    data, stop = text(stream(), Wish())
    assert b"transfer-encoding: chunked\r\n" in data
    assert data.endswith(b"\r\n0\r\n\r\n")
    assert stop is None


def test_a_client_that_knows_no_chunks_gets_the_stream_to_the_end_of_the_connection() -> None:
    played = play(stream(), Wish(), keep_alive=True, chunks=False)
    assert not played.keep_alive
    data, _ = text(stream(), Wish(), chunks=False)
    assert b"connection: close\r\n" in data
    assert data.endswith(b"\r\n\r\ndata: 1\n\ndata: [DONE]\n\n")


# Usage is spoiled where the answer is made, and only a stream has a [DONE].
ON_THE_WIRE = [
    (name, streaming)
    for name in FAULTS
    for streaming in (False, True)
    if name != "usage" and (name, streaming) != ("no_done", False)
]


@pytest.mark.parametrize(("name", "streaming"), ON_THE_WIRE)
def test_every_fault_changes_something(name: str, streaming: bool) -> None:
    def reply() -> Reply:
        return stream() if streaming else Reply(body=b'{"choices":[]}', tokens=1)

    fault = Wish(fault=name, after_events=1) if name in ("truncate", "error_mid") else Wish(fault=name)
    honest = list(play(reply(), Wish(), keep_alive=True).steps)
    assert list(play(reply(), fault, keep_alive=True).steps) != honest


def test_a_truncated_body_promises_more_than_comes() -> None:
    data, stop = text(Reply(body=b"0123456789"), Wish(fault="truncate"))
    assert data.endswith(b"content-length: 10\r\n\r\n01234")
    assert stop is Stop.CLOSE
    assert b"content-length: 1\r\n" in text(Reply(body=b""), Wish(fault="truncate"))[0]


def test_only_what_is_delivered_counts() -> None:
    def tokens(fault: Wish) -> int:
        total = 0
        for step in play(Reply(body=b"0123456789", tokens=7), fault, keep_alive=True).steps:
            if isinstance(step, Stop):
                break
            total += step.tokens if isinstance(step, Send) else 0
        return total

    assert tokens(Wish()) == 7
    assert tokens(Wish(fault="truncate")) == 0
    assert tokens(Wish(fault="reset", after_events=1)) == 0
    assert tokens(Wish(fault="hang", after_events=1, for_s=1)) == 7
    assert tokens(Wish(fault="slow_drip")) == 7
