import pytest

from zuebee.ledger.entries import Figures, Kind


@pytest.mark.parametrize(
    ("kind", "granted", "held", "used", "overdraft"),
    [
        ("grant", 7, 0, 0, 0),
        ("withdraw", -7, 0, 0, 0),
        ("reserve", 0, 7, 0, 0),
        ("extend", 0, 7, 0, 0),
        ("post", 0, -9, 7, 0),
        ("void", 0, -9, 7, 0),
        ("expire", 0, -9, 7, 0),
        ("overdraft", 0, 0, 7, 7),
        ("adjust", 0, 0, 7, 7),
    ],
)
def test_what_each_kind_does(kind: Kind, granted: int, held: int, used: int, overdraft: int) -> None:
    figures = Figures()
    figures.add(kind, 7, 9)
    assert (figures.granted, figures.held, figures.used, figures.overdraft) == (granted, held, used, overdraft)
