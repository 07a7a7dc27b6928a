"""Which share of its lines the unit tests of each room pass, beside the floor that it has in pyproject.toml.

Reads `.coverage`, which `make coverage` writes. It fails where a room is below its floor, and where a floor is more
than three points below what is there: a floor rises with its room.
"""

import sys
import tomllib
from collections import Counter
from pathlib import Path

from coverage import Coverage

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "zuebee"
SLACK_POINTS = 3


def shares(coverage: Coverage) -> dict[str, float]:
    """Percent of the statements that were passed, for each room."""
    lines: Counter[str] = Counter()
    missed: Counter[str] = Counter()
    for file in sorted(PACKAGE.rglob("*.py")):
        inside = file.relative_to(PACKAGE).parts
        if len(inside) > 1 and inside[0] != "protos":
            _, statements, _, missing, _ = coverage.analysis2(str(file))
            lines[inside[0]] += len(statements)
            missed[inside[0]] += len(missing)
    return {room: 100 * (1 - missed[room] / lines[room]) for room in sorted(lines)}


def complaints(found: dict[str, float], floors: dict[str, int]) -> list[str]:
    """What is wrong: a room under its floor or without one, a floor that is too low, a floor of no room."""
    wrong = [f"{room} has no room, but a floor." for room in sorted(floors.keys() - found.keys())]
    for room, share in found.items():
        floor = floors.get(room)
        if floor is None:
            wrong.append(f"{room} has {share:.1f} % and no floor.")
        elif share < floor:
            wrong.append(f"{room} has {share:.1f} %, and its floor is {floor} %: test what is new.")
        elif share > floor + SLACK_POINTS:
            wrong.append(f"{room} has {share:.1f} %: raise its floor of {floor} %.")
    return wrong


def main() -> None:
    """Print each room with its share, then what is wrong; exit with 1 if anything is."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["zuebee"]["coverage"]
    coverage = Coverage(data_file=str(ROOT / ".coverage"))
    coverage.load()
    found = shares(coverage)
    for room, share in found.items():
        print(f"{room:14}{share:6.1f} %   floor {settings.get(room, '-')} %")
    wrong = complaints(found, settings)
    for each in wrong:
        print(each, file=sys.stderr)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
