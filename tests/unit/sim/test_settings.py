import dataclasses
import re
from pathlib import Path

from zuebee.sim.base import SimSettings

PAGE = (Path(__file__).parents[3] / "docs" / "sim.md").read_text(encoding="utf-8")


def test_every_setting_is_documented() -> None:
    names = [field.name for field in dataclasses.fields(SimSettings)]
    assert [name for name in names if not re.search(rf"`{name}`", PAGE)] == []
