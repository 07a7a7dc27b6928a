"""The entries of each owner as a chain of hashes: who changes one of them must change all that follow."""

import hashlib
from collections.abc import Sequence
from typing import Any, Final

import msgspec

HEAD: Final = "chain/"
"""What `counters` notes by the name `chain/OWNER`: the sequence of that owner's newest batch, a while ago. A chain that
ends before was cut off.
"""

_encode = msgspec.json.Encoder().encode


def next_hash(previous: str, entries: Sequence[tuple[Any, ...]]) -> str:
    """The hash of a batch, in hex: SHA-256 over the one before and, as JSON, the rows of its entries in their order.

    A row has the columns of `ledger_entries` from `batch` to `at_s`.
    """
    return hashlib.sha256(previous.encode() + _encode(entries)).hexdigest()


def head_name(owner: int) -> str:
    """Under which name `counters` has the end of an owner's chain."""
    return f"{HEAD}{owner}"
