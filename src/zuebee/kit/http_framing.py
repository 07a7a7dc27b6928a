"""PURE. How a message begins, and how the end of its body is found (RFC 9112, sections 4 and 6)."""

from http import HTTPStatus
from typing import Final

Fields = list[tuple[bytes, bytes]]

_PHRASES: Final = {status.value: status.phrase for status in HTTPStatus}
STATUS_LINE: Final = {
    status: f"HTTP/1.1 {status} {_PHRASES.get(status, '')}\r\n".encode() for status in range(100, 600)
}


def codings(headers: Fields) -> list[bytes]:
    """The values of Transfer-Encoding, in lower case."""
    return [value.lower() for name, value in headers if name == b"transfer-encoding"]


def ends_with_connection(status: int, headers: Fields) -> bool:
    """Whether only the end of the connection ends an answer. Raises ValueError for a coding nobody asked for."""
    fields = dict(headers)
    if b"transfer-encoding" in fields:
        if any(coding != b"chunked" for coding in codings(headers)):
            raise ValueError("a transfer encoding that was not asked for")
        return False
    return b"content-length" not in fields and status not in (204, 304)


def is_framed_twice(headers: Fields) -> bool:
    """Whether a length is given beside the chunks: these count, but what follows is not to be trusted (section 6.3)."""
    names = [name for name, _ in headers]
    return b"transfer-encoding" in names and b"content-length" in names
