"""PURE. How a limit stands."""

from typing import Final


class State:
    """How one limit stands: `remaining` of `amount`, and seconds until nothing is counted any more."""

    def __init__(self, kind: str, amount: int, remaining: int, reset_s: float) -> None:
        self.kind: Final = kind
        self.amount: Final = amount
        self.remaining: Final = remaining
        self.reset_s: Final = reset_s
