"""Signatures of deliveries, as Standard Webhooks 1.0 has them (standardwebhooks.com). PURE."""

import base64
import binascii
import hmac
from collections.abc import Sequence
from hashlib import sha256

MIN_SECRET_BYTES = 24
MAX_SECRET_BYTES = 64
PREFIX = "whsec_"


def read_secret(text: str) -> bytes:
    """The key in a secret: base64, after `whsec_` if that is there. Raises ValueError, without the secret."""
    try:
        secret = base64.b64decode(text.removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("expected base64, as in `whsec_...`") from None
    if not MIN_SECRET_BYTES <= len(secret) <= MAX_SECRET_BYTES:
        raise ValueError(f"expected {MIN_SECRET_BYTES} to {MAX_SECRET_BYTES} bytes in base64, got {len(secret)}")
    return secret


def signature(secrets: Sequence[bytes], event_id: str, at_s: int, body: bytes) -> str:
    """The value of `webhook-signature`: one `v1,BASE64` for each secret, with blanks between them.

    Each is the HMAC-SHA256 of `ID.TIMESTAMP.BODY`. A receiver accepts the message if one of them is right.
    """
    signed = b"%b.%d.%b" % (event_id.encode(), at_s, body)
    return " ".join("v1," + base64.b64encode(hmac.digest(secret, signed, sha256)).decode() for secret in secrets)
