"""Settings -> who may call: the sources of keys, their scripts, and the pipeline they make."""

import hashlib
import logging
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import quote, urlsplit, urlunsplit

import msgspec
from msgspec import UNSET

from zuebee.app.connect import redis_client
from zuebee.app.grpc import billing_lookup
from zuebee.auth.lookups import AnyKey, Lookup, MapSource, RedisLookup, SharedAnswers
from zuebee.auth.nonces import KeptNonces, Nonces, RedisNonces
from zuebee.auth.records import Finish, unchanged
from zuebee.auth.service import AuthPipeline
from zuebee.auth.signatures import SignatureSource
from zuebee.auth.sources.base import FileSource, file_records
from zuebee.auth.sources.cached import Step
from zuebee.auth.sources.database import DatabaseLookup
from zuebee.auth.sources.sandbox import ScriptLimits, ScriptMistake
from zuebee.auth.sources.script import DecisionScript, ScriptThreads
from zuebee.auth.sources.webhook import WebhookLookup
from zuebee.auth.state import PIPELINE, AuthCounters, Handles
from zuebee.config.settings import Settings
from zuebee.config.settings_auth import RedisSourceSettings, ScriptSettings, SourceSettings
from zuebee.config.settings_base import RedisSettings
from zuebee.config.settings_billing import StoreSettings
from zuebee.contracts.keys import KeySource
from zuebee.lib.sql.database import Database, DatabaseError, database_url
from zuebee.lib.tasks import Tasks

# Settings -> the sources that know tokens and signed requests.


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
    from zuebee.auth.tokens import JwtSource  # brings OpenSSL along: 0.06 s that most starts can do without

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


if TYPE_CHECKING:
    from zuebee.lib.redis import RedisClient

_log = logging.getLogger("zuebee.auth")

_ASK_STORE = {"store", "jwt", "signature"}
"""Kinds of sources that ask the store: the last two for the accounts that they name."""

_DEFAULT = (SourceSettings(type="file"), SourceSettings(type="store"))


class UnaskedKeys(Protocol):
    """What is asked of the key store when nobody needs a key."""

    async def has_keys(self) -> bool:
        """Whether there is a key that was not revoked. Raises DatabaseError."""
        ...


class AuthState:
    """What outlives a reload: counters, and the credentials of running requests."""

    def __init__(self) -> None:
        self.counters = AuthCounters()
        self.handles = Handles()
        self.tokens = TokenState()


def build_pipeline(
    settings: Settings,
    state: AuthState,
    *,
    store_source: KeySource | None = None,
    proxy_for: Callable[[str], str | None] = lambda _: None,
    finish: Finish = unchanged,
) -> AuthPipeline:
    """The pipeline of the settings. `finish`: gives principals of tokens and signatures what the store
    says of those that they name. `proxy_for`: the forward proxy to a URL. Raises ValueError and OSError; what it says
    can be shown.
    """
    return _Builder(settings, state, store_source, proxy_for, finish).build()


def check_pipeline(settings: Settings) -> None:
    """Find what is seen only when it is made: scripts that do not compile, an issuer's keys that cannot be read.

    Touches nothing that others would notice. Raises ValueError and OSError; what it says can be shown.
    """
    if settings.auth_on:
        _Builder(settings, AuthState(), None, lambda _: None, unchanged).check()


def needs_store(settings: Settings, *, has_keys: bool) -> bool:
    """Whether requests fail while the store cannot be asked who calls. `has_keys`: it has keys.

    Where others know callers as well, it is needed only if there are keys in it.
    """
    if not settings.auth_on:
        return False
    sources = {source.type for source in settings.auth.pipeline or _DEFAULT if source.enabled}
    if not settings.api_keys:
        sources.discard("file")
    others = sources - _ASK_STORE
    return sources != others and (has_keys or not others)


async def warn_of_unasked_keys(settings: Settings, keys: UnaskedKeys) -> None:
    """Say it in the log when somebody made keys, but the gateway is open for it was never told to ask for them."""
    if settings.auth.enabled is not UNSET or settings.auth_on:
        return
    try:
        found = await keys.has_keys()
    except DatabaseError as error:
        _log.warning("whether there are keys in the store cannot be said: %s", error)
        return
    if found:
        _log.warning("keys exist in the store but nothing asks for them: set auth.enabled: true")


class LentSource:
    """A source that belongs to somebody else: a pipeline that ends leaves it open for the next one."""

    def __init__(self, name: str, source: KeySource) -> None:
        self.name = name
        self.find = source.find

    async def aclose(self) -> None:
        """Nothing: its owner closes it."""


