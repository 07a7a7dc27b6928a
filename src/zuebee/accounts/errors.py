"""PURE. What went wrong with an order to the accounts: said so that whoever gave it can mend it."""

from typing import Literal

Kind = Literal["invalid", "not_found", "conflict", "forbidden"]


class AccountsError(Exception):
    """An order that was not carried out; nothing has changed. `field` names what to mend, if it is one thing."""

    def __init__(self, message: str, *, field: str = "", kind: Kind = "invalid") -> None:
        super().__init__(f"{field}: {message}" if field else message)
        self.message = message
        self.field = field
        self.kind: Kind = kind


def unknown(scope: str, name: str, *, field: str = "") -> AccountsError:
    """There is no such thing in the store."""
    return AccountsError(f"there is no {scope} `{name}`", field=field, kind="not_found")
