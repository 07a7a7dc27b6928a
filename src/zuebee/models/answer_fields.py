"""PURE. Which header fields of an answer pass: all but hop-by-hop fields, those that `Connection` names among them (RFC
9110, section 7.6.1), and what the gateway says itself: a backend's limits are not the caller's.
"""

from typing import Final

from zuebee.contracts.inference import Headers

_NOT_DOWNSTREAM: Final = frozenset(
    {
        b"access-control-allow-credentials",  # which pages may call is the gateway's to say
        b"access-control-allow-headers",
        b"access-control-allow-methods",
        b"access-control-allow-origin",
        b"access-control-expose-headers",
        b"access-control-max-age",
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

_LIMITS: Final = b"x-ratelimit-"
_NEEDED: Final = frozenset({b"content-type", b"content-encoding"})
"""Without these a body cannot be read: whoever calls them hop-by-hop is mistaken."""


class AnswerFields:
    """The header fields of a backend's answer: those that go on to the client, and what the gateway reads in them."""

    def __init__(self, passed: Headers, content_type: bytes, content_length: bytes, coding: bytes) -> None:
        self.passed: Final = passed
        self.coding: Final = coding
        self.content_type: Final = content_type
        self.content_length: Final = content_length
        self.encoded: Final = coding != b""
        self.is_page: Final = b"text/html" in content_type.lower()


def downstream(headers: Headers) -> AnswerFields:
    """Sort the header fields of a backend's answer."""
    fields = dict(headers)
    coding = fields.get(b"content-encoding", b"").strip().lower()
    passed = [field for field in headers if field[0] not in _NOT_DOWNSTREAM and not field[0].startswith(_LIMITS)]
    if b"connection" in fields:
        said = b",".join(value for name, value in headers if name == b"connection")
        named = {name.strip().lower() for name in said.split(b",")} - _NEEDED
        passed = [field for field in passed if field[0] not in named]
    return AnswerFields(
        passed,
        fields.get(b"content-type", b""),
        fields.get(b"content-length", b""),
        b"" if coding == b"identity" else coding,
    )
