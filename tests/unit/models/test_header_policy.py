from typing import Any

import pytest

from tests.support.fakes import make_job
from zuebee.contracts.admission import Principal
from zuebee.contracts.heads import HeadMemo
from zuebee.contracts.inference import Job
from zuebee.models.header_policy import MAX_POLICIES, RequestHead


class Heads:
    """Sends jobs where their clients sent them."""

    def __init__(self, head: RequestHead) -> None:
        self.get = head.get
        self._head = head

    def sends(self, job: Job, body_bytes: int) -> bytes:
        return self._head.post(job, body_bytes, job.path, job.query)


def builder(url: str = "http://h:1", **changes: Any) -> Heads:
    fields: dict[str, Any] = {
        "headers": {},
        "defaults": {},
        "forward_headers": [],
        "authority": "h:1",
        "request_prefix": b"",
        "proxy_lines": b"",
    }
    return Heads(RequestHead(url, **{**fields, **changes}))


def lines(head: bytes) -> list[bytes]:
    assert head.endswith(b"\r\n\r\n")
    return head[:-4].split(b"\r\n")


@pytest.mark.requirement("A246")
@pytest.mark.parametrize(
    ("url", "path", "target"),
    [
        ("http://h", "/v1/chat/completions", b"/v1/chat/completions"),
        ("http://h/", "/v1/chat/completions", b"/v1/chat/completions"),
        ("http://h/v1", "/v1/chat/completions", b"/v1/chat/completions"),
        ("http://h/v1/", "/v1/embeddings", b"/v1/embeddings"),
        ("http://h/base", "/v1/embeddings", b"/base/v1/embeddings"),
        ("http://h/api/v1", "/v1/models", b"/api/v1/models"),
        ("http://h/v1", "/health", b"/health"),
        ("http://h/api/v1", "/health", b"/api/health"),
        ("http://h/av1", "/v1/models", b"/av1/v1/models"),
    ],
)
def test_paths(url: str, path: str, target: bytes) -> None:
    assert lines(builder(url).get(path))[0] == b"GET " + target + b" HTTP/1.1"
    assert lines(builder(url).sends(make_job(path=path), 0))[0] == b"POST " + target + b" HTTP/1.1"


@pytest.mark.requirement("A146")
def test_the_query_is_kept_and_belongs_to_one_request() -> None:
    head = builder()
    assert lines(head.sends(make_job(query=b"a=1&b=%20"), 2))[0].split()[1] == b"/v1/chat/completions?a=1&b=%20"
    assert lines(head.sends(make_job(), 2))[0].split()[1] == b"/v1/chat/completions"


@pytest.mark.requirement("A077")
def test_the_backend_gets_its_own_key_and_not_the_callers() -> None:
    job = make_job(headers=[(b"authorization", b"Bearer callers"), (b"x-api-key", b"callers"), (b"x-mine", b"1")])
    head = builder(headers={"authorization": "Bearer theirs", "X-Extra": "e"}, forward_headers=["X-Mine"]).sends(
        job, 13
    )
    assert b"callers" not in head
    assert lines(head)[1:] == [
        b"host: h:1",
        b"accept-encoding: identity",
        b"authorization: Bearer theirs",
        b"x-extra: e",
        b"x-request-id: req_1",
        b"x-mine: 1",
        b"content-length: 13",
    ]
    assert b"authorization" not in builder().sends(job, 13)


def test_through_a_forward_proxy() -> None:
    head = builder("http://h:1/v1", request_prefix=b"http://h:1", proxy_lines=b"proxy-authorization: Basic x\r\n")
    first, *rest = lines(head.get("/v1/models", "HEAD"))
    assert first == b"HEAD http://h:1/v1/models HTTP/1.1"
    assert rest[-1] == b"proxy-authorization: Basic x"


