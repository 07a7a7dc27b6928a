"""Each room has a floor of coverage, and `make coverage` sees who falls below it."""

import tomllib

from scripts.check_coverage import complaints
from tests.support.source import ROOT, package_files


def test_each_room_has_a_floor() -> None:
    floors = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["zuebee"]["coverage"]
    rooms = {source.inside.partition("/")[0] for source in package_files() if "/" in source.inside} - {"protos"}
    assert set(floors) == rooms


def test_what_is_below_its_floor_or_far_above_it_is_seen() -> None:
    assert complaints({"a": 90.0}, {"a": 90}) == []
    assert "test what is new" in complaints({"a": 89.9}, {"a": 90})[0]
    assert "raise its floor" in complaints({"a": 94.0}, {"a": 90})[0]
    assert "no floor" in complaints({"a": 94.0}, {})[0]
    assert "no room" in complaints({}, {"a": 90})[0]
