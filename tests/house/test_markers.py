"""Markers mean something: each is registered and used, names rows that exist, and is recorded truthfully."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.support.acceptance import Claim, load_rows, status_by_row
from tests.support.source import ROOT, Source, python_files, references


def test_the_table_of_rows_is_whole() -> None:
    rows = list(load_rows().values())
    assert [row.id for row in rows] == [f"A{number:03}" for number in range(1, 382)]
    assert {row.milestone for row in rows} == {"gateway", "money", "later"}
    assert all(row.title for row in rows)


def test_every_registered_marker_is_used() -> None:
    options = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["pytest"]["ini_options"]
    registered = {re.split(r"[(:]", marker)[0] for marker in options["markers"]}
    unseen = set(registered)
    for source in python_files():
        if source.path.startswith("tests/") and any(f"mark.{marker}" in source.text for marker in unseen):
            unseen -= {name.removeprefix("pytest.mark.") for _, name in references(source.tree)}
    assert not unseen, "Take the marker that no test carries out of pyproject.toml."


CLOCKS = {"time.monotonic", "time.monotonic_ns", "time.perf_counter", "time.perf_counter_ns", "time.process_time"}
BY_THEMSELVES = {"pytest.mark.alone", "pytest.mark.proof"}


def clock_without_marker(source: Source) -> bool:
    """Whether it reads a clock and none of its tests says that it needs the machine for itself."""
    names = {name for _, name in references(source.tree)} if "time" in source.text else set()
    return bool(names & CLOCKS) and not names & BY_THEMSELVES


def test_who_watches_a_clock_runs_alone() -> None:
    places = ("tests/scenarios/", "tests/proofs/")
    found = [each.path for each in python_files() if each.path.startswith(places) and clock_without_marker(each)]
    assert not found, "Mark the tests that watch a clock: @pytest.mark.alone (CONTRIBUTING.md says which those are)."


@pytest.mark.parametrize(("marker", "breach"), [("", True), ("pytest.mark.alone", False), ("pytest.mark.proof", False)])
def test_a_clock_that_is_watched_in_a_crowd_is_seen(marker: str, breach: bool) -> None:
    text = f"import time, pytest\npytestmark = [{marker}]\ndef test(): assert time.monotonic() < 2\n"
    assert clock_without_marker(Source("tests/scenarios/test_it.py", text)) is breach


def slow_and_left_out(source: Source, folders: tuple[str, ...]) -> bool:
    """Whether it has a test that is marked slow, in a folder that is not run on what was compiled."""
    if source.path.startswith(folders) or "slow" not in source.text:  # the tree is dear to look through
        return False
    return any(name == "pytest.mark.slow" for _, name in references(source.tree))


def test_whatever_is_slow_is_run_on_what_was_compiled() -> None:
    """`make test` leaves what is slow out of its run on the sources: only these folders run a second time."""
    rooms = re.search(r"^ROOMS = (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert rooms is not None
    folders = ("tests/simulation/", *(f"tests/unit/{room}/" for room in rooms[1].split()))
    found = [source.path for source in python_files() if slow_and_left_out(source, folders)]
    assert not found, "Nobody would run them: only rooms in ROOMS of the Makefile may have tests that are marked slow."


@pytest.mark.parametrize(("path", "breach"), [("tests/unit/a/test_it.py", False), ("tests/unit/b/test_it.py", True)])
def test_what_is_slow_and_would_not_be_run_is_seen(path: str, breach: bool) -> None:
    source = Source(path, "import pytest\n@pytest.mark.slow\ndef test(): pass\n")
    assert slow_and_left_out(source, ("tests/unit/a/",)) is breach


def test_a_row_is_proven_by_a_pass_and_unproven_by_a_failure() -> None:
    claims = [
        Claim("one", ("A001", "A002"), "passed"),
        Claim("two", ("A002",), "failed"),
        Claim("three", ("A003",), "skipped"),
    ]
    statuses = status_by_row(["A001", "A002", "A003", "A004"], {claim.test: claim for claim in claims})
    assert statuses == {"A001": "proven", "A002": "failing", "A003": "not yet", "A004": "not yet"}


def run_pytest(directory: Path, tests: str) -> subprocess.CompletedProcess[str]:
    (directory / "test_it.py").write_text("import pytest\n" + tests)
    (directory / "pytest.ini").write_text("[pytest]\nmarkers = requirement\n")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "tests.support.requirements_plugin",
        "-p",
        "no:cacheprovider",
    ]
    # No other plugin has a part in it, and to load them takes longer than to run.
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    return subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, check=False)


def test_outcomes_are_recorded(tmp_path: Path) -> None:
    result = run_pytest(
        tmp_path,
        """
@pytest.fixture
def breaks_at_the_end():
    yield
    raise RuntimeError

@pytest.mark.requirement("A001", "A002")
def test_passes(): pass

@pytest.mark.requirement("A003")
def test_fails(): assert False

@pytest.mark.requirement("A004")
def test_skips(): pytest.skip("no reason")

@pytest.mark.requirement("A005")
def test_ends_badly(breaks_at_the_end): pass
""",
    )
    record = json.loads((tmp_path / ".cache" / "requirements.json").read_text())
    outcomes = {row: entry["outcome"] for entry in record.values() for row in entry["rows"]}
    expected = {"A001": "passed", "A002": "passed", "A003": "failed", "A004": "skipped", "A005": "failed"}
    assert outcomes == expected, result.stdout


@pytest.mark.parametrize("mark", ["requirement('A999')", "requirement()"])
def test_a_row_that_does_not_exist_fails_the_run(tmp_path: Path, mark: str) -> None:
    result = run_pytest(tmp_path, f"@pytest.mark.{mark}\ndef test_claims(): pass\n")
    assert result.returncode == pytest.ExitCode.USAGE_ERROR
    assert "test_claims" in result.stderr
