"""What the pipeline of key sources means. PURE."""

import base64
import binascii
import re
from collections.abc import Callable, Iterator, Mapping
from typing import TypeAlias
from urllib.parse import urlsplit

from zuebee.config.settings import Settings
from zuebee.config.settings_auth import (
    ApiKeySettings,
    BillingSourceSettings,
    DatabaseSourceSettings,
    JwtSettings,
    RedisSourceSettings,
    ScriptSettings,
    SignatureClientSettings,
    SourceSettings,
    WebhookSourceSettings,
)
from zuebee.config.yaml import Path

Said: TypeAlias = tuple[Path, str, bool]
IsFile: TypeAlias = Callable[[str], bool]

MAX_CACHE_S = 5.0
REVOKED_WITHIN_S = 5.0
"""How long a request that runs may outlive its key: an answer as old as the cache, found at the next heartbeat or, if
that one did not wait for it, at the one after."""
MIN_SECRET = 32
MIN_SCRIPT_MEMORY = 2 << 20
_SECTIONS = ("redis", "database", "webhook", "billing", "jwt")
_COLUMN = re.compile(r"[A-Za-z_][A-Za-z0-9_$]{0,62}")
_TABLE = re.compile(r"([A-Za-z_][A-Za-z0-9_$]{0,62}\.)?[A-Za-z_][A-Za-z0-9_$]{0,62}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_METHOD = re.compile(r"/[A-Za-z_][A-Za-z0-9_.]*/[A-Za-z_][A-Za-z0-9_]*")
_SERVICE = re.compile(r"(\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<host>[A-Za-z0-9_.-]+)):(?P<port>\d{1,5})")
_METADATA_NAME = re.compile(r"[0-9a-z_.-]+")
# What the question says itself.
_FIXED_HEADERS = frozenset({"host", "content-length", "content-type", "transfer-encoding", "connection"})


def auth_findings(settings: Settings, is_file: IsFile) -> Iterator[Said]:
    """(path, message, fatal) of everything that is wrong with `auth`."""
    auth = settings.auth
    if not settings.auth_on:
        return
    running = [each for each in auth.pipeline if each.enabled]
    if auth.pipeline and not running:
        yield ("auth", "pipeline"), "no source is enabled, so nobody could get in", True
    if settings.api_keys and running and not any(each.type == "file" for each in running):
        yield ("api_keys",), "not asked by `auth.pipeline`: add a source of type `file`, or remove them", True
    if running and all(each.type == "file" for each in running) and not settings.api_keys:
        yield ("auth", "pipeline"), "needs at least one key in `api_keys`: nobody could get in", True
    first_with: dict[str, int] = {}
    for index, source in enumerate(auth.pipeline):
        path: Path = ("auth", "pipeline", index)
        name = source.name or source.type
        if (other := first_with.setdefault(name, index)) != index:
            yield path, f"the same name as `auth.pipeline[{other}]`: set `name`", True
        if not _NAME.fullmatch(name):
            yield (*path, "name"), "expected letters, digits, `_`, `.` and `-`, at most 64", True
        if source.enabled:
            yield from _source(path, source, is_file)
    if auth.script is not None:
        yield from _script(("auth", "script"), auth.script, is_file)
    if auth.cache_s > MAX_CACHE_S:
        yield ("auth", "cache"), "expected at most 5s: a revoked key would still work that long", True
    elif auth.cache_s + 2 * settings.billing.renew_interval_s > REVOKED_WITHIN_S:
        yield ("auth", "cache"), _too_slow(auth.cache_s, settings.billing.renew_interval_s), True
    if auth.cache_redis:
        if settings.redis is None:
            yield ("auth", "cache_redis"), "needs the section `redis`", True
        if len(auth.cache_secret) < MIN_SECRET:
            yield ("auth", "cache_secret"), f"needed for `cache_redis`, with at least {MIN_SECRET} characters", True


def _too_slow(cache_s: float, renew_interval_s: float) -> str:
    return (
        f"{cache_s:g}s and two times `billing.renew_interval` ({renew_interval_s:g}s) are more than"
        f" {REVOKED_WITHIN_S:g}s: streams of a revoked key would go on that long; make one of the two shorter"
    )


def _source(path: Path, source: SourceSettings, is_file: IsFile) -> Iterator[Said]:
    for name in _SECTIONS:
        given = getattr(source, name) is not None
        if name == source.type and not given:
            yield (*path, name), "required, but missing", True
        elif given and name != source.type:
            yield (*path, name), f"has no effect in a source of type `{source.type}`", True
    if source.type == "signature" and not source.clients:
        yield (*path, "clients"), "required, but missing", True
    elif source.clients and source.type != "signature":
        yield (*path, "clients"), f"has no effect in a source of type `{source.type}`", True
    if source.redis is not None:
        yield from _redis((*path, "redis"), source.redis)
    if source.database is not None:
        yield from _database((*path, "database"), source.database)
    if source.webhook is not None:
        yield from _webhook((*path, "webhook"), source.webhook)
    if source.billing is not None:
        yield from _billing((*path, "billing"), source.billing, is_file)
    if source.script is not None:
        yield from _script((*path, "script"), source.script, is_file)
    if source.type == "lua" and (source.script is None or not source.script.enabled):
        yield (*path, "script"), "required, but missing: in a source of type `lua` the script alone decides", True


def _script(path: Path, script: ScriptSettings, is_file: IsFile) -> Iterator[Said]:
    if not script.enabled:
        return
    if not script.path and not script.script.strip():
        yield path, "expected `script` or `path`: an empty script admits everybody", True
    if script.path and not is_file(script.path):
        yield (*path, "path"), "no such file, or it cannot be read", True
    if script.max_memory < MIN_SCRIPT_MEMORY:
        yield (*path, "max_memory"), "expected at least 2MB: Lua needs that to start", True


def _redis(path: Path, redis: RedisSourceSettings) -> Iterator[Said]:
    parts = re.split(r"\{api_key\}|\{key_sha256\}", redis.key_pattern)
    if len(parts) == 1:
        yield (*path, "key_pattern"), "expected `{api_key}` or `{key_sha256}` in it", True
    elif redis.key_pattern.startswith("{api_key}"):
        message = "begins with the key, so a caller could read any entry of this Redis: put a fixed prefix before it"
        yield (*path, "key_pattern"), message, True
    try:
        url = urlsplit(redis.addr if "://" in redis.addr else f"redis://{redis.addr}")
        right = url.scheme in ("redis", "rediss", "unix") and bool(url.hostname or url.path) and url.port != 0
    except ValueError:
        right = False
    if not right:
        yield (*path, "addr"), "expected `host:port`, or a redis:// or rediss:// URL", True


def _database(path: Path, database: DatabaseSourceSettings) -> Iterator[Said]:
    message = "expected a name of letters, digits and `_`"
    if not _TABLE.fullmatch(database.table):
        yield (*path, "table"), f"{message}, optionally after a schema and a dot", True
    if not _COLUMN.fullmatch(database.key_column):
        yield (*path, "key_column"), message, True
    for index, name in enumerate(database.fields):
        if not _COLUMN.fullmatch(name):
            yield (*path, "fields", index), message, True
    if not database.dsn.strip():
        yield (*path, "dsn"), "required, but empty", True


def _webhook(path: Path, webhook: WebhookSourceSettings) -> Iterator[Said]:
    """The URL is never quoted: it may hold a secret."""
    try:
        url = urlsplit(webhook.url)
        right = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError:
        right = False
    if not right or re.search(r"[^\x21-\x7e]", webhook.url):
        yield (*path, "url"), "expected a URL that begins with `http://` or `https://`", True
    elif "@" in url.netloc:
        yield (*path, "url"), "a URL with a user or password is not accepted; use `headers`", True
    elif url.scheme == "http" and url.hostname not in ("127.0.0.1", "localhost", "::1"):
        yield (*path, "url"), "keys are sent to it without encryption: use https outside of a trusted network", False
    yield from _headers((*path, "headers"), webhook.headers)


def _billing(path: Path, billing: BillingSourceSettings, is_file: IsFile) -> Iterator[Said]:
    found = _SERVICE.fullmatch(billing.addr)
    if not found or not 0 < int(found["port"]) < 65536:
        yield (*path, "addr"), "expected `host:port`", True
    if not _METHOD.fullmatch(billing.method):
        yield (*path, "method"), "expected `/package.Service/Method`", True
    tls = billing.tls
    if tls is not None and tls.enabled:
        for name in ("ca_file", "cert_file", "key_file"):
            if (file := getattr(tls, name)) is not None and not is_file(file):
                yield (*path, "tls", name), "no such file, or it cannot be read", True
        if (tls.cert_file is None) != (tls.key_file is None):
            yield (*path, "tls"), "expected both of `cert_file` and `key_file`, or none", True
    elif found and (found["host"] or found["v6"]) not in ("127.0.0.1", "localhost", "::1"):
        yield path, "keys are sent to it without encryption: use `tls` outside of a trusted network", False
    for name, value in billing.headers.items():
        if not _METADATA_NAME.fullmatch(name) or name.startswith("grpc-") or name.endswith("-bin"):
            yield (*path, "headers", name), "not a name for metadata: lower case, not `grpc-...`, not `...-bin`", True
        if not re.fullmatch(r"[\x20-\x7e]*", value):
            yield (*path, "headers", name), "metadata can only have printable ASCII characters", True


def _headers(path: Path, headers: Mapping[str, str]) -> Iterator[Said]:
    for name, value in headers.items():
        if not _HEADER_NAME.fullmatch(name):
            yield (*path, name), "not a header name", True
        elif name.lower() in _FIXED_HEADERS:
            yield (*path, name), "the gateway sets this header itself; it cannot be configured", True
        if re.search(r"[\r\n\0]", value):
            yield (*path, name), "a header cannot contain line breaks", True


# Secrets that are none, and what tokens and signatures need. PURE. No finding contains a value.

MIN_SIGNATURE_SECRET = 32
MIN_VARIETY = 8
"""Different characters that 32 random ones have at the very least: hexadecimal ones do but for one case in 30,000."""
MAX_LEEWAY_S = 300

Found = tuple[Path, str, bool]

GUESSED = "a well-known placeholder: anyone could guess it"
_NOT_FIRST = "has clients with `require_key`, so it must stand first: another source would take the key alone"
_UNSAFE_URL = "expected a URL that begins with `https://` (`http://` on this machine), without a user or fragment"
_PREFIXES = re.compile(r"^((sk|pk|whsec|bearer|api|llmproxy|litellm|zuebee)[-_])+", re.IGNORECASE)
_EXAMPLES = """
    0123456789 0123456789abcdef 1234 12345 123456 1234567 12345678 123456789 1234567890 abc123 abcdef abcdefgh admin
    administrator anything apikey change changeit changeme changethis changethiskey dev deadbeef default demo dummy
    empty example fake foo foobar hello helloworld hunter2 insecure key letmein local master masterkey mykey
    mysecret mytoken none notasecret nothing null pass passw0rd password password1 password123 placeholder private
    qwerty qwertyuiop replace replaceme replacethis root sample secret secretkey secrettoken secure supersecret test
    testing testkey token topsecret undefined unsafe welcome yourkey yoursecret yourtoken
    """
_WORDS = frozenset(_EXAMPLES.split())
_COMPOSED = """
    a abc123 any api app client demo dev docs example for go here key litellm llmproxy lm lmstudio local model my no
    needed not of ollama openai our placeholder prod proj project required sample secret server service sk some studio
    team test the this to todo token user vllm zuebee
    """
_PARTS = frozenset(_COMPOSED.split())
"""Words of which alone examples are made: `sk-my-team-key-1`, `not-needed`."""
_SAID = re.compile(
    r"your[-_ ].*|.*\b(change|replace)[-_ ]?(me|this|it)\b.*|<.*>|\$\{?[A-Z_]+\}?|(insert|enter|put|add)[-_ ].*"
    r"|.*(\.\.\.|…).*",
    re.IGNORECASE,
)
_KEY_ID = re.compile(r"key_[A-Za-z0-9_-]+")
_CLIENT_ID = re.compile(r"[!-~]{1,128}")


def is_placeholder(text: str) -> bool:
    """Whether a secret is one that stands in examples, or a part of one again and again."""
    bare = _PREFIXES.sub("", text.strip())
    if _SAID.fullmatch(bare.replace("_", "-")) or _SAID.fullmatch(text):
        return True
    parts = [part for part in re.split(r"[^a-z0-9]+", bare.lower()) if part]
    if parts and all(part in _PARTS or re.fullmatch(r"\d{1,4}", part) for part in parts):
        return True
    word = re.sub(r"[^a-z0-9]", "", bare.lower())
    unit = re.fullmatch(r"(.{1,16}?)\1+", word)
    for candidate in (word, unit[1] if unit else word):
        core = re.sub(r"(key|token|secret|here|\d{1,4})$", "", candidate)
        if len(candidate) < 4 or candidate in _WORDS or core in _WORDS:
            return True
    return False


def is_guessable(key: ApiKeySettings) -> bool:
    """Whether a key of the file is a placeholder, and counts."""
    return key.enabled and key.key is not None and is_placeholder(key.key)


def has_guessable_key(settings: Settings) -> bool:
    """Whether anyone could guess a key that lets callers in."""
    return settings.auth_on and any(is_guessable(key) for key in settings.api_keys)


def secret_findings(settings: Settings, is_file: Callable[[str], bool]) -> Iterator[Found]:
    """(path, message, fatal) of secrets that anyone could guess, and of sources of tokens and signatures."""
    for index, key in enumerate(settings.api_keys):
        if is_guessable(key):
            # Not fatal on this machine: published example files start as they are.
            yield ("api_keys", index, "key"), GUESSED, False
    secret = settings.auth.cache_secret
    if len(secret) >= MIN_SIGNATURE_SECRET and (is_placeholder(secret) or len(set(secret)) < MIN_VARIETY):
        yield ("auth", "cache_secret"), GUESSED, True
    if settings.metrics.token is not None and is_placeholder(settings.metrics.token):
        yield ("metrics", "token"), GUESSED, True
    for place, reporter in enumerate(settings.usage.reporters):
        if reporter.enabled and settings.usage.enabled:
            for index, secret in enumerate(reporter.secrets):
                if is_placeholder(secret) or is_placeholder(_decoded(secret)):
                    yield ("usage", "reporters", place, "secrets", index), GUESSED, True
    yield from _sources(settings.auth.pipeline, is_file)


def _decoded(secret: str) -> str:
    """What a webhook's secret is the base64 of, if that is a text; else the secret."""
    try:
        return base64.b64decode(secret.removeprefix("whsec_"), validate=True).decode("ascii")
    except (binascii.Error, ValueError):
        return secret


def _sources(pipeline: list[SourceSettings], is_file: Callable[[str], bool]) -> Iterator[Found]:
    first_with: dict[str, Path] = {}
    before = False
    for index, source in enumerate(pipeline):
        path: Path = ("auth", "pipeline", index)
        if not source.enabled:
            continue
        if source.type == "jwt":
            yield from _jwt((*path, "jwt"), source.jwt, is_file)
        elif source.type == "signature":
            if before and any(client.require_key for client in source.clients):
                yield path, _NOT_FIRST, True
            for place, client in enumerate(source.clients):
                yield from _client((*path, "clients", place), client, first_with)
        before = before or source.type != "signature"


def _jwt(path: Path, jwt: JwtSettings | None, is_file: Callable[[str], bool]) -> Iterator[Found]:
    if jwt is None:
        return
    if (jwt.jwks_file is None) == (jwt.jwks_url is None):
        yield path, "expected either `jwks_file` or `jwks_url`", True
    for name, value in (("jwks_file", jwt.jwks_file), ("jwks_ca_file", jwt.jwks_ca_file)):
        if value is not None and not is_file(value):
            yield (*path, name), "no such file, or it cannot be read", True
    if jwt.jwks_url is not None and not _is_safe(jwt.jwks_url):
        yield (*path, "jwks_url"), _UNSAFE_URL, True
    if jwt.leeway_s > MAX_LEEWAY_S:
        yield (*path, "leeway"), "expected at most 5m: expired tokens would be accepted that much longer", True


def _is_safe(text: str) -> bool:
    try:
        url = urlsplit(text)
        _ = url.port
    except ValueError:
        return False
    if not url.hostname or "@" in url.netloc or url.fragment or not re.fullmatch(r"[!-~]+", text):
        return False
    here = url.hostname in ("localhost", "::1") or re.fullmatch(r"127(\.\d{1,3}){3}", url.hostname) is not None
    return url.scheme == "https" or (url.scheme == "http" and here)


def _client(path: Path, client: SignatureClientSettings, first_with: dict[str, Path]) -> Iterator[Found]:
    if not _CLIENT_ID.fullmatch(client.client_id):
        yield (*path, "client_id"), "expected at most 128 visible ASCII characters, without spaces", True
    if first_with.setdefault(f"id {client.client_id}", path) != path:
        yield (*path, "client_id"), "the same client again", True
    if client.require_key and not _KEY_ID.fullmatch(client.require_key):
        yield (*path, "require_key"), "expected the id of a key (`key_...`), not the key", True
    for index, secret in enumerate(client.secrets):
        place: Path = (*path, "secrets", index)
        if len(secret) < MIN_SIGNATURE_SECRET:
            yield place, f"expected at least {MIN_SIGNATURE_SECRET} characters, as `openssl rand -hex 32` makes", True
        elif is_placeholder(secret) or len(set(secret)) < MIN_VARIETY:
            yield place, GUESSED, True
        elif first_with.setdefault(f"secret {secret}", path) != path:
            yield place, "the same secret as another client's: each could sign for the other", True
