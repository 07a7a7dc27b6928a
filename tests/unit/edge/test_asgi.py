from types import SimpleNamespace

import pytest

from tests.support.asgi import AsgiRequest
from tests.support.fakes import told
from zuebee.contracts.admission import Caller
from zuebee.contracts.errors import NO_KEY, Refusal
from zuebee.contracts.inference import Headers, Job
from zuebee.dialects.hub.wires import OPENAI
from zuebee.edge.asgi import AsgiClient, Endpoint

BODY = b' {"model":"m", "stream":true}\n'


def client(request: AsgiRequest, max_body_bytes: int = 100) -> AsgiClient:
    fields = dict(request.scope["headers"])
    caller = Caller(request.scope["method"], "/v1/completions", fields, "", query=request.scope["query_string"])
    found = AsgiClient(request.scope, caller, request.receive, request.send, "req_1", max_body_bytes)
    found.endpoint = Endpoint("completions", OPENAI)
    return found


@pytest.mark.requirement("A146")
@pytest.mark.parametrize("parts", [(BODY,), (BODY[:5], BODY[5:]), tuple(BODY[n : n + 1] for n in range(len(BODY)))])
async def test_a_request_becomes_a_job_with_its_body_as_it_came(parts: tuple[bytes, ...]) -> None:
    request = AsgiRequest("POST", "/completions", *parts, headers=[(b"x", b"y")])
    request.scope["query_string"] = b"a=1"
    job = await client(request).read_job()
    wanted = Job(
        "req_1", "completions", "/v1/completions", b"a=1", [(b"x", b"y")], BODY, "m", stream=True, stream_usage=False
    )
    assert told(job) == told(wanted)


async def test_what_is_no_request_is_refused() -> None:
    refusal = await client(AsgiRequest("POST", "/", b"{")).read_job()
    assert isinstance(refusal, Refusal)
    assert refusal.status == 400


@pytest.mark.parametrize(
    ("parts", "headers", "received"),
    [
        ((b"x" * 101,), [], 1),
        ((b"x" * 60, b"x" * 41, b"x" * 60), [], 2),
        ((b"x",), [(b"content-length", b"101")], 0),
        ((b"x",), [(b"content-length", b"9" * 30)], 0),
    ],
)
async def test_a_body_too_large_is_refused_as_soon_as_that_is_known(
    parts: tuple[bytes, ...], headers: Headers, received: int
) -> None:
    request = AsgiRequest("POST", "/", *parts, headers=headers)
    refusal = await client(request).read_job()
    assert isinstance(refusal, Refusal)
    assert (refusal.status, refusal.code) == (413, "request_too_large")
    assert request.received == received


async def test_a_body_of_just_the_limit_fits() -> None:
    body = b'{"model":"m"}'.ljust(100)
    for parts in ((body,), (body[:50], body[50:])):
        assert isinstance(await client(AsgiRequest("POST", "/", *parts)).read_job(), Job)


@pytest.mark.parametrize(
    ("encoding", "fits"), [(b"gzip", False), (b"br", False), (b"identity", True), (b" Identity ", True)]
)
async def test_compressed_bodies_are_refused(encoding: bytes, fits: bool) -> None:
    request = AsgiRequest("POST", "/", BODY, headers=[(b"content-encoding", encoding)])
    job = await client(request).read_job()
    assert isinstance(job, Job) if fits else isinstance(job, Refusal) and job.status == 415


@pytest.mark.requirement("A035")
async def test_an_event_stream_goes_out_as_it_comes() -> None:
    request = AsgiRequest()
    target = client(request)
    await target.start(200, [], events=True)
    for event in (b"data: 1\n\n", b"data: 2\n\n"):
        await target.write(event)
        assert request.sent[-1] == {"type": "http.response.body", "body": event, "more_body": True}
    await target.finish()
    assert request.body == b"data: 1\n\ndata: 2\n\n"


async def test_an_answer_in_one_piece_goes_out_in_one_piece() -> None:
    request = AsgiRequest()
    target = client(request)
    await target.start(200, [], events=False)
    await target.write(b"{}")
    assert not request.sent
    await target.finish()
    assert request.body == b"{}"
    assert len(request.sent) == 2


async def test_a_long_answer_is_never_held_for_more_than_one_part() -> None:
    request = AsgiRequest()
    target = client(request)
    await target.start(200, [], events=False)
    for n in range(3):
        await target.write(b"%d" % n)
        assert len(request.sent) == (n + 1 if n else 0)
    await target.finish()
    assert request.body == b"012"


async def test_a_refusal_before_the_body_was_read_closes_the_connection() -> None:
    request = AsgiRequest("POST", "/", BODY)
    target = client(request)
    await target.refuse(NO_KEY, [(b"x-more", b"1")])
    assert (request.status, request.headers[b"connection"]) == (401, b"close")
    assert (request.headers[b"x-request-id"], request.headers[b"x-more"]) == (b"req_1", b"1")
    request = AsgiRequest("POST", "/", BODY)
    target = client(request)
    await target.read_job()
    await target.refuse(NO_KEY)
    assert b"connection" not in request.headers
    request = AsgiRequest("GET", "/")
    await client(request).refuse(NO_KEY)
    assert b"connection" not in request.headers


def test_only_our_own_server_is_asked_to_go_on() -> None:
    request = AsgiRequest()
    client(request).outlive(lambda: True)
    cycle = request.scope["zuebee.cycle"] = SimpleNamespace()
    client(request).outlive(lambda: True)
    assert cycle.goes_on()
