"""PURE. Which settings a running process cannot change."""

from typing import Any, Final

import msgspec

from zuebee.config import Settings

FIXED: Final = (
    "listen", "grpc", "server", "store", "redis", "usage", "billing", "idempotency", "log", "stream", "proxy"
)  # fmt: skip
"""What it is built on."""

MOVABLE: Final = frozenset(
    {
        "billing.prices", "billing.built_in_prices", "billing.margin_percent", "billing.unknown_price", "billing.cap",
        "log.level", "usage.reporters",
    }
)  # fmt: skip
"""Except for these, which take effect with the next request."""


def fixed_changes(old: Settings, new: Settings) -> list[str]:
    """The names of the settings that differ and need a restart, as files have them (`store.path`)."""
    return [
        name
        for section in FIXED
        for name in _differences(section, getattr(old, section), getattr(new, section))
        if name not in MOVABLE
    ]


def _differences(name: str, old: Any, new: Any) -> list[str]:
    if old == new:
        return []
    if not isinstance(old, msgspec.Struct) or type(old) is not type(new):
        return [name]
    return [
        deeper
        for field in msgspec.structs.fields(old)
        for deeper in _differences(f"{name}.{field.encode_name}", getattr(old, field.name), getattr(new, field.name))
    ]
