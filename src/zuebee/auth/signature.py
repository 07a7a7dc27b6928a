"""PURE. Signed requests: the canonical string, and whether a signature fits it (docs/signatures.md).

HMAC-SHA256 (RFC 2104) over what makes a request: whoever changes any of it, or sends it again later, cannot sign it.
"""

import base64
import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

VERSION: Final = "v1"
WINDOW_S: Final = 300
"""How far a timestamp may lie from our clock, either way."""
MAX_SIGNATURES: Final = 8

CLIENT_ID: Final = b"x-client-id"
TIMESTAMP: Final = b"x-timestamp"
NONCE: Final = b"x-nonce"
BODY_SHA256: Final = b"x-content-sha256"
SIGNATURE: Final = b"x-signature"

_FORMS = {
    CLIENT_ID: re.compile(rb"[!-~]{1,128}"),
    TIMESTAMP: re.compile(rb"[0-9]{1,11}"),
    NONCE: re.compile(rb"[A-Za-z0-9._~+/=-]{16,128}"),
    BODY_SHA256: re.compile(rb"[0-9a-fA-F]{64}"),
    SIGNATURE: re.compile(rb"[!-~ ]{1,1024}"),
}


class Signed(NamedTuple):
    """What the header fields of a signed request say. `signatures`: those of our version, in base64."""

    client_id: str
    timestamp: str
    nonce: str
    body_sha256: str
    signatures: tuple[bytes, ...]


def is_signed(fields: Mapping[bytes, bytes]) -> bool:
    """Whether a request claims to be signed: a part of a signature is a claim, too."""
    return CLIENT_ID in fields or SIGNATURE in fields


def read_fields(fields: Mapping[bytes, bytes]) -> Signed | None:
    """The parts of a signature; None if one is missing or cannot be what it should."""
    found = {name: fields.get(name, b"").strip() for name in _FORMS}
    if not all(form.fullmatch(found[name]) for name, form in _FORMS.items()):
        return None
    pairs = [item.strip().partition(b"=") for item in found[SIGNATURE].split(b",")]
    ours = tuple(value for version, _, value in pairs if version == VERSION.encode())
    if not 1 <= len(ours) <= len(pairs) <= MAX_SIGNATURES:
        return None
    client_id, timestamp, nonce, digest = (
        found[name].decode("ascii") for name in (CLIENT_ID, TIMESTAMP, NONCE, BODY_SHA256)
    )
    return Signed(client_id, timestamp, nonce, digest, ours)


def canonical(method: str, path: bytes, query: bytes, signed: Signed) -> bytes:
    """What is signed: seven lines, joined by line feeds, without one at the end.

    Version, client id, method, path and query as they stand in the request line, timestamp, nonce, SHA-256 of the
    body in hex. None of them can hold a line feed, so no two requests have the same string.
    """
    target = path + b"?" + query if query else path
    lines = (
        VERSION.encode(),
        signed.client_id.encode(),
        method.encode(),
        target,
        signed.timestamp.encode(),
        signed.nonce.encode(),
        signed.body_sha256.encode(),
    )
    return b"\n".join(lines)


def sign(secret: str, text: bytes) -> bytes:
    """The signature of a canonical string: HMAC-SHA256 in base64. The secret is used as the bytes of its UTF-8."""
    return base64.b64encode(hmac.digest(secret.encode(), text, hashlib.sha256))


def fits(secrets: Sequence[str], text: bytes, signatures: Sequence[bytes]) -> bool:
    """Whether one of the signatures was made with one of the secrets.

    Takes the same time whichever fits, or none: all are made and all are compared, each in constant time.
    """
    found = 0
    for secret in secrets:
        right = sign(secret, text)
        for signature in signatures:
            found |= hmac.compare_digest(right, signature)
    return bool(found)


def in_window(timestamp: str, now_s: float) -> bool:
    """Whether a request was signed at most WINDOW_S before or after `now_s`."""
    return abs(now_s - int(timestamp)) <= WINDOW_S
