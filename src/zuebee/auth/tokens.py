"""Bearer tokens of an issuer (JWT, RFC 7519) and its keys, as a source of the pipeline. Written along RFC 8725.

A token chooses nothing but which of the issuer's known keys it was signed with: its `jku`, `x5u`, `jwk` and `x5c` are
not looked at, `crit` and `b64` refuse it, and no claim is read before the signature is found right.
"""

import asyncio
import base64
import hashlib
import json
import logging
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Final, Generic, NamedTuple, TypeAlias, TypeVar, cast
from urllib.parse import urlsplit

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt.algorithms import get_default_algorithms

from zuebee.auth.records import Finish, unchanged
from zuebee.config.settings_auth import JwtSettings
from zuebee.contracts.admission import Principal
from zuebee.contracts.errors import Refusal
from zuebee.contracts.keys import Credential, KeyRecord
from zuebee.http.connect import Origin, bypasses_proxy
from zuebee.http.pool import Connection, HttpFailure, HttpPool, Timeouts
from zuebee.lib import clock
from zuebee.lib.tasks import Tasks

# An issuer's keys (JWKS, RFC 7517), from a file or a URL: kept for a while, fetched again with measure.


K = TypeVar("K")

MAX_DOCUMENT_BYTES: Final = 1 << 20
FETCH_TIMEOUT_S: Final = 5.0
MIN_INTERVAL_S: Final = 10.0
"""Between two attempts, whatever asks for them: an unknown key id in a token costs nobody a fetch of its own."""
MAX_STALE_S: Final = 3600.0
"""How long keys may still be used once they should have been fetched anew, and could not be."""

Fetch = Callable[[], Awaitable[bytes]]


class KeysUnavailable(Exception):
    """There are no keys, or only such as are too old. The message holds no address."""


class JwksCache(Generic[K]):
    """The keys that `fetch` and `read` give. `read` raises ValueError for a document that is none.

    `cache_s`: how long they are used before they are fetched anew.
    """

    def __init__(self, name: str, fetch: Fetch, read: Callable[[bytes], Sequence[K]], cache_s: float) -> None:
        self._name = name
        self._fetch = fetch
        self._read = read
        self._cache_s = cache_s
        self._tasks = Tasks()
        self._flight: asyncio.Task[None] | None = None
        self._keys: Sequence[K] = ()
        self._loaded_s = -1.0
        self._tried_s = -MIN_INTERVAL_S

    def put(self, keys: Sequence[K]) -> None:
        """Use these keys from now on."""
        self._keys = keys
        self._loaded_s = clock.monotonic_s()

    async def select(self, fits: Callable[[K], bool]) -> list[K]:
        """The keys that fit; if none does, after another look at the source. Raises KeysUnavailable."""
        if self._age_s() < self._cache_s and (found := [key for key in self._keys if fits(key)]):
            return found
        if self._flight is None and clock.monotonic_s() - self._tried_s >= MIN_INTERVAL_S:
            self._tried_s = clock.monotonic_s()
            self._flight = self._tasks.spawn(self._refresh(), f"keys of {self._name}")
        if self._flight is not None:
            # Shielded: that one caller leaves must not cost the others their keys.
            await asyncio.shield(self._flight)
        if self._age_s() >= self._cache_s + MAX_STALE_S:
            raise KeysUnavailable("the issuer's keys cannot be had")
        return [key for key in self._keys if fits(key)]

    async def aclose(self) -> None:
        """Break off a fetch that runs."""
        await self._tasks.aclose()

    def _age_s(self) -> float:
        return clock.monotonic_s() - self._loaded_s if self._loaded_s >= 0 else float("inf")

    async def _refresh(self) -> None:
        try:
            self.put(self._read(await self._fetch()))
        except (OSError, ValueError, HttpFailure) as error:
            reason = error.kind if isinstance(error, HttpFailure) else str(error) or type(error).__name__
            _log.warning("source %s: the issuer's keys could not be fetched: %s", self._name, reason)
        finally:
            self._flight = None


def file_fetch(path: str) -> Fetch:
    """Reads the document from a file. Raises OSError or ValueError."""

    async def fetch() -> bytes:
        return await asyncio.to_thread(read_document, path)

    return fetch


def read_document(path: str) -> bytes:
    """The bytes of a file of at most MAX_DOCUMENT_BYTES. Raises OSError or ValueError."""
    with Path(path).open("rb") as file:
        data = file.read(MAX_DOCUMENT_BYTES + 1)
    if len(data) > MAX_DOCUMENT_BYTES:
        raise ValueError(f"larger than {MAX_DOCUMENT_BYTES} bytes")
    return data


