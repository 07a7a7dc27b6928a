"""What the pipeline of key sources means. PURE."""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import TypeAlias
from urllib.parse import urlsplit

from zuebee.config.access import (
    BillingSourceSettings,
    DatabaseSourceSettings,
    RedisSourceSettings,
    ScriptSettings,
    SourceSettings,
    WebhookSourceSettings,
)
from zuebee.config.settings import Settings
from zuebee.kit.yaml_tree import Path

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
        yield ("auth", "cache"), "at most 5s: for so long a revoked key lives on", True
    elif auth.cache_s + 2 * settings.billing.heartbeat_s > REVOKED_WITHIN_S:
        yield ("auth", "cache"), _too_slow(auth.cache_s, settings.billing.heartbeat_s), True
    if auth.cache_redis:
        if settings.redis is None:
            yield ("auth", "cache_redis"), "needs the section `redis`", True
        if len(auth.cache_secret) < MIN_SECRET:
            yield ("auth", "cache_secret"), f"needed for `cache_redis`, with at least {MIN_SECRET} characters", True


def _too_slow(cache_s: float, heartbeat_s: float) -> str:
    return (
        f"{cache_s:g}s and two times `billing.heartbeat` ({heartbeat_s:g}s) are more than {REVOKED_WITHIN_S:g}s:"
        " streams of a revoked key would run on for so long; make one of them shorter"
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
        yield (*path, "max_memory"), "at least 2MB: Lua needs that to begin", True


def _redis(path: Path, redis: RedisSourceSettings) -> Iterator[Said]:
    parts = re.split(r"\{api_key\}|\{key_sha256\}", redis.key_pattern)
    if len(parts) == 1:
        yield (*path, "key_pattern"), "expected `{api_key}` or `{key_sha256}` in it", True
    elif redis.key_pattern.startswith("{api_key}"):
        message = "begins with the key: a caller could name any other entry of this Redis; begin with a word"
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
        yield (*path, "table"), f"{message}, with a schema and a dot before it at most", True
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
        yield (*path, "url"), "keys are sent to it in the clear: use https outside of a trusted network", False
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
        yield path, "keys are sent to it in the clear: use `tls` outside of a trusted network", False
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
            yield (*path, name), "a header that the gateway must write itself", True
        if re.search(r"[\r\n\0]", value):
            yield (*path, name), "a header cannot contain line breaks", True
