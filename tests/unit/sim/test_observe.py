from zuebee.sim import observe
from zuebee.sim.base import SimRequest
from zuebee.sim.observe import Account, Observer


def request(body: bytes = b"") -> SimRequest:
    return SimRequest(method="POST", target=b"/x", headers=[], body=body, connection=1)


def account(request_id: str | None = None, *, stream: bool = True) -> Account:
    return Account(
        id="i", request_id=request_id, connection=1, path="/x", stream=stream, status=200, fault="", prompt_tokens=4
    )


def test_the_oldest_requests_are_forgotten() -> None:
    observer = Observer(keep_requests=3)
    for size in range(5):
        observer.record(request(b"x" * size))
    assert [len(row["body_base64"]) for row in observer.requests()] == [4, 4, 8]
    silent = Observer(keep_requests=0)
    silent.record(request())
    assert silent.requests() == []


def test_large_bodies_push_out_older_requests() -> None:
    observer = Observer(keep_requests=1000)
    big = b"x" * (observe.MAX_RECORDED_BYTES // 2)
    for body in (b"", big, big, b"y"):
        observer.record(request(body))
    assert len(observer.requests()) == 2


def test_every_request_that_started_is_somewhere() -> None:
    observer = Observer(keep_requests=0)
    accounts = [account(str(number)) for number in range(4)]
    for one in accounts:
        observer.begin(one)
        observer.sent(one, 2, 1)
    for one, ended in zip(accounts, ("complete", "aborted", "fault"), strict=False):
        observer.end(one, ended)
    stats = observer.stats
    assert (stats.requests_finished, stats.requests_aborted, stats.requests_faulted) == (1, 1, 1)
    assert stats.requests_started == 4
    assert (stats.streams_open, stats.streams_aborted) == (1, 1)
    assert (stats.events_sent, stats.tokens_sent, stats.prompt_tokens) == (8, 4, 16)
    assert [one.ended for one in observer.accounts(None)] == ["complete", "aborted", "fault", "running"]
    assert list(observer.accounts("2")) == [accounts[2]]


def test_a_reset_keeps_what_is_open() -> None:
    observer = Observer(keep_requests=9)
    observer.connected()
    running = account()
    observer.begin(running)
    observer.record(request())
    observer.reset()
    assert (observer.stats.connections_open, observer.stats.streams_open, observer.stats.requests_started) == (1, 1, 0)
    assert (observer.requests(), list(observer.accounts(None))) == ([], [])
    observer.end(running, "complete")
    observer.disconnected()
    assert (observer.stats.connections_open, observer.stats.streams_open) == (0, 0)
