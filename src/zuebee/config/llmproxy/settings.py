"""LLMProxy's two configuration dialects, translated to ours. PURE.

Dialect A is that of its v0.3 (`usage_hook`, `auth.storage`, `routing.load_balance_strategy`), dialect B that
of v0.5 (`server.listen`, `logging`, `auth.pipeline[].static`). Most keys are also ours. The rest is renamed,
or dropped with a warning where it has no effect here, or refused where leaving it out would change who gets
in or what is done to a request. Nodes keep the place where they were written, so later messages point there.
"""

from collections.abc import Callable
from urllib.parse import quote

from zuebee.config.llmproxy.auth import translate_access
from zuebee.config.llmproxy.tree import (
    Notes,
    check_storage,
    disabled,
    drop_zeros,
    ensure,
    is_null,
    move,
    put,
    scalar,
    script,
    seconds,
    section,
    sections,
    storage_entry,
    switched_off,
)
from zuebee.config.yaml import Mapping, Node, Path, Scalar, Sequence, number, truth

# The part of the dialects that says how fast: LLMProxy's `rate_limit`, and the cache that it names. PURE.

_DEFAULT_CACHE = "default"
_CACHE_KEYS = ("name", "enabled", "driver", "addr", "password", "db", "read_timeout")
# Of a pool, which is ours.
_CACHE_IDLE = ("pool_size", "min_idle_conns", "dial_timeout", "write_timeout", "max_size", "ttl")


def translate_limits(root: Mapping, notes: Notes) -> None:
    """Translate `rate_limit`; `storage.caches` is used up where it is the Redis of the limits."""
    limits = section(root, "rate_limit")
    if not limits:
        return
    off = disabled(limits)
    script(limits, Notes() if off else notes)
    cache = limits.items.pop("redis", None)
    for name in ("global", "per_key"):
        if scope := section(limits, name):
            _scope(scope)
    storage = limits.items.get("storage")
    if off or not isinstance(storage, Scalar) or storage.text != "redis":
        return
    _redis(root, cache if isinstance(cache, Scalar) and cache.text else scalar(storage, _DEFAULT_CACHE), notes)


def _scope(scope: Mapping) -> None:
    """Nothing and less than nothing are no limit."""
    for name, node in list(scope.items.items()):
        value = number(node)
        if is_null(node) or (name == "burst_size" and value is not None and value < 0):
            del scope.items[name]


def _redis(root: Mapping, wanted: Scalar, notes: Notes) -> None:
    """The cache of that name becomes the section `redis`, unless that is written already."""
    if "redis" in root.items:
        return
    storage = section(root, "storage")
    caches = sections(storage.items.get("caches")) if storage else []
    found = [each for each in caches if _text(each, "name", _DEFAULT_CACHE) == wanted.text and not disabled(each)]
    if not found or storage is None:
        return  # `config.check_limits` says that an address is missing
    cache = found[0]
    if _text(cache, "driver", "redis") != "redis":
        notes.refuse(cache.items["driver"], "`rate_limit.storage: redis` needs a cache with driver `redis`")
        return
    notes.leftovers(cache, (*_CACHE_KEYS, *_CACHE_IDLE))
    password, addr = _text(cache, "password", ""), _text(cache, "addr", "127.0.0.1:6379")
    login = f":{quote(password, safe='')}@" if password else ""
    url = f"redis://{login}{addr}/{_text(cache, 'db', '0')}"
    redis = Mapping(cache.place, {"url": scalar(cache.items.get("addr", cache), url)})
    if (timeout := cache.items.get("read_timeout")) is not None:
        redis.items["timeout"] = timeout
    root.items["redis"] = redis
    if len(caches) == 1:
        # Used up: what is left of `storage` may have no effect.
        del storage.items["caches"]
        if not storage.items:
            del root.items["storage"]