@pytest.mark.requirement("A102")
def test_a_backend_is_told_who_calls_only_where_that_is_wanted() -> None:
    who = Principal("key_1", "Secret name", "ann", "search", "acme", "gold", "high", credential="handle")
    forged = [(b"x-zuebee-user", b"root"), (b"x-mine", b"1")]
    job = make_job(sender=who, priority="high", headers=forged)
    silent = builder().sends(job, 0)
    assert b"x-zuebee" not in silent
    told = builder(identity_headers=True, timeout_s=1.5, forward_headers=["x-zuebee-user", "x-mine"]).sends(job, 0)
    assert sorted(line for line in lines(told) if line.startswith((b"x-zuebee", b"x-request-id", b"x-mine"))) == [
        b"x-mine: 1",
        b"x-request-id: req_1",
        b"x-zuebee-organization: acme",
        b"x-zuebee-plan: gold",
        b"x-zuebee-priority: high",
        b"x-zuebee-team: search",
        b"x-zuebee-timeout-ms: 1500",
        b"x-zuebee-user: ann",
    ]
    assert not any(word in told for word in (b"Secret", b"key_1", b"handle", b"root"))


def test_what_passes_is_sorted_out_once_for_a_head_that_comes_again() -> None:
    memo = HeadMemo()
    job = make_job(headers=[(b"user-agent", b"u"), (b"x-secret", b"s")], memo=memo)
    plain, generous = builder(), builder(forward_headers=["X-Secret"])
    first = [each.sends(job, 5) for each in (plain, generous)]
    assert b"x-secret" not in first[0]
    assert b"x-secret: s" in first[1], "each backend has its own list"
    assert len(memo.upstream_lines) == 2
    assert [each.sends(job, 5) for each in (plain, generous)] == first
    assert b"content-length: 7\r\n" in plain.sends(job, 7)


def test_backends_with_one_policy_share_their_lines_and_a_changed_policy_makes_its_own() -> None:
    memo = HeadMemo()
    job = make_job(headers=[(b"user-agent", b"u"), (b"x-secret", b"s")], memo=memo)
    before, beside = builder(forward_headers=["X-Secret"]), builder("http://i:2", forward_headers=["X-Secret"])
    assert b"x-secret: s" in before.sends(job, 5)
    assert b"x-secret: s" in beside.sends(job, 5)
    assert len(memo.upstream_lines) == 1
    # After reloads the same backend may say the field itself, or pass no such field.
    assert b"x-secret: own" in (
        head := builder(forward_headers=["X-Secret"], headers={"X-Secret": "own"}).sends(job, 5)
    )
    assert b"x-secret: s" not in head
    assert b"x-secret" not in builder().sends(job, 5)


def test_lines_of_many_reloads_are_bounded() -> None:
    memo = HeadMemo()
    job = make_job(headers=[(b"user-agent", b"u")], memo=memo)
    for number in range(3 * MAX_POLICIES):
        builder(forward_headers=[f"x-{number}"]).sends(job, 5)
        assert len(memo.upstream_lines) <= MAX_POLICIES


def test_the_query_of_the_base_url_goes_with_each_request() -> None:
    head = builder("http://h/v1?api-version=3")
    assert lines(head.sends(make_job(query=b"b=2"), 0))[0] == b"POST /v1/chat/completions?api-version=3&b=2 HTTP/1.1"
    assert lines(head.sends(make_job(), 0))[0] == b"POST /v1/chat/completions?api-version=3 HTTP/1.1"
    assert lines(head.get("/v1/models"))[0] == b"GET /v1/models?api-version=3 HTTP/1.1"


@pytest.mark.parametrize("name", ["Host", "host", "HOST"])
def test_what_the_operator_says_replaces_what_the_gateway_would_say(name: str) -> None:
    head = builder(headers={name: "virtual", "Authorization": "Basic x", "User-Agent": "gate"})
    said = lines(head.sends(make_job(headers=[(b"user-agent", b"theirs")]), 0))
    assert [line for line in said if line.startswith(b"host:")] == [b"host: virtual"]
    assert [line for line in said if line.startswith(b"authorization:")] == [b"authorization: Basic x"]
    assert [line for line in said if line.startswith(b"user-agent:")] == [b"user-agent: gate"]
