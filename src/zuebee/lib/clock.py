"""The only place that asks what time it is."""

import time

monotonic_s = time.monotonic
"""Seconds that never go back: for durations, deadlines and windows."""

wall_s = time.time
"""Seconds since 1970-01-01 UTC: for records only."""
