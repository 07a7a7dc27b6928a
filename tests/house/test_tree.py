"""What stands where: tests beside their source, a page that tells the truth, nothing of anybody's machine."""

import re
from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import PurePosixPath

import pytest

from tests.support import structure
from tests.support.source import ROOT, package_files, tracked_files

# Files (or patterns) without a unit test of their own, and what tests them instead.
TESTED_ELSEWHERE = {
    "__main__.py": "one call; the scenarios start it",
    "auth/counters.py": "integers that others add to; tests/unit/auth/test_service.py reads them",
    "auth/database.py": "tests/scenarios/test_key_sources.py, on three real databases",
    "auth/lookups.py": "tests/scenarios/test_key_sources.py and test_key_webhooks.py, with real stores",
    "auth/step.py": "tests/unit/auth/test_service.py: a step is what the pipeline is made of",
    "auth/validate_key.py": "tests/scenarios/test_key_billing.py, with a real gRPC server",
    "auth/webhook.py": "tests/scenarios/test_key_webhooks.py, with a real server",
    "app/*.py": "plugs real parts together; tests/scenarios start them as processes",
    "edge/early.py": "tests/scenarios/test_unfinished_uploads.py: places of real uploads, and tests/unit/limits",
    "config/finding.py": "a shape without behaviour; tests/unit/config/test_check*.py are made of it",
    "cli/*.py": "its commands are run as a user would: tests/scenarios/test_starting.py, test_config.py",
    "schema/migrations/*.py": "tests/unit/schema/test_migrate.py and tests/scenarios/test_store_schema.py run them all",
    "kit/redis_errors.py": "two names; tests/unit/kit/test_redis.py catches them",
    "kit/http_flow.py": "tests/unit/kit/test_http_guard_answers.py, with clients that stop reading",
    "kit/http_head_rules.py": "tests/unit/kit/test_http_guard_corpus.py, head by head",
    "kit/http_scope.py": "tests/unit/kit/test_http_guard.py, as the application sees it",
    "kit/http_limits.py": "shapes and words; tests/unit/kit/test_http_guard.py breaks each limit",
    "edge/grpc_client.py": "tests/scenarios/test_grpc_api.py, with a real client",
    "kit/grpc_channel.py": "tests/scenarios/test_key_billing.py, with a real gRPC server",
    "kit/postgres.py": "tests/scenarios/test_postgres_pooler.py, with a real server and a real pooler",
    "kit/grpc_failure.py": "a name; tests/scenarios/test_key_billing.py raises it",
    "protos/*.py": "generated; tests/house/test_protos.py makes them anew",
    "edge/client.py": "a shape without behaviour; edge/asgi.py and edge/recording.py have it",
    "billing/postgres_connection.py": "tests/scenarios/test_postgres_faults.py, on a real database",
    "billing/store_postgres.py": "tests/scenarios/test_postgres_ledger.py, on a real database",
    "billing/entries.py": "shapes; tests/unit/billing/test_ledger.py is made of them",
    "billing/store_errors.py": "two names; the tests of both stores raise them",
    "billing/stub.py": "tests/unit/billing/test_records.py, through which it is kept",
    "telemetry/access_*.py": "tests/unit/telemetry/test_logs.py, line by line",
    "billing/rates.py": "shapes; tests/unit/billing/test_pricing.py is made of them",
    "dialects/openai_shapes.py": "shapes; tests/unit/dialects/test_openai.py reads into them",
    "limits/state.py": "a shape; tests/unit/limits/test_answers.py is made of it",
    "dispatch/following.py": "tests/unit/dispatch/test_service.py, in whose answers it stands",
    "models/answer_fields.py": "tests/unit/models/test_headers.py, both directions together",
    "models/outcomes.py": "tests/unit/models/test_service.py, with a real connection",
    "models/streams.py": "tests/unit/models/test_service.py, with a real connection",
    "models/whole_answer.py": "tests/unit/models/test_service.py, with a real connection",
    "contracts/*.py": "shapes without behaviour; every test of a room is made of them",
}

REGISTRY_ADDRESSES = re.compile(r"pypi\.o" + r"rg|npmjs\.o" + r"rg|files\.python" + "hosted")
CONFLICT_MARKS = re.compile(r"^(<{7}|>{7}) ")
MACHINE_PATHS = re.compile(r"(?<![\w.~-])/" + r"(work|root|home/\w+|tmp/wt)/")


def without_unit_test(sources: Iterable[str], tests: Iterable[str]) -> list[str]:
    """Sources that no test file mirrors: `a/b.py` wants `a/test_b.py` or `a/test_b_<aspect>.py`."""
    mirrored = {_mirrored_name(test, sources) for test in tests}
    return [path for path in sources if PurePosixPath(path).name != "__init__.py" and path not in mirrored]


def without_source(sources: Iterable[str], tests: Iterable[str]) -> list[str]:
    """Test files (inside tests/unit) that mirror nothing."""
    return [test for test in tests if _mirrored_name(test, sources) is None]


def _mirrored_name(test: str, sources: Iterable[str]) -> str | None:
    path = PurePosixPath(test)
    words = path.stem.removeprefix("test_").split("_")
    candidates = (str(path.with_name("_".join(words[:n]) + ".py")) for n in range(len(words), 0, -1))
    return next((name for name in candidates if name in set(sources)), None)


def test_every_source_file_has_a_unit_test() -> None:
    missing = without_unit_test(*mirror())
    untested = [path for path in missing if not any(fnmatch(path, pattern) for pattern in TESTED_ELSEWHERE)]
    assert not untested, "Write tests/unit/<room>/test_<file>.py, or say in TESTED_ELSEWHERE what tests it."
    idle = [pattern for pattern in TESTED_ELSEWHERE if not any(fnmatch(path, pattern) for path in missing)]
    assert not idle, "Take from TESTED_ELSEWHERE what is gone or has a unit test by now."


def test_every_unit_test_mirrors_a_source_file() -> None:
    sources, tests = mirror()
    assert not without_source(sources, tests), "Name it test_<file>.py or test_<file>_<aspect>.py, in the same room."


def test_a_missing_mirror_is_seen() -> None:
    sources = ["kit/http_client.py", "kit/clock.py", "kit/__init__.py"]
    assert without_unit_test(sources, ["kit/test_http_client_tls.py"]) == ["kit/clock.py"]
    assert without_source(sources, ["kit/test_http_client_tls.py", "test_clock.py"]) == ["test_clock.py"]


def mirror() -> tuple[list[str], list[str]]:
    sources = [source.inside for source in package_files()]
    unit = (PurePosixPath(name) for name in tracked_files() if name.startswith("tests/unit/"))
    return sources, [str(path.relative_to("tests/unit")) for path in unit if path.match("test_*.py")]


@pytest.mark.requirement("A358")
def test_the_structure_page_matches_the_tree() -> None:
    page = ROOT / structure.PAGE
    assert page.exists(), "Run `make structure`."
    assert page.read_text(encoding="utf-8") == structure.render(), "Run `make structure`."


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
