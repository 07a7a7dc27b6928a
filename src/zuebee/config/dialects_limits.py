"""The part of the dialects that says how fast: LLMProxy's `rate_limit`, and the cache that it names. PURE."""

from urllib.parse import quote

from zuebee.config.dialects_tools import Notes, disabled, is_null, scalar, script, section, sections
from zuebee.kit.struct_tree import number
from zuebee.kit.yaml_tree import Mapping, Scalar

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
