"""Enterprise clients that sign their requests, as a source of the pipeline."""

import base64
import hashlib
import hmac
import logging
import re
import secrets
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final, NamedTuple, Protocol

import msgspec

from zuebee.auth import signatures
from zuebee.auth.nonces import Nonces, NoncesFull
from zuebee.auth.records import Finish, digest_of, judge, unchanged
from zuebee.config.settings_auth import SignatureClientSettings
from zuebee.contracts.admission import Caller, Principal
from zuebee.contracts.errors import KEY_REVOKED, Refusal
from zuebee.contracts.keys import Credential, KeyRecord, KeySource
from zuebee.lib import clock

_log = logging.getLogger("zuebee.auth")

CREDENTIAL = "signed"
"""What the handles of credentials begin with that this source gives out: `signed/DIGEST OF THE KEY/CLIENT`."""

# One answer for every reason: a caller who guesses learns nothing from it.
BAD_SIGNATURE = Refusal(
    401, "authentication_error", "invalid_signature", "The signature of this request is missing or not valid."
)
BUSY = Refusal(
    503,
    "overloaded_error",
    "too_many_signed_requests",
    "This client has sent too many signed requests. Try again later.",
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

    async def find(self, presented: Credential) -> KeyRecord | Refusal | None:
        caller = presented.caller
        # Only a signature that fitted sets this: the request runs already, and its key is asked about again.
        again = bool(caller.body_sha256)
        if not signatures.is_signed(caller.fields):
            return None if again else await self._unsigned(presented)
        signed = signatures.read_fields(caller.fields)
        if signed is None:
            return self._refuse("malformed")
        now_s = clock.wall_s()
        client = self._clients.get(signed.client_id)
        path = caller.raw_path or caller.path.encode()
        text = signatures.canonical(caller.method, path, caller.query, signed)
        fits = signatures.fits(self._nobody if client is None else client.secrets, text, signed.signatures)
        if client is None or not fits:
            return self._refuse("unknown_client" if client is None else "mismatch")
        if not again and not signatures.in_window(signed.timestamp, now_s):
            return self._refuse("stale")
        record = await self._record(presented, signed.client_id, client)
        if again or isinstance(record, Refusal):
            return record
        try:
            # A second more than the window: until the very last moment at which its timestamp would be accepted.
            ttl_s = int(signed.timestamp) + signatures.WINDOW_S - now_s + 1
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
        found = await self._find_key(Credential(shown.caller, shown.key, digest))
        if not isinstance(found, KeyRecord) or found.principal.key_id != client.require_key:
            return KEY_REVOKED
        return judge(found, shown.caller.address, clock.wall_s()) or found.refusal

    async def aclose(self) -> None:
        await self._nonces.aclose()

    async def _record(self, presented: Credential, client_id: str, client: _Client) -> KeyRecord | Refusal:
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

    async def _unsigned(self, presented: Credential) -> Refusal | None:
        if not self._bound_keys:
            return None
        found = await self._find_key(presented)
        if isinstance(found, KeyRecord) and found.principal.key_id in self._bound_keys:
            return self._refuse("not_signed")
        return None

    async def _find_key(self, presented: Credential) -> KeyRecord | Refusal | None:
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


# Signed requests: the canonical string, and whether a signature fits it (docs/signatures.md).
#
# HMAC-SHA256 (RFC 2104) over what makes a request: whoever changes any of it, or sends it again later, cannot sign it.

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
