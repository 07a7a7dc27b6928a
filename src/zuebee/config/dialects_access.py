"""The part of the dialects that decides who gets in. PURE.

Nothing here is dropped silently: a provider or script that would have refused a request, or let one in, is translated
or refused with a reason, unless it is switched off.
"""

from zuebee.config.dialects_tools import Notes, disabled, script, section, sections
from zuebee.kit.struct_tree import truth
from zuebee.kit.yaml_tree import Mapping, Scalar, Sequence, unknown

_STATUSES = {"0": "active", "1": "disabled", "2": "quota_exceeded", "3": "expired"}
_PROVIDERS = ("file", "static", "redis", "database", "webhook", "lua", "builtin")
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
    if notes.wants(storage, Scalar) and not storage.is_null and storage.text != "file":
        notes.refuse(storage, "only `file` is supported: keys are those of `api_keys`")
    if notes.wants(pipeline, Sequence):
        _pipeline(root, pipeline, notes)
    if notes.wants(defaults, Mapping):
        _defaults(root, defaults, notes)
    for path in skip_paths.items if notes.wants(skip_paths, Sequence) else ():
        if not (isinstance(path, Scalar) and path.text.startswith(_OPEN_PATHS)):
            notes.refuse(path, "only health and metrics are served without a key")
    if notes.wants(status_codes, Mapping):
        _status_codes(status_codes, notes)


def _pipeline(root: Mapping, pipeline: Sequence, notes: Notes) -> None:
    """Providers in a row. With one source of keys their order and `mode` make no difference."""
    file_keys = root.items.get("api_keys")
    running = [each for each in pipeline.items if notes.wants(each, Mapping) and not disabled(each)]
    kinds = [_provider(root, each, notes) for each in running]
    if not running:
        notes.refuse(pipeline, "no provider is enabled, so nobody could get in")
    elif isinstance(file_keys, Sequence) and file_keys.items and set(kinds) == {"static"}:
        notes.refuse(file_keys, "not asked by `auth.pipeline`: add a provider of type `file`, or remove them")


def _provider(root: Mapping, provider: Mapping, notes: Notes) -> str:
    """Translate one provider that runs; the answer is its type."""
    kind = provider.items.get("type")
    name = kind.text if isinstance(kind, Scalar) else ""
    if name not in _PROVIDERS:
        message = unknown("provider type", name, _PROVIDERS) if name else "`type` is required, but missing"
        notes.refuse(kind or provider, message)
    elif name not in ("file", "static"):
        notes.refuse(kind or provider, f"provider type `{name}` is not supported yet; set `enabled: false`")
    else:
        script(provider, notes)
        inner = section(provider, name)
        if inner:
            notes.leftovers(inner, ("keys",))
        for holder in (provider, inner):
            keys = holder.items.get("keys") if holder else None
            if notes.wants(keys, Sequence):
                _add_keys(root, keys)
        notes.leftovers(provider, ("name", "type", "enabled", "keys", name))
    return name


def _add_keys(root: Mapping, keys: Sequence) -> None:
    known = root.items.get("api_keys")
    before = known.items if isinstance(known, Sequence) else []
    root.items["api_keys"] = Sequence(keys.place, [*before, *keys.items])


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
