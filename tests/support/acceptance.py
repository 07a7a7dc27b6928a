"""The acceptance table, and which of its rows have a passing test.

`tests/requirements.tsv` names every row. Each test run adds its outcomes to `.cache/requirements.json`
(`make test` starts it afresh); `make requirements` lists a milestone's rows with their status.
"""

import argparse
import csv
import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).resolve().parents[2]
TABLE = ROOT / "tests" / "requirements.tsv"
RECORD = Path(".cache") / "requirements.json"

Outcome = Literal["passed", "failed", "skipped"]
Status = Literal["proven", "failing", "not yet"]


@dataclass(frozen=True)
class Row:
    """One thing that ZueBee must do, and the milestone that closes it."""

    id: str
    milestone: str
    title: str


@dataclass(frozen=True)
class Claim:
    """One run of a test that says it proves these rows."""

    test: str
    rows: tuple[str, ...]
    outcome: Outcome


def load_rows(table: Path = TABLE) -> dict[str, Row]:
    """The table by row id, in its order."""
    with table.open(encoding="utf-8", newline="") as file:
        return {row["id"]: Row(**row) for row in csv.DictReader(file, delimiter="\t")}


def load_claims(root: Path) -> dict[str, Claim]:
    """The recorded claims by test; empty where nothing has been recorded."""
    path = root / RECORD
    if not path.exists():
        return {}
    record = json.loads(path.read_text(encoding="utf-8"))
    return {test: Claim(test, tuple(entry["rows"]), entry["outcome"]) for test, entry in record.items()}


def save_claims(root: Path, claims: Iterable[Claim]) -> None:
    """Add these claims to the recorded ones; a test that ran again replaces its earlier claim."""
    merged = load_claims(root) | {claim.test: claim for claim in claims}
    path = root / RECORD
    path.parent.mkdir(parents=True, exist_ok=True)
    record = {test: {"rows": merged[test].rows, "outcome": merged[test].outcome} for test in sorted(merged)}
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def status_by_row(rows: Iterable[str], claims: Mapping[str, Claim]) -> dict[str, Status]:
    """A row is proven when a test that names it passed and none that names it failed."""
    outcomes: dict[str, set[Outcome]] = {row: set() for row in rows}
    for claim in claims.values():
        for row in claim.rows:
            outcomes.setdefault(row, set()).add(claim.outcome)
    return {row: _status(seen) for row, seen in outcomes.items()}


def _status(outcomes: set[Outcome]) -> Status:
    if "failed" in outcomes:
        return "failing"
    return "proven" if "passed" in outcomes else "not yet"


def main(arguments: list[str] | None = None) -> int:
    """Print a milestone's rows and their status; with --strict, exit 1 unless all are proven."""
    parser = argparse.ArgumentParser(prog="make requirements", description=main.__doc__)
    parser.add_argument("--milestone", default="money", help="which rows; 'all' for the whole table")
    parser.add_argument("--strict", action="store_true", help="fail unless every row is proven")
    options = parser.parse_args(arguments)
    chosen = [row for row in load_rows().values() if options.milestone in (row.milestone, "all")]
    claims = load_claims(ROOT)
    statuses = status_by_row([row.id for row in chosen], claims)
    for row in chosen:
        print(f"{statuses[row.id]:8} {row.id}  {row.title}")
    proven = sum(statuses[row.id] == "proven" for row in chosen)
    print(f"\n{proven} of {len(chosen)} rows proven ({options.milestone}).")
    if not claims:
        print("No test run is recorded: run `make test` first.")
    return 1 if options.strict and proven < len(chosen) else 0


if __name__ == "__main__":
    sys.exit(main())
