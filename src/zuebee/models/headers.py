"""PURE. Which header fields pass, in each direction.

Upstream only an allow-list passes: what is not on it (cookies, credentials, `X-Forwarded-*`, hop-by-hop fields)
never leaves the house. Downstream everything passes but hop-by-hop fields (RFC 9110, section 7.6.1) and what the
gateway says itself.
"""

from collections.abc import Sequence
from typing import NamedTuple

from zuebee.contracts.inference import Headers

_UPSTREAM = frozenset(
    {
        b"accept",
        b"accept-language",
        b"baggage",
        b"content-type",
        b"idempotency-key",
        b"openai-beta",
        b"traceparent",
        b"tracestate",
        b"user-agent",
    }
)
_UPSTREAM_PREFIX = b"x-stainless-"

_NOT_DOWNSTREAM = frozenset(
    {
        b"alt-svc",
        b"connection",
        b"content-length",
        b"date",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authentication-info",
        b"proxy-connection",
        b"server",
        b"set-cookie",
        b"strict-transport-security",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"x-request-id",
    }
)


def allowed_upstream(extra: Sequence[str] = ()) -> frozenset[bytes]:
    """The allow-list, with the operator's additions."""
    return _UPSTREAM.union(name.lower().encode() for name in extra)


def upstream_lines(headers: Headers, allowed: frozenset[bytes]) -> bytes:
    """The header lines of a client's request that go to the backend."""
    lines = [b": ".join(field) for field in headers if field[0] in allowed or field[0].startswith(_UPSTREAM_PREFIX)]
    lines.append(b"")
    return b"\r\n".join(lines)


class AnswerFields(NamedTuple):
    """The header fields of a backend's answer: those that go on to the client, and what the gateway reads in them."""

    passed: Headers
    content_type: bytes
    content_length: bytes
    encoded: bool


def downstream(headers: Headers) -> AnswerFields:
    """Sort the header fields of a backend's answer."""
    passed = []
    content_type = content_length = b""
    encoded = False
    for field in headers:
        name = field[0]
        if name not in _NOT_DOWNSTREAM:
            passed.append(field)
            if name == b"content-type":
                content_type = field[1]
            elif name == b"content-encoding":
                encoded = True
        elif name == b"content-length":
            content_length = field[1]
    return AnswerFields(passed, content_type, content_length, encoded)
