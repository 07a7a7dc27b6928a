"""Settings -> the sources that know tokens and signed requests."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

from zuebee.app.redis import redis_client
from zuebee.auth.credentials import Finish
from zuebee.auth.handles import Handles
from zuebee.auth.nonce_files import KeptNonces
from zuebee.auth.nonces import Nonces, RedisNonces
from zuebee.auth.signed import SignatureSource
from zuebee.config import RedisSettings, Settings, SourceSettings
from zuebee.config.money import StoreSettings
from zuebee.contracts.keys import KeySource


class TokenState:
    """What outlives a reload: the nonces of this process, and what was refused by source and reason."""

    def __init__(self) -> None:
        self.refused: Counter[tuple[str, str]] = Counter()
        self._nonces: KeptNonces | None = None

    def nonces(self, store: StoreSettings) -> KeptNonces:
        """Those of this process, in files beside its store. Raises OSError."""
        if self._nonces is None:
            self._nonces = KeptNonces(nonces_path(store))
        return self._nonces


def jwt_source(
    source: SourceSettings, state: TokenState, proxy_for: Callable[[str], str | None], finish: Finish
) -> KeySource:
    """A source of type `jwt`. Raises ValueError or OSError."""
    from zuebee.auth.jwt import JwtSource  # brings OpenSSL along: 0.06 s that most starts can do without

    if source.jwt is None:
        raise ValueError("auth.pipeline: type `jwt` needs the section `jwt`")
    proxy_url = proxy_for(source.jwt.jwks_url) if source.jwt.jwks_url else None
    try:
        return JwtSource(source.name, source.jwt, finish, proxy_url, state.refused)
    except ValueError as error:
        raise ValueError(f"auth: the issuer's keys of `{source.name or source.type}`: {error}") from None


def signature_source(
    source: SourceSettings, settings: Settings, state: TokenState, handles: Handles, finish: Finish
) -> SignatureSource:
    """A source of type `signature`. Its `keys` are for the pipeline's builder to fill in. Raises OSError."""
    nonces: Nonces = state.nonces(settings.store) if settings.redis is None else _shared(settings.redis)
    return SignatureSource(source.name, source.clients, nonces, finish=finish, kept=handles, refused=state.refused)


def nonces_path(store: StoreSettings) -> Path:
    """Beside the one file that no other process has: `zuebee-nonces` beside `zuebee.db`, or beside the spool file."""
    own = Path(store.path if store.url is None else store.spool_path)
    return own.with_name(f"{own.stem}-nonces")


def _shared(redis: RedisSettings) -> RedisNonces:
    client = redis_client(redis.url, timeout_s=redis.timeout_s, retry_after_s=redis.retry_after_s)
    return RedisNonces(client, redis.prefix)
