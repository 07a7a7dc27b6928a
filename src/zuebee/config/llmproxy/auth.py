"""LLMProxy's auth pipelines, in the forms of its v0.3 and v0.5, translated to ours. PURE.

A provider of type `static` is one of type `file` with keys of its own, `builtin` is our key store, and scripts are
called `lua_script`, `lua_script_file` or `script`.
"""

from zuebee.config.llmproxy.tree import Notes, disabled, ensure, is_null, put, scalar, section, sections, storage_entry
from zuebee.config.yaml import Mapping, Node, Scalar, Sequence, number, truth, unknown

_OURS = ("file", "store", "redis", "database", "webhook", "billing", "lua", "jwt", "signature")
_PROVIDERS = (*_OURS, "static", "builtin")
_FILE = ("file", "static")
_DRIVERS = {"mysql": "mysql", "mariadb": "mysql", "postgres": "postgres", "postgresql": "postgres", "sqlite": "sqlite"}


def translate_pipeline(root: Mapping, auth: Mapping, pipeline: Sequence, notes: Notes) -> None:
    """Translate all providers; those that are switched off are left out."""
    running = [each for each in pipeline.items if notes.wants(each, Mapping) and not disabled(each)]
    kinds = [_provider(root, each, notes) for each in running]
    if not running and not pipeline.items:
        return
    if not running:
        notes.refuse(pipeline, "no provider is enabled, so nobody could get in")
        return
    if not set(kinds) <= set(_PROVIDERS):
        return  # said already
    keys = root.items.get("api_keys")
    added = [node for each in running if (node := _own_keys(each, notes))]
    if isinstance(keys, Sequence) and keys.items and "file" not in kinds:
        notes.refuse(keys, "not asked by `auth.pipeline`: add a provider of type `file`, or remove them")
    for node in added:
        before = keys.items if isinstance(keys, Sequence) else []
        keys = root.items["api_keys"] = Sequence(node.place, [*before, *node.items])
    auth.items["pipeline"] = Sequence(pipeline.place, _joined(running, kinds, notes))


def translate_storage(root: Mapping, auth: Mapping, storage: Scalar, notes: Notes) -> None:
    """`auth.storage` of v0.3 without a pipeline: the keys are in the one store of that kind that is described."""
    if storage.text in _DRIVERS:
        source, inner = "database", Mapping(storage.place)
        wanted = [each for each in _stores(root, "databases") if _DRIVERS.get(_text(each, "driver")) == storage.text]
        if len(wanted) == 1 and "name" in wanted[0].items:
            inner.items["storage"] = wanted[0].items["name"]
    elif storage.text == "redis":
        source, inner = "redis", Mapping(storage.place)
        wanted = [each for each in _stores(root, "caches") if _text(each, "driver", "redis") == "redis"]
        if len(wanted) == 1:
            _take_cache(wanted[0], inner, notes)
    else:
        notes.refuse(storage, "expected `file`, `redis`, `mysql`, `postgres` or `sqlite`")
        return
    if len(wanted) != 1:
        notes.refuse(storage, f"does not say where: describe it in `auth.pipeline` with a provider of type `{source}`")
        return
    provider = Mapping(storage.place, {"type": scalar(storage, source), source: inner})
    auth.items["pipeline"] = Sequence(storage.place, [provider])
    _provider(root, provider, notes)


def script_block(parent: Mapping, notes: Notes) -> None:
    """All spellings of a decision script, as `script`."""
    inline, file = (parent.items.pop(name, None) for name in ("lua_script", "lua_script_file"))
    node = parent.items.get("script")
    if isinstance(node, Scalar):
        del parent.items["script"]
        if not is_null(node) and node.text:
            ensure(parent, "script", node).items["script"] = node
    for given, name in ((inline, "script"), (file, "path")):
        if given is not None and not (isinstance(given, Scalar) and not given.text):
            put(ensure(parent, "script", given), name, given, notes)
    block = section(parent, "script")
    if block is None:
        return
    if disabled(block) or not any(_text(block, name) for name in ("script", "path", "script_file")):
        del parent.items["script"]
        return
    if given := block.items.pop("script_file", None):
        put(block, "path", given, notes)
    if "path" in block.items and not _text(block, "path"):
        del block.items["path"]
    if _text(block, "path"):
        block.items.pop("script", None)  # a file wins over what stands beside it
    memory = block.items.get("max_memory")
    if memory and (size := number(memory)) is not None and 0 < size < 4096:
        block.items["max_memory"] = scalar(memory, f"{int(size)}MB")  # theirs is in megabytes


