"""pytest plugin: `@pytest.mark.requirement("A034")` records which acceptance rows a passing test proves."""

import pytest

from tests.support.acceptance import Claim, Outcome, load_rows, save_claims

_PROPERTY = "requirements"


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(_Recorder(config), "requirements-recorder")


class _Recorder:
    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._claims: dict[str, Claim] = {}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        known = load_rows()
        for item in items:
            marks = list(item.iter_markers("requirement"))
            rows = [row for mark in marks for row in mark.args]
            if unknown := [row for row in rows if row not in known]:
                raise pytest.UsageError(f"{item.nodeid}: no such row in tests/requirements.tsv: {unknown}")
            if any(not mark.args for mark in marks):
                raise pytest.UsageError(f"{item.nodeid}: requirement() names no row")
            if rows:
                item.user_properties.append((_PROPERTY, tuple(rows)))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        rows = dict(report.user_properties).get(_PROPERTY)
        if not isinstance(rows, tuple | list):
            return
        earlier = self._claims.get(report.nodeid)
        outcome: Outcome = "failed" if earlier and earlier.outcome == "failed" else _outcome(report, earlier)
        self._claims[report.nodeid] = Claim(report.nodeid, tuple(rows), outcome)

    def pytest_sessionfinish(self) -> None:
        is_worker = hasattr(self._config, "workerinput")  # pytest-xdist: the controller hears of every test
        if self._claims and not is_worker:
            save_claims(self._config.rootpath, self._claims.values())


def _outcome(report: pytest.TestReport, earlier: Claim | None) -> Outcome:
    """A test reports set-up, call and tear-down: it passed if its call did and the others did not fail."""
    if report.when == "call" or report.outcome != "passed":
        return report.outcome
    return earlier.outcome if earlier else "skipped"
