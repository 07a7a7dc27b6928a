"""What is written of a request: its usage record and its line of the access log, a moment after its answer.

Where tests share a gateway, what the request before left may still be on its way when a test begins. So nobody takes
the first new row for its own: ask for it by its id, or begin when all is `written`.
"""

from typing import Any

from tests.support.processes import Gateway, until


def record_of(gateway: Gateway, request_id: str | None) -> dict[str, Any]:
    """The one usage record of a request, once it is there."""
    return _only(until(lambda: _of(gateway.usage_rows(), request_id), f"the record of {request_id}"))


def line_of(gateway: Gateway, request_id: str | None) -> dict[str, Any]:
    """The one line of the access log of a request, once it is there."""
    return _only(until(lambda: _of(gateway.access_lines(), request_id), f"the access line of {request_id}"))


def written(gateway: Gateway) -> tuple[int, int]:
    """How many usage records and access lines there are, once nothing runs and none is on its way."""
    until(lambda: gateway.metrics()["zuebee_requests_running"] == 0, "nothing runs")
    records, logged = (gateway.total(f"zuebee_{name}_total") for name in ("usage_records", "terminations"))
    until(lambda: len(gateway.usage_rows()) >= records, "all requests are on record")
    until(lambda: len(gateway.access_lines()) >= logged, "all requests are logged")
    return len(gateway.usage_rows()), len(gateway.access_lines())


def _of(found: list[dict[str, Any]], request_id: str | None) -> list[dict[str, Any]]:
    return [each for each in found if each["request_id"] == request_id]


def _only(found: list[dict[str, Any]]) -> dict[str, Any]:
    assert len(found) == 1
    return found[0]
