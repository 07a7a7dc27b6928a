"""PURE. Which header fields of an answer pass: all but hop-by-hop fields (RFC 9110, section 7.6.1) and what the gateway
says itself.
"""

from typing import Final

from zuebee.contracts.inference import Headers

_NOT_DOWNSTREAM: Final = frozenset(
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


class AnswerFields:
    """The header fields of a backend's answer: those that go on to the client, and what the gateway reads in them."""

    def __init__(self, passed: Headers, content_type: bytes, content_length: bytes, encoded: bool) -> None:
        self.passed: Final = passed
        self.content_type: Final = content_type
        self.content_length: Final = content_length
        self.encoded: Final = encoded


def downstream(headers: Headers) -> AnswerFields:
    """Sort the header fields of a backend's answer."""
    fields = dict(headers)
    return AnswerFields(
        [field for field in headers if field[0] not in _NOT_DOWNSTREAM],
        fields.get(b"content-type", b""),
        fields.get(b"content-length", b""),
        b"content-encoding" in fields,
    )
