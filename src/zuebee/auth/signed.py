"""Enterprise clients that sign their requests, as a source of the pipeline."""

import logging
import secrets
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import msgspec

from zuebee.auth import signature
from zuebee.auth.credentials import Finish, digest_of, judge, unchanged
from zuebee.auth.nonces import Nonces, NoncesFull
from zuebee.config.access import SignatureClientSettings
from zuebee.contracts.admission import Caller, Principal
from zuebee.contracts.errors import KEY_REVOKED, Refusal
from zuebee.contracts.keys import KeyRecord, KeySource, Presented
from zuebee.kit import clock

_log = logging.getLogger("zuebee.auth")

CREDENTIAL = "signed"
"""What the handles of credentials begin with that this source gives out: `signed/DIGEST OF THE KEY/CLIENT`."""

# One answer for every reason: a caller who guesses learns nothing from it.
BAD_SIGNATURE = Refusal(401, "authentication_error", "invalid_signature", "The request is not signed as it must be.")
BUSY = Refusal(
    503,
    "overloaded_error",
    "too_many_signed_requests",
    "Too many signed requests came lately.",
    retry_after_s=10.0,
    should_retry=True,
)


class Shown(Protocol):
    """A credential that was admitted, and with what request."""

    @property
    def key(self) -> bytes:
        """The key."""
        ...

    @property
    def caller(self) -> Caller:
        """Who showed it."""
        ...


class Kept(Protocol):
    """Keeps the keys of running requests for a while, within a bound."""

    def keep(self, digest: str, key: bytes, caller: Caller, *, whole: bool) -> None:
        """Remember one under a name."""
        ...

    def renew(self, digest: str) -> Shown | None:
        """What is kept under the name."""
        ...


class _Client:
    def __init__(self, settings: SignatureClientSettings) -> None:
        name = settings.name or settings.client_id
        self.digest = digest_of(settings.client_id.encode())
        self.principal = Principal("sig_" + self.digest[:16], name, settings.user_id or name)
        self.secrets = list(settings.secrets)
        self.require_key = settings.require_key


class SignatureSource:
    """Knows the clients that sign.

    `keys` are the sources that know API keys: a client with `require_key` is let in only if the signature fits and
    one of them knows the key that came along by that id; and such a key is let in with a signature only. That needs
    this source to stand before them. `kept` remembers these keys, so that `recheck` can ask for them again. `finish`
    gives a principal without a key what its user is entitled to, or refuses it. `refused` counts refusals by source and
    reason.
    """

    per_request = True

    def __init__(
        self,
        name: str,
        clients: Sequence[SignatureClientSettings],
        nonces: Nonces,
        keys: Sequence[KeySource] = (),
        finish: Finish = unchanged,
        kept: Kept | None = None,
        refused: Counter[tuple[str, str]] | None = None,
    ) -> None:
        self.name = name
        self.refused: Counter[tuple[str, str]] = Counter() if refused is None else refused
        self._kept = kept
        self._clients = {client.client_id: _Client(client) for client in clients}
        self._nonces = nonces
        self.keys = tuple(keys)
        self._finish = finish
        self._bound_keys = frozenset(client.require_key for client in clients if client.require_key)
        # Every client, and the one that nobody is, takes as many HMACs: time tells neither who exists nor who rotates.
        most = max((len(client.secrets) for client in clients), default=1)
        self._nobody = [secrets.token_hex(32) for _ in range(most)]
        for client in self._clients.values():
            client.secrets += self._nobody[len(client.secrets) :]

    async def find(self, presented: Presented) -> KeyRecord | Refusal | None:
        """See `KeySource.find`."""
        caller = presented.caller
        # Only a signature that fitted sets this: the request runs already, and its key is asked about again.
        again = bool(caller.body_sha256)
        if not signature.is_signed(caller.fields):
            return None if again else await self._unsigned(presented)
        signed = signature.read_fields(caller.fields)
        if signed is None:
            return self._refuse("malformed")
        now_s = clock.wall_s()
        client = self._clients.get(signed.client_id)
        path = caller.raw_path or caller.path.encode()
        text = signature.canonical(caller.method, path, caller.query, signed)
        fits = signature.fits(self._nobody if client is None else client.secrets, text, signed.signatures)
        if client is None or not fits:
            return self._refuse("unknown_client" if client is None else "mismatch")
        if not again and not signature.in_window(signed.timestamp, now_s):
            return self._refuse("stale")
        record = await self._record(presented, signed.client_id, client)
        if again or isinstance(record, Refusal):
            return record
        try:
            # A second more than the window: until the very last moment at which its timestamp would be accepted.
            ttl_s = int(signed.timestamp) + signature.WINDOW_S - now_s + 1
            if await self._nonces.seen(signed.client_id, signed.nonce, ttl_s):
                return self._refuse("replay")
        except NoncesFull:
            self._note("full")
            return BUSY
        caller.body_sha256 = signed.body_sha256
        return record

    async def recheck(self, credential: str) -> Refusal | None:
        """Whether a running request that this source let in (`Principal.credential`) would be refused by now.

        None also for credentials that are not from here.
        """
        mark, _, rest = credential.partition("/")
        digest, _, client_id = rest.partition("/")
        if mark != CREDENTIAL:
            return None
        client = self._clients.get(client_id)
        if client is None or bool(client.require_key) != bool(digest):
            return KEY_REVOKED
        if not digest:
            finished = await self._finish(client.principal)
            return finished if isinstance(finished, Refusal) else None
        shown = self._kept.renew(credential) if self._kept is not None else None
        if shown is None:
            return None
        found = await self._find_key(Presented(shown.caller, shown.key, digest))
        if not isinstance(found, KeyRecord) or found.principal.key_id != client.require_key:
            return KEY_REVOKED
        return judge(found, shown.caller.address, clock.wall_s()) or found.refusal

    async def aclose(self) -> None:
        """See `KeySource.aclose`."""
        await self._nonces.aclose()

    async def _record(self, presented: Presented, client_id: str, client: _Client) -> KeyRecord | Refusal:
        if not client.require_key:
            principal = await self._finish(client.principal)
            if isinstance(principal, Refusal):
                return principal
            return KeyRecord(client.digest, replace(principal, credential=f"{CREDENTIAL}//{client_id}"))
        found = await self._find_key(presented)
        if not isinstance(found, KeyRecord) or found.principal.key_id != client.require_key or presented.key is None:
            return self._refuse("no_key")
        credential = f"{CREDENTIAL}/{presented.digest}/{client_id}"
        if self._kept is not None:
            self._kept.keep(credential, presented.key, presented.caller, whole=False)
        return msgspec.structs.replace(found, principal=replace(found.principal, credential=credential))

    async def _unsigned(self, presented: Presented) -> Refusal | None:
        if not self._bound_keys:
            return None
        found = await self._find_key(presented)
        if isinstance(found, KeyRecord) and found.principal.key_id in self._bound_keys:
            return self._refuse("not_signed")
        return None

    async def _find_key(self, presented: Presented) -> KeyRecord | Refusal | None:
        if presented.key is None:
            return None
        for source in self.keys:
            if (found := await source.find(presented)) is not None:
                return found
        return None

    def _refuse(self, reason: str) -> Refusal:
        self._note(reason)
        return BAD_SIGNATURE

    def _note(self, reason: str) -> None:
        self.refused[self.name, reason] += 1
        _log.info("source %s: a signed request is refused: %s", self.name, reason)
