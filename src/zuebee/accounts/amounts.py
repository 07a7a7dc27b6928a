"""PURE. Amounts as people write them, and as they are counted: whole tokens, or nano-units of a currency."""

import re

from zuebee.accounts.errors import AccountsError
from zuebee.contracts.admission import MAX_BALANCE

TOKENS = "tokens"
NANO = 1_000_000_000
_DECIMAL = re.compile(r"([0-9]{1,12})(?:\.([0-9]{1,9}))?", re.ASCII)
_WHOLE = re.compile(r"[0-9]{1,19}", re.ASCII)


def read_amount(text: str, unit: str, *, field: str = "amount") -> int:
    """`25.50` of a currency as nano-units, `1000000` tokens as such. At most 2**62. Raises AccountsError."""
    text = text.strip().replace("_", "")
    if unit == TOKENS:
        if not _WHOLE.fullmatch(text):
            raise AccountsError("expected a whole number of tokens, such as 1000000", field=field)
        amount = int(text)
    else:
        found = _DECIMAL.fullmatch(text)
        if found is None:
            raise AccountsError("expected a decimal amount with at most 9 places, such as 25.50", field=field)
        amount = int(found[1]) * NANO + int((found[2] or "").ljust(9, "0"))
    if amount > MAX_BALANCE:
        raise AccountsError(f"more than {show_amount(MAX_BALANCE, unit)}", field=field)
    return amount


def show_amount(amount: int, unit: str) -> str:
    """As `read_amount` reads it; money with at least two places."""
    if unit == TOKENS:
        return str(amount)
    whole, rest = divmod(abs(amount), NANO)
    places = f"{rest:09d}".rstrip("0").ljust(2, "0")
    return f"{'-' if amount < 0 else ''}{whole}.{places}"
