"""Pages of other origins: the header fields that a browser looks at, as the Fetch standard has them."""

import json
from typing import Any

import pytest

from tests.support.edge import KEY, AsgiRequest, FakeEdge
from tests.support.fakes import USAGE, End, head
from zuebee.config.load import loads
from zuebee.config.settings import CorsSettings, ServerSettings, Settings
from zuebee.config.validate import check
from zuebee.contracts.errors import Refusal
from zuebee.edge.cors import Cors

PAGE = (b"origin", b"https://chat.example")
ASKS = (b"access-control-request-method", b"POST")
BODY = b'{"model":"m"}'
PATH = "/v1/chat/completions"


def allowed(request: AsgiRequest) -> bytes | None:
    return request.headers.get(b"access-control-allow-origin")


async def test_without_settings_no_page_may_call() -> None:
    edge = FakeEdge()
    assert (await edge.ask("OPTIONS", PATH, b"", PAGE, ASKS)).status == 405
    request = await edge.ask("POST", PATH, BODY, KEY, PAGE)
    assert request.status == 200
    assert not [name for name in request.headers if name.startswith(b"access-control") or name == b"vary"]


async def test_a_browser_asks_before_it_sends_and_needs_no_key_for_that() -> None:
    edge = FakeEdge(origins=["https://chat.example"])
    asked = (b"access-control-request-headers", b"authorization,content-type,x-stainless-lang")
    request = await edge.ask("OPTIONS", PATH, b"", PAGE, ASKS, asked)
    assert (request.status, request.body, allowed(request)) == (204, b"", PAGE[1])
    assert b"POST" in request.headers[b"access-control-allow-methods"]
    assert request.headers[b"access-control-allow-headers"] == asked[1]
    assert request.headers[b"access-control-max-age"] == b"600"
    assert request.headers[b"vary"] == b"origin"
    assert len([name for name, _ in request.sent[0]["headers"] if name == b"access-control-allow-origin"]) == 1
    assert edge.doorman.callers == []


@pytest.mark.parametrize("path", [PATH, "/v1/models", "/v1/unknown", "/health"])
async def test_each_answer_may_be_read_errors_as_well(path: str) -> None:
    edge = FakeEdge(origins=["https://chat.example", "https://other.example"])
    for key in ([KEY], []):
        for method in ("GET", "POST"):
            request = await edge.ask(method, path, BODY, *key, PAGE)
            assert allowed(request) == PAGE[1], (path, method)
            assert b"x-request-id" in request.headers[b"access-control-expose-headers"]
            assert b"access-control-allow-credentials" not in request.headers


async def test_a_stream_may_be_read() -> None:
    edge = FakeEdge(origins=["*"])
    edge.inference.scripts = [[head(200, [(b"content-type", b"text/event-stream")]), b"data: 1\n\n", End(USAGE)]]
    request = await edge.ask("POST", PATH, BODY, KEY, PAGE)
    assert allowed(request) == b"*"
    assert request.body == b"data: 1\n\n"


@pytest.mark.parametrize(
    "origin", [b"https://evil.example", b"https://chat.example.evil.example", b"null", b"", b"http://chat.example"]
)
async def test_another_page_may_not(origin: bytes) -> None:
    edge = FakeEdge(origins=["https://chat.example"])
    request = await edge.ask("OPTIONS", PATH, b"", (b"origin", origin), ASKS)
    assert (request.status, allowed(request)) == (403, None)
    assert json.loads(request.body)["error"]["code"] == "origin_not_allowed"
    request = await edge.ask("POST", PATH, BODY, KEY, (b"origin", origin))
    assert allowed(request) is None
    assert request.headers[b"vary"] == b"origin", "a cache must not give it to the others"
    assert (await edge.ask("POST", PATH, BODY, KEY)).headers[b"vary"] == b"origin"


async def test_the_firewall_comes_first() -> None:
    edge = FakeEdge(origins=["*"])
    edge.doorman.screened = Refusal(403, "permission_error", "blocked", "No.")
    request = await edge.ask("OPTIONS", PATH, b"", PAGE, ASKS)
    assert json.loads(request.body)["error"]["code"] == "blocked"


@pytest.mark.parametrize(
    ("origin", "allows"),
    [
        (b"https://a.example", True),
        (b"https://a.b.example", True),
        (b"https://A.Example", True),
        (b"https://example", False),
        (b"https://.example", False),
        (b"https://evil/.example", False),
        (b"https://evil:1@x.example", False),
        (b"http://a.example", False),
        (b"https://a.example:8443", False),
        (b"https://a.example.evil", False),
        (b"https://" + b"a" * 600 + b".example", False),
    ],
)
def test_all_names_below_a_domain(origin: bytes, allows: bool) -> None:
    cors = Cors(["https://*.example"])
    assert ((b"access-control-allow-origin", origin) in cors.fields(origin)) is allows


def test_a_private_network_may_be_asked_for() -> None:
    fields = {b"origin": b"https://a.example", b"access-control-request-private-network": b"true"}
    answer: Any = Cors(["*"]).preflight(fields)
    assert (b"access-control-allow-private-network", b"true") in answer


@pytest.mark.parametrize(
    ("origin", "good"),
    [
        ("*", True), ("null", True), ("https://chat.example", True), ("http://localhost:3000", True),
        ("https://*.example.com", True), ("http://[::1]:3000", True), ("chrome-extension://abcdef", True),
        ("chat.example", False), ("https://chat.example/", False), ("https://chat.example/x", False),
        ("https://*", False), ("https://a*.example", False), ("", False),
    ],
)  # fmt: skip
def test_what_is_no_origin_is_found_when_the_file_is_read(origin: str, good: bool) -> None:
    settings = Settings(backends=[], server=ServerSettings(cors=CorsSettings(origins=[origin])))
    found = [each for each in check(settings, lambda path: True) if each.path[:2] == ("server", "cors")]
    assert (not found) is good


def test_files_of_other_gateways_mean_the_same() -> None:
    text = """
backends: [{url: "http://a"}]
server:
  cors: {enabled: true, allow_origins: ["https://chat.example"], allow_methods: ["*"], allow_credentials: true}
"""
    loaded = loads(text, "theirs", {}, lambda path: True)
    assert loaded.settings.server.cors.origins == ["https://chat.example"]
    assert len(loaded.warnings) >= 2
    off = loads(text.replace("true", "false", 1), "theirs", {}, lambda path: True)
    assert off.settings.server.cors.origins == []
