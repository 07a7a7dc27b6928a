import pytest

from zuebee.lib.units import Duration, Size, Timeout


@pytest.mark.requirement("A261")
@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("500ms", 0.5),
        ("1s", 1),
        ("1m30s", 90),
        ("1h", 3600),
        ("1.5h", 5400),
        ("100us", 1e-4),
        ("2d", 172800),
        ("0s", 0),
        (" 3s ", 3),
        (7, 7),
        (0.25, 0.25),
    ],
)
def test_durations_as_in_go(written: object, seconds: float) -> None:
    assert Duration.parse(written) == pytest.approx(seconds)


@pytest.mark.parametrize("written", ["", "s", "10", "10 s", "-1s", "1s2", "soon", "1e3s", True, None, -1, 1e12])
def test_what_is_no_duration(written: object) -> None:
    with pytest.raises(ValueError, match="Expected a duration"):
        Duration.parse(written)


def test_a_timeout_is_never_zero() -> None:
    assert Timeout.parse("1ms") == 0.001
    with pytest.raises(ValueError, match="above 0"):
        Timeout.parse("0s")


@pytest.mark.parametrize(
    ("written", "size_bytes"),
    [
        (0, 0),
        (1048576, 1 << 20),
        ("64KiB", 65536),
        ("32MiB", 32 << 20),
        ("10MB", 10 << 20),
        ("1g", 1 << 30),
        ("5", 5),
    ],
)
def test_sizes(written: object, size_bytes: int) -> None:
    assert Size.parse(written) == size_bytes


@pytest.mark.parametrize("written", ["", "MiB", "1.5MiB", "-1", -1, True, None, "10 parsecs"])
def test_what_is_no_size(written: object) -> None:
    with pytest.raises(ValueError, match="Expected a size"):
        Size.parse(written)
