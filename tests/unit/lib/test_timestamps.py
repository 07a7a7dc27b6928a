from datetime import datetime

import pytest

from zuebee.lib.timestamps import rfc3339


@pytest.mark.parametrize(
    ("at_s", "text"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (1_700_000_000, "2023-11-14T22:13:20.000Z"),
        (1_700_000_000.123, "2023-11-14T22:13:20.123Z"),
        (1_700_000_000.5, "2023-11-14T22:13:20.500Z"),
        (1_700_000_000.999, "2023-11-14T22:13:20.999Z"),
        (1_700_000_000.9999995, "2023-11-14T22:13:20.999Z"),
        (951_782_399.001, "2000-02-28T23:59:59.001Z"),
        (951_782_400, "2000-02-29T00:00:00.000Z"),
    ],
)
def test_a_moment_as_rfc_3339(at_s: float, text: str) -> None:
    for _ in range(2):
        assert rfc3339(at_s) == text
        assert rfc3339(3_000_000_000) == "2065-01-24T05:20:00.000Z"  # whatever was asked for before


def test_every_millisecond_is_told_as_itself() -> None:
    for millisecond in range(1000):
        text = f"2023-11-14T22:13:20.{millisecond:03d}Z"
        assert rfc3339(1_700_000_000 + millisecond / 1000) == text
        assert datetime.fromisoformat(text).microsecond == millisecond * 1000
