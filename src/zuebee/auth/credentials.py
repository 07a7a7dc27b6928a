"""PURE. Credentials: finding the key in a request, and judging the record that belongs to it."""

import hashlib
import hmac
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import lru_cache
from typing import Final, TypeAlias

from zuebee.contracts.admission import Principal
from zuebee.contracts.errors import ADDRESS_REFUSED, KEY_DISABLED, KEY_EXPIRED, KEY_NOT_STARTED, KEY_REVOKED, Refusal
from zuebee.contracts.keys import KeyRecord
from zuebee.kit.networks import within

MAX_KEY_BYTES: Final = 16_384
"""Keys are short, but tokens of some issuers name all the groups of a user."""
MAX_KNOWN_KEY_BYTES: Final = 128
"""The digests of shorter keys are remembered for a while."""
Finish: TypeAlias = Callable[[Principal], Awaitable[Principal | Refusal]]
"""Gives a principal that names a plan, a user, a team or an organisation what these are entitled to, or refuses it."""
_SENDABLE: Final = re.compile(rb"[\x21-\x7e]+")


async def unchanged(principal: Principal) -> Principal | Refusal:
    """A `Finish` for when nobody knows more of a principal than it says itself."""
    return principal


def sendable(key: bytes) -> bool:
    """Whether a key has only characters that a header can carry: no others are ever looked up anywhere."""
    return _SENDABLE.fullmatch(key) is not None


def digest_of(key: bytes) -> str:
    """The form in which keys are kept and compared: SHA-256 in hex."""
    return _known_digest(key) if len(key) <= MAX_KNOWN_KEY_BYTES else hashlib.sha256(key).hexdigest()


@lru_cache(2048)
def _known_digest(key: bytes) -> str:
    return hashlib.sha256(key).hexdigest()


def same_digest(one: str, other: str) -> bool:
    """Equality in constant time."""
    return hmac.compare_digest(one, other)


def find_key(fields: Mapping[bytes, bytes], carriers: Sequence[bytes]) -> bytes | None:
    """The key of a request: the first of the carriers (header names in lower case) that holds one.

    `authorization` must hold a bearer token (RFC 6750; the scheme in any case), other headers the key itself.
    """
    for carrier in carriers:
        value = fields.get(carrier)
        if value is None or len(value) > MAX_KEY_BYTES:
            continue
        if carrier == b"authorization":
            scheme, _, value = value.partition(b" ")
            if scheme.lower() != b"bearer":
                continue
        if key := value.strip():
            return key
    return None


def judge(record: KeyRecord, address: str, now_s: float) -> Refusal | None:
    """Whether a known key may be used now and from here; `record.refusal` is left to the caller."""
    if record.revoked:
        return KEY_REVOKED
    if not record.active:
        return KEY_EXPIRED if record.expired else KEY_DISABLED
    if record.expires_at_s and now_s >= record.expires_at_s:
        return KEY_EXPIRED
    if now_s < record.starts_at_s:
        return KEY_NOT_STARTED
    if record.denied and within(address, record.denied):
        return ADDRESS_REFUSED
    if record.allowed and not within(address, record.allowed):
        return ADDRESS_REFUSED
    return None
