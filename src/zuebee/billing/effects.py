"""PURE. What entries of the ledger do to the balances of their path."""

from typing import Literal

Kind = Literal["grant", "withdraw", "reserve", "extend", "post", "overdraft", "void", "expire", "adjust"]


def effect(kind: Kind, amount: int, released: int) -> tuple[int, int, int, int]:
    """What an entry adds to `granted`, `held`, `used` and `overdraft` of a balance of its path."""
    match kind:
        case "grant":
            return amount, 0, 0, 0
        case "withdraw":
            return -amount, 0, 0, 0
        case "reserve" | "extend":
            return 0, amount, 0, 0
        case "overdraft" | "adjust":
            return 0, 0, amount, amount
        case _:
            return 0, -released, amount, 0
