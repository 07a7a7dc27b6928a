"""PURE. How a limit stands."""

import msgspec


class State(msgspec.Struct, gc=False):
    """How one limit stands: `remaining` of `amount`, and seconds until nothing is counted any more."""

    kind: str
    amount: int
    remaining: int
    reset_s: float
