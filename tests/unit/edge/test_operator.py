import json

import pytest

from tests.support.edge import KEY, FakeEdge
from zuebee.contracts.errors import Refusal
from zuebee.edge.operator import Readiness

READY = ["/health", "/health/readiness", "/health/ready"]
LIVE = ["/health/liveliness", "/health/live"]


@pytest.mark.requirement("A043")
@pytest.mark.parametrize("path", READY)
async def test_readiness_tells_the_truth(path: str) -> None:
    edge = FakeEdge()
    request = await edge.ask("GET", path)
    assert request.status == 200
    assert json.loads(request.body) == {"status": "ready", "backends": 2, "fit": 2}
    edge.readiness = Readiness(False, "no backend is fit", 0, 2)
    request = await edge.ask("GET", path)
    assert request.status == 503
    assert json.loads(request.body)["reason"] == "no backend is fit"


@pytest.mark.requirement("A043")
@pytest.mark.parametrize("path", LIVE)
async def test_who_lives_says_so_even_if_not_ready(path: str) -> None:
    edge = FakeEdge()
    edge.readiness = Readiness(False, "shutting down")
    assert (await edge.ask("GET", path)).status == 200


@pytest.mark.parametrize("path", [*READY, *LIVE, "/metrics"])
async def test_watching_needs_no_key_and_leaves_no_trace(path: str) -> None:
    edge = FakeEdge()
    assert (await edge.ask("GET", path)).status == 200
    assert (await edge.ask("HEAD", path)).status == 200
    assert edge.doorman.settled == []
    assert edge.doorman.callers == []


@pytest.mark.requirement("A350")
@pytest.mark.parametrize("path", ["/v1/models", "/models"])
async def test_the_list_of_models(path: str) -> None:
    edge = FakeEdge()
    request = await edge.ask("GET", path, b"", KEY)
    assert json.loads(request.body) == {"object": "list", "data": edge.cards}
    assert [settlement.route for settlement in edge.doorman.settled] == ["/v1/models"]
    assert (await edge.ask("GET", path)).status == 401


async def test_of_the_models_a_caller_sees_those_that_it_may_use() -> None:
    edge = FakeEdge()
    edge.doorman.unusable["m"] = Refusal(403, "permission_error", "model_not_allowed", "no")
    for path in ("/v1/models", "/models"):
        assert json.loads((await edge.ask("GET", path, b"", KEY)).body)["data"] == [{"id": "org/m:1"}]
        assert (await edge.ask("GET", f"{path}/org/m:1", b"", KEY)).status == 200
        hidden, missing = await edge.ask("GET", f"{path}/m", b"", KEY), await edge.ask("GET", f"{path}/n", b"", KEY)
        assert hidden.status == missing.status == 404
        assert hidden.body.replace(b"`m`", b"`n`") == missing.body, "nobody learns what others may use"


@pytest.mark.parametrize("name", ["m", "org/m:1"])
async def test_one_model(name: str) -> None:
    for prefix in ("/v1/models/", "/models/"):
        request = await FakeEdge().ask("GET", prefix + name, b"", KEY)
        assert json.loads(request.body) == {"id": name}


@pytest.mark.parametrize("name", ["x", "m/", "x" * 5000])
async def test_an_unknown_model(name: str) -> None:
    request = await FakeEdge().ask("GET", "/v1/models/" + name, b"", KEY)
    assert request.status == 404
    assert json.loads(request.body)["error"]["code"] == "model_not_found"
    assert len(request.body) < 1000


@pytest.mark.requirement("A044", "A319")
async def test_metrics() -> None:
    request = await FakeEdge().ask("GET", "/metrics", b"", (b"accept", b"text/plain"))
    assert (request.body, request.headers[b"content-type"]) == (b"# text/plain", b"text/x")
    assert (await FakeEdge(metrics_path="/m").ask("GET", "/m")).status == 200
    assert (await FakeEdge(metrics_path="/m").ask("GET", "/metrics")).status == 404
    assert (await FakeEdge(metrics_path=None).ask("GET", "/metrics")).status == 404


@pytest.mark.requirement("A319")
@pytest.mark.parametrize(
    ("given", "status"),
    [
        (b"Bearer token-123", 200),
        (b"bearer  token-123 ", 200),
        (b"Bearer token-12", 401),
        (b"Bearer \xff\xfe", 401),
        (b"token-123", 401),
        (b"Basic token-123", 401),
        (b"", 401),
    ],
)
async def test_metrics_may_need_a_token(given: bytes, status: int) -> None:
    edge = FakeEdge(metrics_token="token-123")
    assert (await edge.ask("GET", "/metrics", b"", (b"authorization", given))).status == status


SCREENED = Refusal(403, "permission_error", "request_blocked", "No.")


@pytest.mark.parametrize("path", ["/nothing", "/.env", *READY, *LIVE, "/metrics"])
async def test_what_nobody_need_be_known_for_is_screened(path: str) -> None:
    edge = FakeEdge()
    edge.doorman.screened = SCREENED
    request = await edge.ask("GET", path)
    assert (request.status, json.loads(request.body)["error"]["code"]) == (403, "request_blocked")
    assert [settled.code for settled in edge.doorman.settled] == ["request_blocked"]


@pytest.mark.parametrize(("method", "path"), [("TRACE", "/v1/models"), ("TRACE", "/v1/embeddings")])
async def test_a_wrong_method_is_screened(method: str, path: str) -> None:
    edge = FakeEdge()
    edge.doorman.screened = SCREENED
    assert (await edge.ask(method, path)).status == 403
    edge.doorman.screened = None
    assert (await edge.ask(method, path)).status == 405