def _text(node: Mapping, key: str, default: str) -> str:
    value = node.items.get(key)
    return value.text if isinstance(value, Scalar) and value.text else default


_REFUSED: dict[Path, str] = {
    ("admin",): "the admin API is not supported yet",
    ("discovery",): "discovery of backends is not supported yet",
    ("hooks",): "hooks are not supported yet",
    ("scripts",): "scripts are not supported yet",
    ("logging", "request"): "requests and answers are never logged",
}
_SAID_BY_US = (
    "allow_methods", "allowed_methods", "allow_headers", "allowed_headers", "expose_headers", "exposed_headers",
    "allow_credentials",
)  # fmt: skip
_LIMITS = ("read_timeout", "write_timeout", "idle_timeout", "max_header_bytes", "max_body_size")
_DEFAULT_HEADER_TIMEOUT_S = 10.0


def translate(root: Mapping) -> Notes:
    """Rewrite the tree in place; the notes say what could not be translated and what has no effect."""
    notes = Notes()
    steps: tuple[Callable[[Mapping, Notes], None], ...] = (
        translate_limits,  # before what is left of `storage` is told to have no effect
        _refused,
        _server,
        _logs,
        _backends,
        _routing,
        _health_check,
        _metrics,
        _usage,
        translate_access,
        check_storage,
    )
    for step in steps:
        step(root, notes)
    return notes


def _refused(root: Mapping, notes: Notes) -> None:
    for path, reason in _REFUSED.items():
        parent: Mapping | None = root
        for part in path[:-1]:
            parent = section(parent, str(part)) if parent else None
        node = parent.items.pop(str(path[-1]), None) if parent else None
        if node and not switched_off(node) and not disabled(parent):
            notes.refuse(node, f"{reason}; remove it or set `enabled: false`")


def _server(root: Mapping, notes: Notes) -> None:
    server = section(root, "server")
    if not server:
        return
    move(server, "listen", root, "listen", notes)
    drop_zeros(server, _LIMITS, notes)
    move(server, "idle_timeout", server, "keep_alive", notes)
    read = server.items.get("read_timeout")
    if read and (value_s := seconds(read)) is not None:
        # Theirs covers headers and body together. Headers never need longer than our default.
        shorter = scalar(read, f"{min(value_s, _DEFAULT_HEADER_TIMEOUT_S)}")
        server.items.setdefault("header_timeout", shorter)
    move(server, "read_timeout", server, "body_timeout", notes)
    if disabled(server.items.get("tls")):
        del server.items["tls"]
    _cors(server, notes)


def _cors(server: Mapping, notes: Notes) -> None:
    cors = section(server, "cors")
    if not cors:
        return
    if disabled(cors):
        del server.items["cors"]
        return
    cors.items.pop("enabled", None)
    for name in ("allow_origins", "allowed_origins"):
        move(cors, name, cors, "origins", notes)
    for name in _SAID_BY_US:
        if node := cors.items.pop(name, None):
            notes.warn(node, "has no effect: pages may use what the gateway has, and send no cookies")


def _logs(root: Mapping, notes: Notes) -> None:
    log = section(root, "log")
    if log:
        _log_file(log, log, "output", notes)
    logging = section(root, "logging")
    if not logging:
        return
    del root.items["logging"]
    access = section(logging, "access")
    log = ensure(root, "log", logging)
    if disabled(logging) or disabled(access):
        put(log, "access", scalar(logging, "off"), notes)
    elif access:
        script(access, notes)
        _log_file(access, log, "access", notes)
        style = access.items.pop("format", None)
        if isinstance(style, Scalar) and style.text != "json":
            notes.warn(style, "has no effect: the access log is always JSON lines")
        notes.leftovers(access, ("enabled", "format", "output", "file", "script"))
    notes.leftovers(logging, ("enabled", "request", "access"))


