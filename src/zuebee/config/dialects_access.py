"""The part of the dialects that decides who gets in. PURE.

Nothing here is dropped silently: a provider or script that would have refused a request, or let one in, is translated
or refused with a reason, unless it is switched off.
"""

from zuebee.config.dialects_auth import script_block, translate_pipeline, translate_storage
from zuebee.config.dialects_tools import Notes, disabled, section, sections
from zuebee.kit.struct_tree import truth
from zuebee.kit.yaml_tree import Mapping, Scalar, Sequence

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