def _provider(root: Mapping, provider: Mapping, notes: Notes) -> str:
    """Translate one provider that runs; the answer is its type."""
    kind = provider.items.get("type")
    name = kind.text if isinstance(kind, Scalar) else ""
    if name not in _PROVIDERS:
        message = unknown("provider type", name, _PROVIDERS) if name else "`type` is required, but missing"
        notes.refuse(kind or provider, message)
        return name
    assert kind is not None
    script_block(provider, notes)
    if name == "lua" and (inner := section(provider, "lua")):
        script_block(inner, notes)
        if "script" not in inner.items:
            inner.items = {"script": Mapping(inner.place, inner.items)}
            script_block(inner, notes)
        _lift(provider, inner, "lua", ("script",), notes)
    if name == "builtin":
        provider.items["type"] = scalar(kind, "store")
        if inner := section(provider, "builtin"):
            _lift(provider, inner, "builtin", (), notes)
    if name == "redis":
        _redis(root, provider, notes)
    if name == "database":
        _database(root, provider, notes)
    return name


def _lift(provider: Mapping, inner: Mapping, name: str, known: tuple[str, ...], notes: Notes) -> None:
    notes.leftovers(inner, known)
    del provider.items[name]
    for key in known:
        if key in inner.items:
            put(provider, key, inner.items[key], notes)


def _own_keys(provider: Mapping, notes: Notes) -> Sequence | None:
    """The keys that stand in a provider itself."""
    name = _text(provider, "type")
    if name not in _FILE:
        return None
    found: list[Node] = []
    inner = provider.items.pop(name, None)
    for holder in (provider, inner if notes.wants(inner, Mapping) else None):
        keys = holder.items.pop("keys", None) if holder else None
        if notes.wants(keys, Sequence):
            found += keys.items
    if isinstance(inner, Mapping):
        notes.leftovers(inner, ("keys",))
    provider.items["type"] = scalar(provider.items["type"], "file")
    return Sequence(provider.place, found) if found else None


def _joined(running: list[Mapping], kinds: list[str], notes: Notes) -> list[Node]:
    """Providers of the file's keys are one here: they must stand together and have no scripts of their own."""
    of_file = [index for index, kind in enumerate(kinds) if kind in _FILE]
    if len(of_file) > 1:
        if of_file[-1] - of_file[0] != len(of_file) - 1:
            notes.refuse(running[of_file[-1]], "keys of the file are asked at one place: move it beside the other one")
        if any("script" in running[index].items for index in of_file):
            notes.refuse(running[of_file[-1]], "scripts cannot tell the keys of several providers apart: join them")
    return [each for index, each in enumerate(running) if index not in of_file[1:]]


def _redis(root: Mapping, provider: Mapping, notes: Notes) -> None:
    inner = provider.items.get("redis")
    if isinstance(inner, Scalar) and not is_null(inner):  # the name of a cache
        inner = provider.items["redis"] = Mapping(inner.place, {"storage": inner})
    inner = ensure(provider, "redis", provider) if inner is None else inner
    name = inner.items.pop("storage", None) if isinstance(inner, Mapping) else None
    if not isinstance(inner, Mapping) or name is None:
        return
    found = next((each for each in _stores(root, "caches") if _text(each, "name") == _word(name)), None)
    if found is None:
        notes.refuse(name, "not the name of an entry of `storage.caches` that is switched on")
    elif _text(found, "driver", "redis") != "redis":
        notes.refuse(name, "that entry of `storage.caches` is no Redis")
    else:
        _take_cache(found, inner, notes)


def _take_cache(cache: Mapping, target: Mapping, notes: Notes) -> None:
    """Address, password and database of a cache; its pool and its times are ours to choose."""
    for key in ("addr", "password", "db"):
        if key in cache.items:
            target.items.setdefault(key, cache.items[key])
    notes.used.add(_text(cache, "name"))


