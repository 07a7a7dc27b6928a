"""Signatures of deliveries, as Standard Webhooks 1.0 has them (standardwebhooks.com). PURE."""

import base64
import hmac
from collections.abc import Sequence
from hashlib import sha256


def signature(secrets: Sequence[bytes], event_id: str, at_s: int, body: bytes) -> str:
    """The value of `webhook-signature`: one `v1,BASE64` for each secret, with blanks between them.

    Each is the HMAC-SHA256 of `ID.TIMESTAMP.BODY`. A receiver accepts the message if one of them is right.
    """
    signed = b"%b.%d.%b" % (event_id.encode(), at_s, body)
    return " ".join("v1," + base64.b64encode(hmac.digest(secret, signed, sha256)).decode() for secret in secrets)
