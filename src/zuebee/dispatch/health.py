"""PURE. Whether a backend is fit to be chosen: its probes (active) and how its requests end (passive).

Passive ejection follows Envoy's outlier detection: 5 failures in a row take a backend out for 30 s, longer each time.
It takes none out that is the last: who asks knows the others. An answer says more than a probe: a backend that gives
answers is there, whatever becomes of probes that it has no time for.
"""

from typing import Final

CONSECUTIVE_FAILURES: Final = 5
EJECTION_S: Final = 30.0
MAX_EJECTION_S: Final = 300.0
ANSWERS_SPEAK_S: Final = 60.0
"""For so long after an answer a probe without one says nothing, if there is a reason for it."""


class Health:
    """The health of one backend. Times are monotonic seconds."""

    def __init__(self, *, unhealthy_threshold: int, healthy_threshold: int) -> None:
        self.probed_down = False
        self.ejected_until_s = 0.0
        self.unhealthy_threshold = unhealthy_threshold
        self.healthy_threshold = healthy_threshold
        self.answered_at_s = float("-inf")
        self._probed = False
        self._probes_failed = 0
        self._probes_passed = 0
        self._failures = 0
        self._ejections = 0

    def fit(self, now_s: float) -> bool:
        """Whether neither its probes nor its requests speak against it."""
        return not self.probed_down and now_s >= self.ejected_until_s

    def request_succeeded(self, now_s: float) -> bool:
        """A request was answered; True if that brings the backend back, whatever had taken it out."""
        self._failures = 0
        self.answered_at_s = now_s
        if self._ejections and now_s > self.ejected_until_s + MAX_EJECTION_S:
            self._ejections = 0
        if not self.probed_down and now_s >= self.ejected_until_s:
            return False
        self.probed_down = False
        self.ejected_until_s = 0.0
        self._probes_failed = 0
        return True

    def request_failed(self, now_s: float, *, others: bool = True) -> bool:
        """A request failed through the backend's fault; True if that ejects it. `others`: some other one is fit."""
        self._failures += 1
        if not others or self._failures < CONSECUTIVE_FAILURES or now_s < self.ejected_until_s:
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

    def probe_failed(self, now_s: float, *, excused: bool = False) -> bool:
        """A probe failed; True if that takes the backend out. The first probe of all decides alone.

        `excused`: there is a reason for it other than that the backend is gone. Then answers count for more.
        """
        if excused and now_s - self.answered_at_s < ANSWERS_SPEAK_S:
            return False
        first = not self._probed
        self._probed = True
        self._probes_passed = 0
        self._probes_failed += 1
        out = not self.probed_down and (first or self._probes_failed >= self.unhealthy_threshold)
        if out:
            self.probed_down = True
        return out
