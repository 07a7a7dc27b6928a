"""PURE. News of payments from outside: who may bring them, and what they say.

Signed as the Standard Webhooks specification has it: HMAC-SHA256 over `ID.TIMESTAMP.BODY` in `webhook-signature`.
"""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping, Sequence

import msgspec

from zuebee.contracts.admission import MAX_BALANCE
from zuebee.contracts.errors import Refusal, bad_request

TOLERANCE_S = 300
MIN_SECRET_BYTES = 24
MAX_SIGNATURES = 10
_PREFIX = "whsec_"
_PLACEHOLDERS = ("change", "secret", "example", "password", "sk-1234", "your-", "test-secret", "default", "placeholder")

UNSIGNED = Refusal(401, "authentication_error", "invalid_signature", "The signature of this event is not valid.")


class PaymentEvent(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=False):
    """One payment that was made. `id` is the provider's for ever; the amount is nano-units of `unit`, or tokens."""

    id: str
    account: str
    unit: str
    amount: int
    note: str = ""


class EventVerifier:
    """Knows the events of one provider by their signature. Several secrets while they are being changed."""

    def __init__(self, secrets: Sequence[str]) -> None:
        """Raises ValueError for a secret that is missing, short, or known to everybody."""
        if not secrets:
            raise ValueError("there is no secret: anybody could sign")
        self._keys = [_key(secret) for secret in secrets]

    def verify(self, fields: Mapping[bytes, bytes], body: bytes, now_s: float) -> Refusal | None:
        """Whether the event is the provider's and from the last five minutes. `fields`: headers in lower case."""
        event_id = fields.get(b"webhook-id", b"")
        timestamp = fields.get(b"webhook-timestamp", b"")
        if not event_id or not timestamp.isdigit() or len(timestamp) > 12:
            return UNSIGNED
        if abs(now_s - int(timestamp)) > TOLERANCE_S:
            return UNSIGNED
        signed = b"%b.%b.%b" % (event_id, timestamp, body)
        expected = [hmac.digest(key, signed, hashlib.sha256) for key in self._keys]
        shown = fields.get(b"webhook-signature", b"").split()[:MAX_SIGNATURES]
        good = False
        for signature in filter(None, map(_signature, shown)):
            for digest in expected:
                good |= hmac.compare_digest(signature, digest)
        return None if good else UNSIGNED


def read_event(body: bytes) -> PaymentEvent | Refusal:
    """The body of an event in our own form: what a provider's module makes of its provider's."""
    try:
        event = msgspec.json.decode(body, type=PaymentEvent)
    except msgspec.DecodeError as error:
        return bad_request(f"The event cannot be read: {error}")
    if not event.id or len(event.id) > 200:
        return bad_request("The event has no id, or one of more than 200 characters.", param="id")
    if not 0 < event.amount <= MAX_BALANCE:
        return bad_request(f"The amount is not between 1 and {MAX_BALANCE}.", param="amount")
    return event


def sign(secret: str, event_id: str, timestamp_s: int, body: bytes) -> str:
    """The `webhook-signature` of a body, for providers that we play ourselves."""
    digest = hmac.digest(_key(secret), f"{event_id}.{timestamp_s}.".encode() + body, hashlib.sha256)
    return "v1," + base64.b64encode(digest).decode()


def _key(secret: str) -> bytes:
    low = secret.strip().lower()
    if secret.startswith(_PREFIX):
        try:
            key = base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
        except binascii.Error:
            raise ValueError("the secret behind whsec_ is not base64") from None
    else:
        key = secret.encode()
    if len(key) < MIN_SECRET_BYTES:
        raise ValueError(f"the secret has less than {MIN_SECRET_BYTES} bytes")
    if len(set(key)) < 8 or any(low.startswith(word) for word in _PLACEHOLDERS):
        raise ValueError("the secret is a placeholder or too simple")
    return key


def _signature(text: bytes) -> bytes:
    version, _, value = text.partition(b",")
    if version != b"v1":
        return b""
    try:
        return base64.b64decode(value, validate=True)
    except binascii.Error:
        return b""
