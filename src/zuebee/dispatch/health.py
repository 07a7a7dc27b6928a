"""PURE. Whether a backend is fit to be chosen: its probes (active) and how its requests end (passive).

Passive ejection follows Envoy's outlier detection: 5 failures in a row take a backend out for 30 s, longer each time.
Who ejects must see to it that somebody is left (`balancer.fit`).
"""

from typing import Final

CONSECUTIVE_FAILURES: Final = 5
EJECTION_S: Final = 30.0
MAX_EJECTION_S: Final = 300.0


class Health:
    """The health of one backend. Times are monotonic seconds."""

    def __init__(self, *, unhealthy_threshold: int, healthy_threshold: int) -> None:
        self.probed_down = False
        self.ejected_until_s = 0.0
        self.unhealthy_threshold = unhealthy_threshold
        self.healthy_threshold = healthy_threshold
        self._probed = False
        self._probes_failed = 0
        self._probes_passed = 0
        self._failures = 0
        self._ejections = 0

    def fit(self, now_s: float) -> bool:
        """Whether neither its probes nor its requests speak against it."""
        return not self.probed_down and now_s >= self.ejected_until_s

    def request_succeeded(self, now_s: float) -> None:
        """A request was answered."""
        self._failures = 0
        if self._ejections and now_s > self.ejected_until_s + MAX_EJECTION_S:
            self._ejections = 0

    def request_failed(self, now_s: float) -> bool:
        """A request failed through the backend's fault; True if that ejects it."""
        self._failures += 1
        if self._failures < CONSECUTIVE_FAILURES or now_s < self.ejected_until_s:
            return False
        self._failures = 0
        self._probes_passed = 0
        self._ejections += 1
        self.ejected_until_s = now_s + min(EJECTION_S * self._ejections, MAX_EJECTION_S)
        return True

    def probe_passed(self) -> bool:
        """A probe was answered well; True if that brings the backend back. Enough of them end an ejection, too."""
        self._probed = True
        self._probes_failed = 0
        self._probes_passed += 1
        if self._probes_passed < self.healthy_threshold:
            return False
        back = self.probed_down
        self.probed_down = False
        self.ejected_until_s = 0.0
        return back

    def probe_failed(self) -> bool:
        """A probe failed; True if that takes the backend out. The first probe of all decides alone."""
        first = not self._probed
        self._probed = True
        self._probes_passed = 0
        self._probes_failed += 1
        out = not self.probed_down and (first or self._probes_failed >= self.unhealthy_threshold)
        if out:
            self.probed_down = True
        return out
