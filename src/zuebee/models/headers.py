"""PURE. Which header fields pass, in each direction.

Upstream only an allow-list passes: what is not on it (cookies, credentials, `X-Forwarded-*`, hop-by-hop fields)
never leaves the house. Downstream everything passes but hop-by-hop fields (RFC 9110, section 7.6.1) and what the
gateway says itself.
"""

from collections.abc import Callable, Sequence

import msgspec

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
_MAX_REMEMBERED = 1000

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


class AllowList(dict[bytes, bool]):
    """Says of each name whether it passes upstream, and remembers what it said of the first thousand."""

    def __init__(self, extra: Sequence[str] = (), *, but: Callable[[bytes], bool] = lambda name: False) -> None:
        """`extra` are the operator's additions; what `but` holds for never passes."""
        super().__init__()
        self._names = _UPSTREAM.union(name.lower().encode() for name in extra)
        self._but = but

    def __missing__(self, name: bytes) -> bool:
        passes = (name in self._names or name.startswith(_UPSTREAM_PREFIX)) and not self._but(name)
        if len(self) < _MAX_REMEMBERED:
            self[name] = passes
        return passes


def upstream_lines(headers: Headers, allowed: AllowList) -> bytes:
    """The header lines of a client's request that go to the backend."""
    lines = [b": ".join(field) for field in headers if allowed[field[0]]]
    lines.append(b"")
    return b"\r\n".join(lines)


class AnswerFields(msgspec.Struct, gc=False):
    """The header fields of a backend's answer: those that go on to the client, and what the gateway reads in them."""

    passed: Headers
    content_type: bytes
    content_length: bytes
    encoded: bool


def downstream(headers: Headers) -> AnswerFields:
    """Sort the header fields of a backend's answer."""
    fields = dict(headers)
    return AnswerFields(
        [field for field in headers if field[0] not in _NOT_DOWNSTREAM],
        fields.get(b"content-type", b""),
        fields.get(b"content-length", b""),
        b"content-encoding" in fields,
    )