def url_fetch(
    url: str, *, ca_file: str | None = None, proxy_url: str | None = None, timeout_s: float = FETCH_TIMEOUT_S
) -> Fetch:
    """Gets the document from a URL: https, or http on this machine. Raises ValueError for any other.

    Fetching raises HttpFailure or ValueError: within `timeout_s`, at most MAX_DOCUMENT_BYTES, redirects are not
    followed.
    """
    parts = urlsplit(url)
    if not parts.hostname or "@" in parts.netloc or parts.fragment or not re.fullmatch(r"[!-~]+", url):
        raise ValueError("not a URL with a host and nothing else before its path")
    if parts.scheme != "https" and not (parts.scheme == "http" and bypasses_proxy(parts.hostname, [])):
        raise ValueError("expected an https URL")
    origin = Origin(url, timeout_s=timeout_s, ca_file=ca_file, proxy_url=proxy_url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    head = (
        b"GET " + origin.request_prefix + target.encode("ascii") + b" HTTP/1.1\r\nhost: " + origin.authority.encode()
        + b"\r\naccept: application/jwk-set+json, application/json\r\naccept-encoding: identity\r\n"
        + origin.request_headers + b"connection: close\r\n\r\n"
    )  # fmt: skip

    async def fetch() -> bytes:
        async with asyncio.timeout(timeout_s):
            pool = HttpPool(origin, max_idle=0, max_connections=1)
            connection = await pool.send(head, b"", Timeouts(timeout_s, timeout_s, timeout_s))
            try:
                return await _read_answer(connection)
            finally:
                connection.finish()

    return fetch


async def _read_answer(connection: Connection) -> bytes:
    if connection.status != 200:
        raise ValueError(f"status {connection.status}")
    data = b""
    while part := await connection.read():
        data += part
        if len(data) > MAX_DOCUMENT_BYTES:
            raise ValueError(f"larger than {MAX_DOCUMENT_BYTES} bytes")
    return data


_log = logging.getLogger("zuebee.auth")

MAX_TOKEN_BYTES: Final = 16_384
MAX_KEYS: Final = 100
MAX_CANDIDATES: Final = 4
"""Keys that a token is tried with: more of one id, or of none, are a mistake of the issuer."""
MIN_RSA_BITS: Final = 2048
MAX_RSA_BITS: Final = 8192  # larger ones only make checking slow
MAX_CLAIM_CHARS: Final = 256
MAX_AUDIENCES: Final = 64

# One answer for every reason (RFC 6750, section 3.1): a caller who guesses learns nothing from it.
INVALID_TOKEN = Refusal(
    401,
    "authentication_error",
    "invalid_token",
    "The token is not valid.",
    headers=((b"www-authenticate", b'Bearer error="invalid_token"'),),
)

PublicKey: TypeAlias = RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey

_RSA = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
_CURVES = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
_SIGNED_FOR = frozenset({"jwt", "at+jwt", "application/at+jwt"})
_BASE64URL = re.compile(rb"[A-Za-z0-9_-]+")
_verifier = jwt.PyJWS()


class BadToken(Exception):
    """A token that must be refused; the message is a word for counters."""


class IssuerKey(NamedTuple):
    """One key of the issuer and the algorithms that it may be used with."""

    kid: str | None
    algorithms: frozenset[str]
    public: PublicKey


class JwtSource:
    """Knows the holders of tokens that one issuer signed for one audience.

    `finish` gives a principal what its plan, its user, team and organization are entitled to, or refuses it.
    `refused` counts refusals by source and reason. Raises ValueError or OSError if the settings make no sense or the
    key file is not there.
    """

    def __init__(
        self,
        name: str,
        settings: JwtSettings,
        finish: Finish = unchanged,
        proxy_url: str | None = None,
        refused: Counter[tuple[str, str]] | None = None,
    ) -> None:
        self.name = name
        self.refused: Counter[tuple[str, str]] = Counter() if refused is None else refused
        self._settings = settings
        self._finish = finish
        self._algorithms = frozenset(settings.algorithms)
        if not self._algorithms <= _RSA | set(_CURVES.values()) | {"EdDSA"}:
            raise ValueError("only asymmetric algorithms are accepted")
        fetch, first = _source_of_keys(settings, proxy_url)
        self._keys = JwksCache(name, fetch, read_jwks, settings.jwks_cache_s)
        if first is not None:
            self._keys.put(read_jwks(first))

    async def find(self, presented: Credential) -> KeyRecord | Refusal | None:
        """Raises KeysUnavailable when the issuer's keys cannot be had."""
        token = presented.key
        if token is None or not looks_like_token(token):
            return None
        try:
            claims = await self._verify(token)
            check_claims(claims, self._settings, clock.wall_s())
            principal = self._principal(claims)
        except BadToken as error:
            self.refused[self.name, str(error)] += 1
            _log.info("source %s: a token is refused: %s", self.name, error)
            return INVALID_TOKEN
        finished = await self._finish(principal)
        if isinstance(finished, Refusal):
            return finished
        expires_at_s = claims["exp"] + self._settings.leeway_s
        return KeyRecord(presented.digest, finished, expires_at_s=expires_at_s, data=claims)

    async def aclose(self) -> None:
        await self._keys.aclose()

    async def _verify(self, token: bytes) -> dict[str, Any]:
        """The claims of a token whose signature is right. Raises BadToken."""
        header, payload = _take_apart(token)
        alg, kid = _check_header(header, self._algorithms)
        keys = await self._keys.select(lambda key: alg in key.algorithms and kid in (None, key.kid))
        if not keys:
            raise BadToken("unknown_key")
        for key in keys[:MAX_CANDIDATES]:
            if _is_signed_by(token, alg, key.public):
                return _read_object(payload, "claims")
        raise BadToken("signature")

    def _principal(self, claims: dict[str, Any]) -> Principal:
        settings = self._settings
        subject = _claim(claims, "sub", required=True)
        # By issuer and subject, not by token: the limits and the budget of a user outlive a token.
        digest = hashlib.sha256(f"{settings.issuer}\n{subject}".encode()).hexdigest()
        user_id = _claim(claims, settings.user_claim, required=True)
        return Principal(
            "jwt_" + digest[:32],
            _claim(claims, settings.name_claim) or user_id,
            user_id,
            _claim(claims, settings.team_claim),
            _claim(claims, settings.organization_claim),
            _claim(claims, settings.plan_claim),
        )


def _source_of_keys(settings: JwtSettings, proxy_url: str | None) -> tuple[Fetch, bytes | None]:
    """How keys are fetched; for a file also its bytes, so that a wrong one is told at the start."""
    if (settings.jwks_file is None) == (settings.jwks_url is None):
        raise ValueError("expected either `jwks_file` or `jwks_url`")
    if settings.jwks_file is not None:
        return file_fetch(settings.jwks_file), read_document(settings.jwks_file)
    assert settings.jwks_url is not None
    return url_fetch(settings.jwks_url, ca_file=settings.jwks_ca_file, proxy_url=proxy_url), None


def looks_like_token(key: bytes) -> bool:
    """Whether a credential is meant as a token: parts with dots between, the first of them a JSON object."""
    first, _, rest = key.partition(b".")
    if b"." not in rest:
        return False
    try:
        return base64.urlsafe_b64decode(first[:64] + b"===").lstrip().startswith(b"{")
    except ValueError:
        return False


# --- the token ---


def _take_apart(token: bytes) -> tuple[dict[str, Any], bytes]:
    """Header, and the bytes of the payload that nobody may read yet. Raises BadToken."""
    if len(token) > MAX_TOKEN_BYTES:
        raise BadToken("too_large")
    parts = token.split(b".")
    if len(parts) != 3:
        raise BadToken("malformed")
    header, payload, _ = (_decode(part) for part in parts)
    return _read_object(header, "malformed"), payload


def _decode(part: bytes) -> bytes:
    """Base64url without padding in its one canonical spelling (RFC 7515, section 2). Raises BadToken."""
    if not _BASE64URL.fullmatch(part) or len(part) % 4 == 1:
        raise BadToken("malformed")
    data = base64.urlsafe_b64decode(part + b"=" * (-len(part) % 4))
    if base64.urlsafe_b64encode(data).rstrip(b"=") != part:
        raise BadToken("malformed")
    return data


def _read_object(data: bytes, reason: str) -> dict[str, Any]:
    """A JSON object in which no name stands twice: two readers could read it differently. Raises BadToken."""
    try:
        value = json.loads(data.decode(), object_pairs_hook=_no_name_twice, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise BadToken(reason) from None
    if not isinstance(value, dict):
        raise BadToken(reason)
    return value


def _no_name_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a name stands twice")
    return value


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _check_header(header: dict[str, Any], allowed: frozenset[str]) -> tuple[str, str | None]:
    """Algorithm and key id of a token. Raises BadToken."""
    alg, kid, kind = header.get("alg"), header.get("kid"), header.get("typ", "JWT")
    if not isinstance(alg, str) or alg not in allowed:
        raise BadToken("algorithm")
    if "crit" in header or "b64" in header or "cty" in header or "zip" in header or "enc" in header:
        raise BadToken("header")
    if not isinstance(kind, str) or kind.lower() not in _SIGNED_FOR:
        raise BadToken("header")
    if "kid" in header and (not isinstance(kid, str) or not 0 < len(kid) <= MAX_CLAIM_CHARS):
        raise BadToken("header")
    return alg, kid


def _is_signed_by(token: bytes, alg: str, key: PublicKey) -> bool:
    try:
        _verifier.decode_complete(token, key=key, algorithms=[alg])
    except (jwt.PyJWTError, ValueError, TypeError):
        return False
    return True


def check_claims(claims: dict[str, Any], settings: JwtSettings, now_s: float) -> None:
    """Issuer, audience and times of a verified token. Raises BadToken."""
    if claims.get("iss") != settings.issuer:
        raise BadToken("issuer")
    audience = claims.get("aud")
    audiences = [audience] if isinstance(audience, str) else audience
    if not isinstance(audiences, list) or len(audiences) > MAX_AUDIENCES:
        raise BadToken("audience")
    if not all(isinstance(one, str) for one in audiences) or settings.audience not in audiences:
        raise BadToken("audience")
    if "exp" not in claims:
        raise BadToken("expiry")
    if _time_s(claims, "exp") <= now_s - settings.leeway_s:
        raise BadToken("expired")
    for name in ("nbf", "iat"):
        if name in claims and _time_s(claims, name) > now_s + settings.leeway_s:
            raise BadToken("not_yet_valid")


def _time_s(claims: dict[str, Any], name: str) -> float:
    value = claims[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e12:
        raise BadToken("claims")
    return float(value)


def _claim(claims: dict[str, Any], name: str, *, required: bool = False) -> str:
    """A claim that is a text fit for records and counters; empty if it is not there. Raises BadToken."""
    value = claims.get(name)
    if value is None and not required:
        return ""
    if not isinstance(value, str) or not 0 < len(value) <= MAX_CLAIM_CHARS or not value.isprintable():
        raise BadToken("claims")
    return value


# --- the issuer's keys ---


def read_jwks(data: bytes) -> Sequence[IssuerKey]:
    """The keys of a JWKS that can verify; the rest (symmetric, for encryption, too small) is left out.

    Raises ValueError if it is no JWKS, or no key is left.
    """
    try:
        entries = _read_object(data, "not a JWKS").get("keys")
    except BadToken as error:
        raise ValueError(str(error)) from None
    if not isinstance(entries, list) or len(entries) > MAX_KEYS:
        raise ValueError("not a JWKS, or one with too many keys")
    keys = [key for entry in entries if isinstance(entry, dict) and (key := _read_key(entry)) is not None]
    if not keys:
        raise ValueError("a JWKS without a key that can verify")
    return keys


def _read_key(entry: dict[str, Any]) -> IssuerKey | None:
    kid, operations = entry.get("kid"), entry.get("key_ops", ["verify"])
    if entry.get("use", "sig") != "sig" or not isinstance(operations, list) or "verify" not in operations:
        return None
    if kid is not None and not isinstance(kid, str):
        return None
    public = _public_key(entry)
    if public is None:
        return None
    algorithms = _algorithms_of(public)
    if "alg" in entry:
        algorithms &= frozenset([entry["alg"]] if isinstance(entry["alg"], str) else [])
    return IssuerKey(kid, algorithms, public) if algorithms else None


def _public_key(entry: dict[str, Any]) -> PublicKey | None:
    reader = {"RSA": "RS256", "EC": "ES256", "OKP": "EdDSA"}.get(str(entry.get("kty")))
    if reader is None:
        return None
    # A private key has no business in a JWKS; what is published of it is all that is used of it.
    public_part: dict[str, Any] = {name: entry[name] for name in ("kty", "crv", "n", "e", "x", "y") if name in entry}
    try:
        return cast("PublicKey", get_default_algorithms()[reader].from_jwk(public_part))
    except (jwt.PyJWTError, ValueError, TypeError, KeyError):
        return None


def _algorithms_of(key: PublicKey) -> frozenset[str]:
    if isinstance(key, RSAPublicKey):
        return _RSA if MIN_RSA_BITS <= key.key_size <= MAX_RSA_BITS else frozenset()
    if isinstance(key, EllipticCurvePublicKey):
        return frozenset(filter(None, [_CURVES.get(key.curve.name)]))
    return frozenset({"EdDSA"}) if isinstance(key, Ed25519PublicKey) else frozenset()
