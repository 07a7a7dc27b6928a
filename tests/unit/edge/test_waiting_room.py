import json

import pytest

from tests.support.asgi import AsgiRequest
from zuebee.edge.operator import WaitingRoom


async def asked(method: str, path: str) -> AsgiRequest:
    request = AsgiRequest(method, path)
    await WaitingRoom("waiting for PostgreSQL", 2)(request.scope, request.receive, request.send)
    return request


@pytest.mark.parametrize("path", ["/health", "/health/readiness", "/health/ready"])
async def test_it_is_not_ready_and_says_why(path: str) -> None:
    request = await asked("GET", path)
    assert request.status == 503
    said = {"status": "not ready", "backends": 2, "fit": 0, "reason": "waiting for PostgreSQL"}
    assert json.loads(request.body) == said


@pytest.mark.parametrize("path", ["/health/live", "/health/liveliness"])
async def test_it_lives(path: str) -> None:
    assert (await asked("GET", path)).status == 200


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/models", "/metrics", "/nowhere"])
async def test_all_else_may_be_tried_again(path: str) -> None:
    request = await asked("POST", path)
    assert request.status == 503
    assert json.loads(request.body)["error"]["code"] == "store_unavailable"
    assert request.headers[b"x-should-retry"] == b"true"


def test_what_was_not_read_is_refused_as_elsewhere() -> None:
    headers, body = WaitingRoom("", 0).refuse_unread(431, "headers_too_large", "Too many headers.", "")
    assert json.loads(body)["error"]["code"] == "headers_too_large"
    assert b"x-request-id" in dict(headers)