def _database(root: Mapping, provider: Mapping, notes: Notes) -> None:
    inner = provider.items.get("database")
    if isinstance(inner, Scalar) and not is_null(inner):  # the name of a database
        inner = provider.items["database"] = Mapping(inner.place, {"storage": inner})
    if not isinstance(inner, Mapping):
        return
    if "storage" in inner.items:
        storage_entry(root, inner, notes)
    driver = inner.items.get("driver")
    if isinstance(driver, Scalar) and driver.text in _DRIVERS:
        inner.items["driver"] = scalar(driver, _DRIVERS[driver.text])
    for name in ("max_open_conns", "max_idle_conns", "conn_max_lifetime", "conn_max_idle_time"):
        if node := inner.items.pop(name, None):
            notes.warn(node, "has no effect: a source has a few connections of its own")


def _stores(root: Mapping, kind: str) -> list[Mapping]:
    storage = section(root, "storage")
    return [each for each in sections(storage.items.get(kind) if storage else None) if not disabled(each)]


def _word(node: Node) -> str:
    return node.text if isinstance(node, Scalar) else ""


def _text(parent: Mapping, key: str, default: str = "") -> str:
    node = parent.items.get(key)
    return node.text if isinstance(node, Scalar) and node.text else default


# The part of the dialects that decides who gets in. PURE.
#
# Nothing here is dropped silently: a provider or script that would have refused a request, or let one in, is translated
# or refused with a reason, unless it is switched off.

_STATUSES = {"0": "active", "1": "disabled", "2": "quota_exceeded", "3": "expired"}
# Served without a key here as well, so listing them changes nothing.
_OPEN_PATHS = ("/health", "/metrics", "/ready")


def translate_access(root: Mapping, notes: Notes) -> None:
    """Translate `auth` and `api_keys`."""
    if auth := section(root, "auth"):
        _auth(root, auth, notes)
    for key in sections(root.items.get("api_keys")):
        _api_key(key)


def _auth(root: Mapping, auth: Mapping, notes: Notes) -> None:
    parts = ("storage", "defaults", "pipeline", "skip_paths", "status_codes")
    storage, defaults, pipeline, skip_paths, status_codes = (auth.items.pop(key, None) for key in parts)
    if disabled(auth):
        return
    if notes.wants(pipeline, Sequence):
        translate_pipeline(root, auth, pipeline, notes)
        if isinstance(storage, Scalar) and storage.text not in ("", "file"):
            notes.warn(storage, "has no effect beside `auth.pipeline`")
    elif notes.wants(storage, Scalar) and not storage.is_null and storage.text != "file":
        translate_storage(root, auth, storage, notes)
    script_block(auth, notes)
    if notes.wants(defaults, Mapping):
        _defaults(root, defaults, notes)
    for path in skip_paths.items if notes.wants(skip_paths, Sequence) else ():
        if not (isinstance(path, Scalar) and path.text.startswith(_OPEN_PATHS)):
            notes.refuse(path, "only health and metrics are served without a key")
    if notes.wants(status_codes, Mapping):
        _status_codes(status_codes, notes)


def _defaults(root: Mapping, defaults: Mapping, notes: Notes) -> None:
    """Quotas for the keys that name none."""
    names = ("quota_reset_period", "total_quota")
    notes.leftovers(defaults, names)
    for key in sections(root.items.get("api_keys")):
        for name in names:
            if name in defaults.items:
                key.items.setdefault(name, defaults.items[name])


def _status_codes(codes: Mapping, notes: Notes) -> None:
    for status, node in codes.items.items():
        if not isinstance(node, Mapping):
            continue
        allow = node.items.get("allow")
        if allow and truth(allow) is not None and truth(allow) != (status == "active"):
            notes.refuse(allow, "who gets in cannot be changed here: only `active` keys do")
    notes.warn(codes, "has no effect: the status and message of a refusal are fixed")


def _api_key(key: Mapping) -> None:
    """Their spellings of a status (a number) and of no reset period (nothing)."""
    status, period = key.items.get("status"), key.items.get("quota_reset_period")
    if isinstance(status, Scalar) and status.text in _STATUSES:
        key.items["status"] = Scalar(status.place, _STATUSES[status.text])
    if isinstance(period, Scalar) and not period.text and not period.unset_variable:
        del key.items["quota_reset_period"]
