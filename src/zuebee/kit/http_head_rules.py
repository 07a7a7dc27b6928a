"""PURE. What the head of a request must be, beyond what the parser sees to (RFC 9110 and 9112)."""

import re
from typing import Final

from zuebee.kit.http_framing import Fields, codings
from zuebee.kit.http_limits import INVALID_HOST, INVALID_TARGET, UNKNOWN_CODING, UNKNOWN_VERSION, Fault
from zuebee.kit.http_target import is_for

# A registered name, IPv4 or bracketed IPv6 address, and a port (RFC 3986, section 3.2.2, without userinfo).
_HOST: Final = re.compile(rb"(?:[A-Za-z0-9._~!$&'()*+,;=%-]*|\[[0-9A-Fa-f:.]+\])(?::\d{0,5})?")


def fault_of(
    version: str, method: bytes, url: bytes, headers: Fields, fields: dict[bytes, bytes], good_host: bytes
) -> Fault | None:
    """What is wrong with a head, if anything. `fields`: `headers` by name; `good_host` was found to be good before."""
    if version != "1.1" and version != "1.0":
        return UNKNOWN_VERSION
    if len(fields) != len(headers) and sum([name == b"host" for name, _ in headers]) > 1:
        return INVALID_HOST
    host = fields.get(b"host")
    if host is None:
        if version != "1.0":
            return INVALID_HOST
    elif host != good_host and _HOST.fullmatch(host) is None:
        return INVALID_HOST
    if b"transfer-encoding" in fields and (version == "1.0" or codings(headers) != [b"chunked"]):
        return UNKNOWN_CODING  # RFC 9112, section 6.1: with HTTP/1.0, the framing is faulty
    if url[:1] != b"/" and not is_for(url, host, method):
        return INVALID_TARGET
    return None
