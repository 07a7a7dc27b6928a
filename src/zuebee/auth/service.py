"""Who is calling? The sources in their order decide; any error on the way refuses."""

import logging
from collections.abc import Sequence

from zuebee.auth.credentials import digest_of, find_key, judge
from zuebee.contracts.admission import ANONYMOUS, Caller, Principal
from zuebee.contracts.errors import NO_KEY, UNKNOWN_KEY, Refusal
from zuebee.contracts.keys import KeySource, Presented
from zuebee.kit import clock

_log = logging.getLogger("zuebee.auth")

UNAVAILABLE = Refusal(
    503, "api_error", "auth_unavailable", "The API key could not be checked.", retry_after_s=1.0, should_retry=True
)


class KeyAuthenticator:
    """Looks a key up in its sources.

    `first_match`: the first source that knows the key decides. `all`: each source that knows it must agree, and at
    least one must know it.
    """

    def __init__(self, sources: Sequence[KeySource], header_names: Sequence[str], mode: str) -> None:
        self._sources = list(sources)
        self._carriers = [name.lower().encode() for name in header_names]
        self._all = mode == "all"

    async def identify(self, caller: Caller) -> Principal | Refusal:
        """See `Authenticator.identify`."""
        key = find_key(caller.fields, self._carriers)
        if key is None:
            return NO_KEY
        digest = digest_of(key)
        principal: Principal | None = None
        for source in self._sources:
            try:
                record = await source.find(Presented(caller, key, digest))
            except Exception:
                _log.exception("key source %s failed", source.name)
                return UNAVAILABLE
            if record is None:
                continue
            if isinstance(record, Refusal):
                return record
            if (refusal := judge(record, caller.address, clock.wall_s())) is not None:
                return refusal
            principal = principal or record.principal
            if not self._all:
                break
        return principal or UNKNOWN_KEY

    async def recheck(self, principals: Sequence[Principal]) -> Sequence[tuple[Principal, Refusal]]:
        """See `Authenticator.recheck`."""
        return []


class OpenDoor:
    """No keys needed: everybody is the same principal."""

    async def identify(self, caller: Caller) -> Principal | Refusal:
        """See `Authenticator.identify`."""
        return ANONYMOUS

    async def recheck(self, principals: Sequence[Principal]) -> Sequence[tuple[Principal, Refusal]]:
        """See `Authenticator.recheck`."""
        return []
