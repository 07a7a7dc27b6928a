"""PURE. Which header fields of a request pass.

Only an allow-list does: what is not on it (cookies, credentials, `X-Forwarded-*`, hop-by-hop fields) never leaves the
house.
"""

from collections.abc import Callable, Sequence

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
