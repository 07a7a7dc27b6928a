import json

import pytest

from tests.support.edge import KEY, AsgiRequest, FakeEdge
from zuebee.contracts.heads import HeadMemo
from zuebee.edge.http import ROUTES
from zuebee.http.head_cache import Attachment

BODY = b'{"model":"m"}'
INFERENCE = [(path, route) for route in ROUTES if route.operation for path in (route.path, *route.aliases)]


@pytest.mark.requirement("A036", "A037", "A038", "A327")
@pytest.mark.parametrize(("path", "route"), INFERENCE, ids=lambda value: value if isinstance(value, str) else "")
async def test_each_path_makes_its_job(path: str, route: object) -> None:
    edge = FakeEdge()
    request = await edge.ask("POST", path, BODY, KEY, (b"x-request-id", b"theirs"))
    assert (request.status, request.body) == (200, b"{}")
    (job,) = edge.inference.jobs
    assert (job.path, job.operation, job.body) == (route.path, route.operation, BODY)  # type: ignore[attr-defined]
    (settlement,) = edge.doorman.settled
    assert settlement.route == route.path  # type: ignore[attr-defined]
    assert settlement.client_request_id == "theirs"
    assert settlement.request_id == job.request_id == request.headers[b"x-request-id"].decode() != "theirs"


@pytest.mark.requirement("A045")
@pytest.mark.parametrize(
    "path", ["/v1", "/v1/respond", "/v1/chat/completions/x", "/v1/../metrics", "/V1/models", "*", ""]
)
async def test_an_unknown_path_reaches_no_backend(path: str) -> None:
    for method in ("GET", "POST", "OPTIONS"):
        edge = FakeEdge()
        request = await edge.ask(method, path, BODY, KEY)
        assert request.status == 404
        assert json.loads(request.body)["error"]["code"] == "unknown_path"
        assert edge.inference.begun == 0
        assert [settlement.route for settlement in edge.doorman.settled] == ["other"]


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "HEAD", "OPTIONS"])
async def test_the_wrong_method_is_told_the_right_one(method: str) -> None:
    edge = FakeEdge()
    request = await edge.ask(method, "/v1/chat/completions", b"", KEY)
    assert (request.status, request.headers[b"allow"]) == (405, b"POST")
    assert len(edge.doorman.settled) == 1
    request = await edge.ask("POST", "/v1/models", BODY, KEY)
    assert (request.status, request.headers[b"allow"]) == (405, b"GET, HEAD")
    assert edge.inference.begun == 0


async def test_without_a_key_nothing_is_read() -> None:
    edge = FakeEdge()
    request = await edge.ask("POST", "/v1/embeddings", BODY)
    assert request.status == 401
    assert request.headers[b"x-should-retry"] == b"false"
    assert request.received == 0


async def test_request_ids_differ_and_are_ours() -> None:
    edge, other = FakeEdge(), FakeEdge()
    for _ in range(50):
        for each in (edge, other):
            await each.ask("POST", "/v1/chat/completions", BODY, KEY)
    ids = [settlement.request_id for each in (edge, other) for settlement in each.doorman.settled]
    assert len(set(ids)) == 100


async def test_the_callers_address_may_come_from_a_trusted_proxy() -> None:
    edge = FakeEdge()
    await edge.ask("POST", "/v1/chat/completions", BODY, KEY, (b"x-forwarded-for", b"9.9.9.9, 5.6.7.8"))
    assert edge.doorman.callers[0].address == edge.doorman.settled[0].address == "5.6.7.8"


async def test_a_caller_is_taken_for_the_same_only_with_the_same_fields() -> None:
    edge, attachment = FakeEdge(), Attachment()
    callers = []
    same = {b"authorization": b"Bearer k", b"content-length": b"13"}
    for fields in (same, same, dict(same), {**same, b"x-forwarded-for": b"9.9.9.9"}):
        request = AsgiRequest("POST", "/v1/embeddings", BODY, headers=list(fields.items()))
        request.scope |= {"zuebee.fields": fields, "zuebee.attachment": attachment}
        await edge.app(request.scope, request.receive, request.send)
        assert request.status == 200
        assert isinstance(attachment.value, HeadMemo)
        callers.append(attachment.value.caller)
    assert callers[0] is callers[1]
    assert callers[2] is not callers[1]
    assert callers[3].fields[b"x-forwarded-for"] == b"9.9.9.9"
    assert all(job.memo is attachment.value for job in edge.inference.jobs)
    # Another edge, with the same fields, makes a caller of its own.
    other = FakeEdge()
    request = AsgiRequest("POST", "/v1/chat/completions", BODY, headers=list(same.items()))
    request.scope |= {"zuebee.fields": callers[3].fields, "zuebee.attachment": attachment}
    await other.app(request.scope, request.receive, request.send)
    assert attachment.value.caller is not callers[3]
    assert attachment.value.caller.path == "/v1/chat/completions"


async def test_who_asks_whether_anybody_is_there_is_told_and_nothing_else() -> None:
    assert (await FakeEdge().ask("HEAD", "/")).status == 200
    for method in ("GET", "POST"):
        request = await FakeEdge().ask(method, "/", BODY, KEY)
        assert (request.status, json.loads(request.body)["error"]["code"]) == (404, "unknown_path")


async def test_the_wrong_method_is_told_in_the_dialect_of_the_endpoint() -> None:
    request = await FakeEdge().ask("GET", "/v1/messages", b"", KEY)
    assert (request.status, json.loads(request.body)["type"]) == (405, "error")
