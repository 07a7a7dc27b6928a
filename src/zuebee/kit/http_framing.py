"""PURE. How the end of a message's body is found (RFC 9112, section 6)."""

Fields = list[tuple[bytes, bytes]]


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
