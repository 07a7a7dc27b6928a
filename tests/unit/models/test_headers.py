import pytest

from zuebee.models.header_policy import AllowList, downstream, upstream_lines


@pytest.mark.requirement("A077", "A146")
def test_upstream_passes_what_is_allowed() -> None:
    headers = [
        (b"content-type", b"application/json"),
        (b"authorization", b"Bearer secret"),
        (b"x-api-key", b"secret"),
        (b"cookie", b"secret"),
        (b"x-forwarded-for", b"10.0.0.1"),
        (b"forwarded", b"for=10.0.0.1"),
        (b"host", b"gate"),
        (b"connection", b"x"),
        (b"transfer-encoding", b"chunked"),
        (b"accept-encoding", b"gzip"),
        (b"openai-organization", b"org"),
        (b"x-stainless-lang", b"python"),
        (b"user-agent", b"ua"),
        (b"traceparent", b"00-1"),
    ]
    assert upstream_lines(headers, AllowList()) == (
        b"content-type: application/json\r\nx-stainless-lang: python\r\nuser-agent: ua\r\ntraceparent: 00-1\r\n"
    )


def test_an_operator_may_let_more_pass() -> None:
    headers = [(b"x-tenant", b"a"), (b"x-other", b"b")]
    assert upstream_lines(headers, AllowList(["X-Tenant"])) == b"x-tenant: a\r\n"


@pytest.mark.requirement("A146")
def test_downstream_passes_all_but_what_concerns_the_connection() -> None:
    kept = [(b"content-type", b"text/event-stream"), (b"openai-processing-ms", b"7")]
    dropped = [
        (name, b"x")
        for name in (b"connection", b"keep-alive", b"transfer-encoding", b"trailer", b"upgrade", b"te", b"server")
    ]
    dropped += [(b"content-length", b"2"), (b"date", b"d"), (b"set-cookie", b"a=b"), (b"x-request-id", b"theirs")]
    answer = downstream([*dropped, *kept])
    assert answer.passed == kept
    assert (answer.is_page, answer.content_length, answer.coding) == (False, b"2", b"")
    assert downstream([(b"content-encoding", b"gzip")]).coding == b"gzip"


@pytest.mark.parametrize(
    ("said", "gone"),
    [
        ([b"close"], set()),
        ([b"Keep-Alive"], set()),
        ([b"x-hop"], {b"x-hop"}),
        ([b"keep-alive, X-Hop ,x-other"], {b"x-hop", b"x-other"}),
        ([b"x-hop", b"close"], {b"x-hop"}),
        ([b"close", b"x-hop"], {b"x-hop"}),
        ([b"content-type, content-encoding"], set()),
    ],
)
def test_what_connection_names_goes_no_further(said: list[bytes], gone: set[bytes]) -> None:
    names = [b"content-type", b"content-encoding", b"x-hop", b"x-other"]
    headers = [*((name, b"v") for name in names), *((b"connection", value) for value in said)]
    assert {name for name, _ in downstream(headers).passed} == set(names) - gone


def test_a_backends_limits_are_not_the_callers() -> None:
    headers = [(b"x-ratelimit-remaining-requests", b"1"), (b"x-ratelimit-reset", b"1"), (b"x-rate", b"1")]
    assert downstream(headers).passed == [(b"x-rate", b"1")]
