"""What goes through is not touched: bodies both ways, the query, header fields. What must not go through does not."""

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.client import CHAT, ask
from tests.support.processes import KEY, Gateway, Sim, running, simulated, until
from tests.support.scripted import Received, ScriptedServer, http_answer, scripted
from zuebee.config.load import ConfigError, loads

BACKEND_KEY = "sk-backend-9876543210"
SPLICE = b'"stream_options":{"include_usage":true},'
ESCAPED = b'{"\\u006dodel":"sim-small","messages":[{"role":"user","content":"\\ud83d\\ude00 \\u00e9 \xc3\xa9 \\/"}]'
PLAIN = b'"model":"sim-small","messages":[{"role":"user","content":"hi"}]'
TOOLS = json.dumps(
    {
        "model": "sim-small",
        "messages": [
            {"role": "user", "content": "weather?"},
            {"role": "assistant", "content": None, "tool_calls": [
                {"id": "call_1", "type": "function", "function": {"name": "get", "arguments": '{"city": "Rome"}'}}]},
            {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
        ],
        "tools": [{"type": "function", "function": {"name": "get", "parameters": {"type": "object"}, "strict": True}}],
        "parallel_tool_calls": False,
    },
    indent=1,
).encode()  # fmt: skip
MEGABYTE = b'{"padding":"%b",' % (b"word \\n" * 160_000) + PLAIN

BODIES = {
    "odd whitespace": b' \r\n\t{ "model"\t:\n"sim-small" ,"messages" : [ {"role":"user" , "content":"hi"} ]  }\n\n',
    "unicode escapes": ESCAPED + b"}",
    "unknown fields": b"{" + PLAIN + b',"x":{"model":"other","y":[1.0,1e400,-0,123456789012345678901234567890]},"":0}',
    "repeated unknown field": b"{" + PLAIN + b',"x":1,"x":2}',
    "tool calls": TOOLS,
    "a megabyte": MEGABYTE + b"}",
}
STREAMS = {
    "plain": (b"{" + PLAIN + b',"stream":true}', b"{" + SPLICE + PLAIN + b',"stream":true}'),
    "odd whitespace": (b'\n { "stream" :true,' + PLAIN + b" }", b"\n {" + SPLICE + b' "stream" :true,' + PLAIN + b" }"),
    "unicode escapes": (ESCAPED + b',"stream":true}', b"{" + SPLICE + ESCAPED[1:] + b',"stream":true}'),
    "a megabyte": (MEGABYTE + b',"stream":true}', b"{" + SPLICE + MEGABYTE[1:] + b',"stream":true}'),
    "usage off": (
        b"{" + PLAIN + b',"stream":true,"stream_options": { "x":1, "include_usage" : false }}',
        b"{" + PLAIN + b',"stream":true,"stream_options": { "x":1, "include_usage" : true }}',
    ),
    "no options": (
        b"{" + PLAIN + b',"stream":true,"stream_options" :null}',
        b"{" + PLAIN + b',"stream":true,"stream_options" :{"include_usage":true}}',
    ),
    "asked by the client": (b"{" + PLAIN + b',"stream":true,"stream_options":{"include_usage":true }}',) * 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def sim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sim]:
    with simulated(tmp_path_factory.mktemp("sim"), "--tokens-per-s", "0", "--tokens", "4") as process:
        yield process


@pytest.fixture(scope="module")
def server() -> Iterator[ScriptedServer]:
    with scripted(lambda _: b"") as running_server:
        yield running_server


@pytest.fixture(scope="module")
def gateway(sim: Sim, server: ScriptedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    config = {
        "backends": [
            {"url": sim.url, "models": ["sim-small"], "api_key": BACKEND_KEY},
            {"url": sim.url + "/v1", "name": "never", "models": ["sim-large"], "include_usage": "never"},
            {"url": server.url + "/base", "models": ["scripted"], "forward_headers": ["X-Tenant"],
             "headers": {"X-From": "gateway"}},
        ],
        "auth": {"header_names": ["Authorization", "X-API-Key", "X-Team-Key", "Cookie"]},
        "routing": {"retry": {"enabled": False}},
        "health_check": {"enabled": False},
    }  # fmt: skip
    with running(tmp_path_factory.mktemp("gateway"), config) as process:
        yield process


def last_request(sim: Sim) -> dict[str, Any]:
    request: dict[str, Any] = sim.control("GET", "/_sim/requests")[-1]
    request["body"] = base64.b64decode(request.pop("body_base64"))
    return request


@pytest.mark.requirement("A146", "A147", "A246")
@pytest.mark.parametrize("case", BODIES)
def test_a_body_arrives_as_it_was_sent(sim: Sim, gateway: Gateway, case: str) -> None:
    query = "?api-version=2024-10-21&q=%7B%22a%22%3A+1%7D&empty"
    answer = ask(gateway.url, BODIES[case], CHAT + query)
    seen = last_request(sim)
    assert (answer.status, seen["body"]) == (200, BODIES[case])
    assert seen["target"] == CHAT + query
    assert answer.body == ask(sim.url, BODIES[case]).body.replace(
        ask_id(sim),
        answer.header("x-request-id").encode(),  # type: ignore[union-attr]
    )


def ask_id(sim: Sim) -> bytes:
    """The id that the simulation made up for the answer to its last request."""
    return str(sim.control("GET", "/_sim/account")[-1]["id"]).encode()


@pytest.mark.requirement("A146", "A297")
@pytest.mark.parametrize("case", STREAMS)
def test_in_a_stream_only_the_wish_for_usage_is_put_in(sim: Sim, gateway: Gateway, case: str) -> None:
    sent, expected = STREAMS[case]
    answer = ask(gateway.url, sent)
    assert (answer.status, last_request(sim)["body"]) == (200, expected)
    assert answer.events[-1] == "[DONE]"
    assert (b'"usage"' in answer.body) == (sent == expected)


@pytest.mark.requirement("A297")
@pytest.mark.parametrize("case", STREAMS)
def test_a_backend_that_must_not_be_asked_gets_every_byte(sim: Sim, gateway: Gateway, case: str) -> None:
    sent = STREAMS[case][0].replace(b'"sim-small"', b'"sim-large"')
    answer = ask(gateway.url, sent)
    assert (answer.status, last_request(sim)["body"]) == (200, sent)


CARRIERS = {
    "bearer": [("Authorization", f"bearer {KEY}")],
    "X-API-Key": [("X-API-Key", KEY)],
    "custom header": [("x-team-key", KEY)],
    "cookie": [("Cookie", KEY)],
    "all at once": [("Authorization", f"Bearer {KEY}"), ("X-API-Key", KEY), ("X-Team-Key", KEY), ("Cookie", f"k={KEY}"),
                    ("Proxy-Authorization", f"Bearer {KEY}"), ("Api-Key", KEY), ("X-Goog-Api-Key", KEY)],
}  # fmt: skip


@pytest.mark.requirement("A075", "A076", "A077")
@pytest.mark.parametrize("carrier", CARRIERS)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_the_callers_key_stays_and_the_backends_own_goes(
    sim: Sim, gateway: Gateway, carrier: str, stream: bool
) -> None:
    body = STREAMS["plain"][0] if stream else BODIES["odd whitespace"]
    assert ask(gateway.url, body, headers=CARRIERS[carrier], key=None).status == 200
    seen = last_request(sim)
    assert KEY not in json.dumps([seen["headers"], seen["target"]])
    assert [value for name, value in seen["headers"] if name == "authorization"] == [f"Bearer {BACKEND_KEY}"]


@pytest.mark.requirement("A077", "A146")
def test_only_listed_header_fields_go_up(server: ScriptedServer, gateway: Gateway) -> None:
    server.answer = lambda _: http_answer(b"{}")
    passed = [
        ("Accept", "application/json"), ("Accept-Language", "eo"), ("Traceparent", "00-abc"), ("Tracestate", "a=b"),
        ("Baggage", "c=d"), ("OpenAI-Beta", "x"), ("Idempotency-Key", "1"), ("User-Agent", "me/1"),
        ("X-Stainless-Retry-Count", "0"), ("X-Tenant", "blue"),
    ]  # fmt: skip
    kept_back = [
        ("Cookie", "a=b"), ("X-Forwarded-For", "1.2.3.4"), ("Forwarded", "for=1.2.3.4"), ("TE", "trailers"),
        ("Proxy-Connection", "keep-alive"), ("Accept-Encoding", "gzip"), ("OpenAI-Organization", "org"),
        ("X-Request-Id", "mine"), ("X-From", "client"), ("Referer", "http://inside/"),
    ]  # fmt: skip
    answer = ask(gateway.url, b'{"model":"scripted"}', headers=passed + kept_back)
    seen = server.received[-1]
    assert seen.line == "POST /base/v1/chat/completions HTTP/1.1"
    own = {"host": server.url[7:], "accept-encoding": "identity", "x-from": "gateway", "content-length": "20",
           "content-type": "application/json", "x-request-id": answer.header("x-request-id")}  # fmt: skip
    assert sorted(seen.headers) == sorted([*own.items(), *((name.lower(), value) for name, value in passed)])


@pytest.mark.requirement("A146")
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_header_fields_of_an_answer_are_kept(server: ScriptedServer, gateway: Gateway, stream: bool) -> None:
    kept = [
        ("openai-processing-ms", "12"), ("vary", "Origin"), ("etag", '"x"'),
        ("x-twice", "one"), ("x-twice", "two"), ("content-type", "text/event-stream" if stream else "application/json"),
    ]  # fmt: skip
    dropped = [("set-cookie", "a=b"), ("keep-alive", "timeout=5"), ("x-request-id", "theirs"), ("server", "them"),
               ("x-ratelimit-remaining-requests", "99"), ("connection", "x-hop"), ("x-hop", "1"),
               ("proxy-authenticate", "Basic"), ("strict-transport-security", "max-age=1")]  # fmt: skip
    body = b'data: {"choices":[{"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n' if stream else b'{ "odd" :1 }\n'
    server.answer = lambda _: http_answer(body, *(f"{name}: {value}" for name, value in kept + dropped))
    answer = ask(gateway.url, json.dumps({"model": "scripted", "stream": stream}).encode())
    names = {name for name, _ in kept}
    assert [field for field in answer.headers if field[0] in names] == kept
    assert not [field for field in answer.headers if field in dropped]
    assert answer.body == body


@pytest.mark.requirement("A148")
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
@pytest.mark.parametrize("size_bytes", [0, 1, 70_000, 1 << 20, 3 << 20])
def test_long_answers_come_whole(server: ScriptedServer, gateway: Gateway, size_bytes: int, chunked: bool) -> None:
    body = b'{"padding":"%b","usage":{"prompt_tokens":3,"completion_tokens":4}}' % (b"\xc3\xa9\\n" * (size_bytes // 4))
    raw = http_answer(body)
    if chunked:
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
        raw = head + b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:7], body[7:])) + b"0\r\n\r\n"
    server.answer = lambda _: raw
    answer = ask(gateway.url, b'{"model":"scripted"}')
    assert answer.whole
    assert answer.body == body
    request_id = answer.header("x-request-id")
    (row,) = until(lambda: [r for r in gateway.usage_rows() if r["request_id"] == request_id], "the usage record")
    assert (row["prompt_tokens"], row["completion_tokens"], row["usage_source"]) == (3, 4, "provider")


@pytest.mark.requirement("A297", "A295")
def test_a_server_that_refuses_the_wish_for_usage_is_remembered_and_estimated(
    server: ScriptedServer, gateway: Gateway
) -> None:
    def answer(request: Received) -> bytes:
        if b"stream_options" in request.body:
            return http_answer(b'{"error":{"message":"Unknown field: stream_options"}}', status="400 Bad Request")
        events = b"".join(b'data: {"choices":[{"delta":{"content":"%d"}}]}\n\n' % n for n in range(5))
        return http_answer(events + b"data: [DONE]\n\n", "content-type: text/event-stream")

    server.answer = answer
    body = b'{"model":"scripted","stream":true,"messages":[{"role":"user","content":"twenty-eight characters in all"}]}'
    request_ids = set()
    for requests in (2, 1, 1):
        before = len(server.received)
        got = ask(gateway.url, body)
        assert (got.status, got.events[-1], len(got.events)) == (200, "[DONE]", 6)
        assert len(server.received) - before == requests
        request_ids.add(got.header("x-request-id"))
    assert server.received[-1].body == body

    def records() -> list[dict[str, Any]]:
        rows = [row for row in gateway.usage_rows() if row["request_id"] in request_ids]
        return rows if len(rows) == 3 else []

    for row in until(records, "the usage records"):
        assert (row["completion_tokens"], row["usage_source"], row["termination_reason"]) == (5, "estimate", "complete")
        assert 5 <= row["prompt_tokens"] <= len(body)
    refused = ask(gateway.url, body[:-1] + b',"stream_options":{"include_usage":true}}')
    assert refused.status == 400, "a client that asks itself gets the server's own answer"


@pytest.mark.requirement("A077")
@pytest.mark.parametrize("name", ["authorization", "X-Team-Key", "Content-Length", "Transfer-Encoding", "Host"])
def test_keys_and_framing_cannot_be_put_on_the_list(name: str) -> None:
    text = f"backends: [{{url: 'http://a', forward_headers: [X-Fine, {name}]}}]\nauth: {{header_names: [X-Team-Key]}}\n"
    with pytest.raises(ConfigError, match=r"forward_headers\[1\]"):
        loads(text, "config.yaml", {}, lambda _: False)
