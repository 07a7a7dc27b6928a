"""The entries of each owner as a chain of hashes: who changes one of them must change all that follow."""

import hashlib
from collections.abc import Sequence
from typing import Any

import msgspec

_encode = msgspec.json.Encoder().encode


def next_hash(previous: str, entries: Sequence[tuple[Any, ...]]) -> str:
    """The hash of a batch, in hex: SHA-256 over the one before and, as JSON, the rows of its entries in their order.

    A row has the columns of `ledger_entries` from `batch` to `at_s`.
    """
    return hashlib.sha256(previous.encode() + _encode(entries)).hexdigest()
