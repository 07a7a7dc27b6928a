"""What a source of keys knows, and how it is asked. The platform's own key store is one such source."""

from collections.abc import Mapping
from typing import Any, Protocol

import msgspec

from zuebee.contracts.admission import Caller, Principal
from zuebee.contracts.errors import Refusal
from zuebee.lib.networks import Network


class KeyRecord(msgspec.Struct, frozen=True):
    """What a source knows of one key. `expires_at_s` and `starts_at_s`: seconds since 1970, 0 for never and always.

    `refusal` is what the source's own rules say against it (status, quota, balance); a decision script takes the
    place of these rules. `data` is what a script sees of the record, by the names of LLMProxy's sources.
    """

    digest: str
    principal: Principal
    active: bool = True
    expired: bool = False
    revoked: bool = False
    starts_at_s: float = 0.0
    expires_at_s: float = 0.0
    allowed: tuple[Network, ...] = ()
    denied: tuple[Network, ...] = ()
    refusal: Refusal | None = None
    data: Mapping[str, Any] = {}


class Credential(msgspec.Struct):
    """What a caller shows: the key or token (None if none), and its SHA-256 in hex."""

    caller: Caller
    key: bytes | None
    digest: str


class KeySource(Protocol):
    """One place that may know a credential.

    A source whose answer depends on more of the caller than the key says so by an attribute `per_request = True`: it is
    asked each time, and also when no key was shown.
    """

    name: str

    async def find(self, presented: Credential) -> KeyRecord | Refusal | None:
        """The record of what was presented; None if it is not known here; a refusal if it is known to be bad
        (a forged token). An exception refuses the request.
        """
        ...

    async def aclose(self) -> None:
        """Let go of connections."""
        ...
