import time
from datetime import UTC, datetime

from zuebee.lib import clock


def test_the_clocks_agree() -> None:
    assert abs(datetime.now(UTC).timestamp() - clock.wall_s()) < 5
    before_s = clock.monotonic_s()
    time.sleep(0.002)
    assert clock.monotonic_s() > before_s
