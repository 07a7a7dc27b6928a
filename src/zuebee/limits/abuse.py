"""PURE. Addresses that fail to authenticate again and again are left standing. Times come from the caller."""

import math

from zuebee.config.settings_base import AbuseSettings
from zuebee.contracts.errors import Refusal
from zuebee.lib.networks import network_of

MAX_ADDRESSES = 10_000


class AbuseGuard:
    """Counts failures of each address, in a window that begins with its first one; bounded, the oldest go first."""

    def __init__(self, settings: AbuseSettings) -> None:
        self.settings = settings
        self._failures: dict[str, tuple[float, int]] = {}
        self._blocked_until_s: dict[str, float] = {}

    def blocked(self, address: str, now_s: float) -> Refusal | None:
        """429 while the address is left standing."""
        if not self._blocked_until_s:
            return None
        network = network_of(address)
        until_s = self._blocked_until_s.get(network, 0.0)
        if until_s <= now_s or not self.settings.enabled:
            self._blocked_until_s.pop(network, None)
            return None
        wait_s = until_s - now_s
        text = f"Too many failed attempts to authenticate from this address. Try again in {math.ceil(wait_s)} s."
        return Refusal(429, "rate_limit_error", "too_many_failures", text, None, wait_s, should_retry=True)

    def failed(self, address: str, now_s: float) -> None:
        """The address showed no valid key."""
        settings = self.settings
        if not settings.enabled:
            return
        network = network_of(address)
        since_s, count = self._failures.get(network, (now_s, 0))
        if now_s - since_s >= settings.window_s:
            since_s, count = now_s, 0
        if count + 1 >= settings.max_failures:
            self._failures.pop(network, None)
            _bounded(self._blocked_until_s, network)
            self._blocked_until_s[network] = now_s + settings.cool_down_s
            return
        _bounded(self._failures, network)
        self._failures[network] = since_s, count + 1

    def blocked_count(self, now_s: float) -> int:
        """How many addresses are left standing."""
        return sum(until_s > now_s for until_s in self._blocked_until_s.values())


def _bounded(table: dict[str, tuple[float, int]] | dict[str, float], newcomer: str) -> None:
    if len(table) >= MAX_ADDRESSES and newcomer not in table:
        del table[next(iter(table))]
