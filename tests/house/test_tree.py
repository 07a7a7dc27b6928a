"""What stands where: tests beside their source, a page that tells the truth, nothing of anybody's machine."""

import re
from collections.abc import Iterable
from pathlib import PurePosixPath

import pytest

from tests.support import structure
from tests.support.source import ROOT, package_files, tracked_files

REGISTRY_ADDRESSES = re.compile(r"pypi\.o" + r"rg|npmjs\.o" + r"rg|files\.python" + "hosted")
CONFLICT_MARKS = re.compile(r"^(<{7}|>{7}) ")
MACHINE_PATHS = re.compile(r"(?<![\w.~-])/" + r"(work|root|home/\w+|tmp/wt)/")


def homeless(tests: Iterable[str], rooms: set[str]) -> list[str]:
    """Unit tests (inside tests/unit) that stand in no room of the package."""
    return [test for test in tests if str(PurePosixPath(test).parent) not in rooms]


def test_every_unit_test_stands_in_the_room_that_it_tests() -> None:
    rooms = {str(PurePosixPath(source.inside).parent) for source in package_files()}
    unit = [PurePosixPath(name) for name in tracked_files() if name.startswith("tests/unit/")]
    tests = [str(path.relative_to("tests/unit")) for path in unit if path.match("test_*.py")]
    assert not homeless(tests, rooms), "Move it into the room that keeps what it promises."


def test_a_homeless_test_is_seen() -> None:
    assert homeless(["lib/test_clock.py", "cellar/test_wine.py", "test_all.py"], {"lib"}) == [
        "cellar/test_wine.py",
        "test_all.py",
    ]


@pytest.mark.requirement("A358")
def test_the_structure_page_matches_the_tree() -> None:
    page = ROOT / structure.PAGE
    assert page.exists(), "Run `make structure`."
    assert page.read_text(encoding="utf-8").startswith(structure.render()), "Run `make structure`."


def test_every_place_of_the_repository_is_described() -> None:
    places = {PurePosixPath(name).parts[0] for name in tracked_files() if "/" in name}
    assert places <= structure.PLACES.keys(), "Describe the directory in PLACES of tests/support/structure.py."


def test_every_room_is_a_package() -> None:
    paths = {source.inside for source in package_files()}
    rooms = {str(PurePosixPath(path).parent) for path in paths if "/" in path}
    missing = sorted(room for room in rooms if f"{room}/__init__.py" not in paths)
    assert not missing, "Give it an __init__.py with one sentence that says what the room is for."


def test_every_module_says_what_it_is() -> None:
    silent = [source.path for source in package_files() if not structure.first_sentence(source.tree)]
    assert not silent, "Begin it with one sentence that says what it is for."


@pytest.mark.parametrize("pattern", [REGISTRY_ADDRESSES, MACHINE_PATHS], ids=["registry addresses", "machine paths"])
def test_nothing_of_anybodys_machine_is_committed(pattern: re.Pattern[str]) -> None:
    found = [
        f"{name}:{n}: {line.strip()[:90]}"
        for name in tracked_files()
        for n, line in lines(name)
        if pattern.search(line)
    ]
    assert not found, "\n".join(["Leave the address or path to the machine that runs it:", *found])


def test_no_merge_was_committed_half_done() -> None:
    found = [f"{name}:{n}" for name in tracked_files() for n, line in lines(name) if CONFLICT_MARKS.search(line)]
    assert not found, "Decide between the two sides of the merge."


def test_the_patterns_see_what_they_forbid() -> None:
    assert CONFLICT_MARKS.search("<" * 7 + " HEAD")
    assert REGISTRY_ADDRESSES.search("--index-url https://pypi.o" + "rg/simple")
    assert MACHINE_PATHS.search("cache = '/" + "work/main/.venv'")
    assert not MACHINE_PATHS.search("docs/" + "work/in-progress.md")


@pytest.mark.requirement("A324")
@pytest.mark.parametrize("lock", ["requirements.txt", "requirements-dev.txt"])
def test_lock_files_hold_names_versions_and_hashes_only(lock: str) -> None:
    content = [line.strip(" \\") for _, line in lines(lock) if not line.lstrip().startswith("#")]
    pin = re.compile(r"[a-z0-9-]+(\[[a-z0-9,-]+\])?==[\w.+!]+( ; [\w.'=<>! ()]+)?")
    odd = [line for line in content if not pin.fullmatch(line) and not re.fullmatch(r"--hash=sha256:\w{64}", line)]
    assert content
    assert not odd, "Run `make lock`, with an index that it need not name."


def lines(name: str) -> list[tuple[int, str]]:
    """The numbered lines of a text file; none of a binary one."""
    try:
        return list(enumerate((ROOT / name).read_text(encoding="utf-8").splitlines(), 1))
    except UnicodeDecodeError:
        return []