class _Builder:
    def __init__(
        self,
        settings: Settings,
        state: AuthState,
        store_source: KeySource | None,
        proxy_for: Callable[[str], str | None],
        finish: Finish,
    ) -> None:
        self._settings = settings
        self._state = state
        self._store_source = store_source
        self._proxy_for = proxy_for
        self._finish = finish
        self._threads = ScriptThreads()
        self._tasks = Tasks()
        self._shared_client: RedisClient | None = None

    def build(self) -> AuthPipeline:
        auth = self._settings.auth
        names: set[str] = set()
        steps = []
        for source in auth.pipeline or _DEFAULT:
            if not source.enabled or (not auth.pipeline and source.type == "store" and self._store_source is None):
                continue
            name = source.name or source.type
            while name in names:
                name += "-2"
            names.add(name)
            steps.append(self._step(msgspec.structs.replace(source, name=name)))
        # A key that a script decides about is not known by its source alone.
        keys = tuple(step.source for step in steps if not step.per_request and step.script is None)
        for step in steps:
            if isinstance(step.source, SignatureSource):
                step.source.keys = keys
        return AuthPipeline(
            steps,
            header_names=auth.header_names,
            mode=auth.mode,
            timeout_s=auth.timeout_s,
            counters=self._state.counters,
            handles=self._state.handles,
            tasks=self._tasks,
            script=self._script(PIPELINE, auth.script),
            threads=self._threads,
            closes=[self._shared_client.aclose] if self._shared_client is not None else [],
        )

    def check(self) -> None:
        auth = self._settings.auth
        self._script(PIPELINE, auth.script)
        for source in auth.pipeline:
            if source.enabled:
                self._script(source.name or source.type, source.script)
                if source.type == "jwt":
                    jwt_source(source, self._state.tokens, self._proxy_for, self._finish)

    def _step(self, source: SourceSettings) -> Step:
        script = self._script(source.name, source.script)
        # Two caches in a row: each gets half, so that together they keep the promise.
        cache_s = self._settings.auth.cache_s / (2 if self._settings.auth.cache_redis else 1)
        return Step(
            self._source(source, scripted=script is not None),
            script,
            cache_s=cache_s,
            timeout_s=self._settings.auth.timeout_s,
            counters=self._state.counters,
            tasks=self._tasks,
        )

    def _source(self, source: SourceSettings, *, scripted: bool) -> KeySource:
        if source.type == "file":
            return FileSource(file_records(self._settings), source.name)
        if source.type == "store":
            if self._store_source is None:
                raise ValueError("auth.pipeline: type `store` needs the key store")
            return LentSource(source.name, self._store_source)
        if source.type == "jwt":
            return jwt_source(source, self._state.tokens, self._proxy_for, self._finish)
        if source.type == "signature":
            return signature_source(source, self._settings, self._state.tokens, self._state.handles, self._finish)
        if source.type == "lua":
            return MapSource(source.name, AnyKey())
        return MapSource(source.name, self._lookup(source, scripted), self._shared(source))

    def _lookup(self, source: SourceSettings, scripted: bool) -> Lookup:
        if source.redis is not None and source.type == "redis":
            client = redis_client(redis_url(source.redis), timeout_s=source.redis.timeout_s)
            return RedisLookup(client, source.redis.key_pattern)
        if source.database is not None and source.type == "database":
            asked = source.database
            url = database_url(asked.driver, asked.dsn)
            return DatabaseLookup(
                Database(url, timeout_s=asked.timeout_s, read_only=True),
                table=asked.table,
                key_column=asked.key_column,
                key_form=asked.key_form,
                fields=asked.fields,
            )
        if source.webhook is not None and source.type == "webhook":
            return WebhookLookup(
                source.webhook.url,
                method=source.webhook.method,
                headers=source.webhook.headers,
                timeout_s=source.webhook.timeout_s,
                proxy_url=self._proxy_for(source.webhook.url),
                script_decides=scripted,
            )
        if source.billing is not None and source.type == "billing":
            return billing_lookup(source.billing)
        raise ValueError(f"auth.pipeline: type `{source.type}` is not available here, or its section is missing")

    def _shared(self, source: SourceSettings) -> SharedAnswers | None:
        auth, redis = self._settings.auth, self._settings.redis
        if not auth.cache_redis or redis is None or auth.cache_s <= 0:
            return None
        if self._shared_client is None:
            self._shared_client = redis_client(redis.url, timeout_s=redis.timeout_s, retry_after_s=redis.retry_after_s)
        # Answers of a source that is asked differently are other answers.
        asked = hashlib.sha256(repr(msgspec.to_builtins(source, enc_hook=str)).encode()).hexdigest()
        return SharedAnswers(self._shared_client, f"{redis.prefix}{asked[:16]}:", auth.cache_secret, auth.cache_s / 2)

    def _script(self, name: str, settings: ScriptSettings | None) -> DecisionScript | None:
        if settings is None or not settings.enabled:
            return None
        text = Path(settings.path).read_text("utf-8") if settings.path else settings.script
        limits = ScriptLimits(settings.timeout_s, settings.max_memory, settings.max_instructions)
        try:
            return DecisionScript(name, text, limits, self._threads, self._state.counters)
        except ScriptMistake as mistake:
            raise ValueError(f"auth: the script of `{name}` cannot be compiled: {mistake}") from None


def redis_url(settings: RedisSourceSettings) -> str:
    """One URL out of address, password and database; those in the URL win."""
    text = settings.addr if "://" in settings.addr else f"redis://{settings.addr}"
    parts = urlsplit(text)
    place = parts.netloc
    if settings.password and "@" not in place:
        place = f":{quote(settings.password, safe='')}@{place}"
    path = parts.path if parts.path.strip("/") or parts.scheme == "unix" else f"/{settings.db}"
    return urlunsplit((parts.scheme, place, path, parts.query, ""))