def _log_file(source: Mapping, log: Mapping, key: str, notes: Notes) -> None:
    """`output: file` with `file: {path: ...}` becomes the path itself."""
    output, file = source.items.pop("output", None), source.items.pop("file", None)
    if isinstance(output, Scalar) and output.text == "file":
        path = file.items.get("path") if isinstance(file, Mapping) else file
        if path is None:
            notes.refuse(output, "`output: file` needs `file.path`")
            return
        if isinstance(file, Mapping) and {"rotate", "max_size", "max_age", "compress"} & set(file.items):
            notes.warn(file, "rotation has no effect: use logrotate with copytruncate")
        put(log, key, path, notes)
    elif output is not None:
        put(log, key, output, notes)


def _routing(root: Mapping, notes: Notes) -> None:
    routing = section(root, "routing")
    if not routing:
        return
    script(routing, notes)
    move(routing, "load_balance_strategy", routing, "load_balance", notes)
    drop_zeros(routing, ("timeout", "connect_timeout"), notes)
    for key in ("timeout", "connect_timeout"):
        if default := routing.items.pop(key, None):
            for backend in sections(root.items.get("backends")):
                backend.items.setdefault(key, default)
    off = disabled(routing)
    enabled = routing.items.pop("enabled", None)
    if off:
        place = routing.place
        root.items["routing"] = Mapping(place, {"retry": Mapping(place, {"enabled": scalar(routing, "false")})})
        notes.warn(routing, "switched off: no retries, no fallback, weighted balancing")
    elif enabled and truth(enabled) is None:
        notes.refuse(enabled, "expected `true` or `false`")


def _backends(root: Mapping, notes: Notes) -> None:
    for backend in sections(root.items.get("backends")):
        drop_zeros(backend, ("timeout", "connect_timeout"), notes)
        weight = backend.items.get("weight")
        if weight and (value := number(weight)) is not None and value <= 0:
            backend.items["weight"] = scalar(weight, "1")
            notes.warn(weight, "counts as 1; remove the backend to send it nothing")


def _health_check(root: Mapping, notes: Notes) -> None:
    if check := section(root, "health_check"):
        script(check, notes)


def _metrics(root: Mapping, notes: Notes) -> None:
    metrics = section(root, "metrics")
    for key in ("custom_labels", "latency_buckets") if metrics else ():
        if metrics and (node := metrics.items.pop(key, None)):
            notes.warn(node, "has no effect: labels and buckets are fixed")


def _usage(root: Mapping, notes: Notes) -> None:
    hook = section(root, "usage_hook")
    if hook and "url" in hook.items:
        _flat_webhook(hook)
    move(root, "usage_hook", root, "usage", notes)
    usage = section(root, "usage")
    if usage and "path" in usage.items:
        move(usage, "path", ensure(root, "store", usage), "path", notes)
    for reporter in sections(usage.items.get("reporters")) if usage else ():
        script(reporter, notes)
        if webhook := section(reporter, "webhook"):
            del reporter.items["webhook"]
            for key in list(webhook.items):
                move(webhook, key, reporter, key, notes)
        if usage and (builtin := section(reporter, "builtin")):
            del reporter.items["builtin"]
            move(builtin, "retention_days", usage, "retention_days", notes)
            notes.leftovers(builtin, ("retention_days",))
        if (database := section(reporter, "database")) and "storage" in database.items:
            storage_entry(root, database, notes)


def _flat_webhook(hook: Mapping) -> None:
    """v0.1 and v0.2 had one webhook, written straight into `usage_hook`, with a timeout of one second."""
    items: dict[str, Node] = {"name": scalar(hook, "usage_hook"), "type": scalar(hook, "webhook")}
    items |= {key: hook.items.pop(key) for key in ("url", "timeout", "retry") if key in hook.items}
    items.setdefault("timeout", scalar(hook, "1s"))
    reporters = hook.items.setdefault("reporters", Sequence(hook.place))
    if isinstance(reporters, Sequence):
        reporters.items.append(Mapping(hook.place, items))
