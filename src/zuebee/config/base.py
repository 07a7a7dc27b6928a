"""What every settings section is made of. The one place that reads the environment."""

import os
from collections.abc import Mapping
from typing import Any

import msgspec

from zuebee.kit.units import Timeout


def environment() -> Mapping[str, str]:
    """The process environment: the one place that reads it."""
    return os.environ


def seconds(value: float) -> Any:
    """A default, for fields whose type is `Duration` or `Timeout`."""
    return Timeout(value)


_SECRET = frozenset(
    {
        "addr",
        "api_key",
        "cache_secret",
        "database",
        "dsn",
        "headers",
        "http",
        "https",
        "key",
        "password",
        "secret",
        "secrets",
        "token",
        "url",
    }
)


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all sections: immutable, an unknown key is an error, and `repr` shows no secrets."""

    def __repr__(self) -> str:
        """All values, for messages of a debugger; those that may be secret are left out."""
        shown = (
            f"{name}=..." if name in _SECRET and getattr(self, name) else f"{name}={getattr(self, name)!r}"
            for name in self.__struct_fields__
        )
        return f"{type(self).__name__}({', '.join(shown)})"
