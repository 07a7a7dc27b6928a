"""Refusals as gRPC statuses."""

import pytest
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RequestInfo, RetryInfo
from google.rpc.status_pb2 import Status

from zuebee.contracts.errors import DRAINED, INTERNAL, NO_KEY, OUTBOX_FULL, STORE_UNAVAILABLE, Refusal, bad_request
from zuebee.edge.grpc import GrpcStatus, code_of, status_of


def details(status: GrpcStatus) -> dict[type, object]:
    fields = dict(status.fields)
    raw = fields["grpc-status-details-bin"]
    assert isinstance(raw, bytes)
    whole = Status.FromString(raw)
    assert (whole.code, whole.message) == (status.code, status.message)
    found: dict[type, object] = {}
    for packed in whole.details:
        for kind in (ErrorInfo, RetryInfo, BadRequest, RequestInfo):
            if packed.Is(kind.DESCRIPTOR):
                found[kind] = detail = kind()
                packed.Unpack(detail)
    return found


def refused(status: int, code: str = "x", **more: object) -> Refusal:
    return Refusal(status, "api_error", code, "Why.", **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, 3), (401, 16), (402, 8), (403, 7), (404, 5), (405, 12), (408, 4), (409, 10), (413, 3), (415, 3), (422, 3),
        (429, 8), (499, 1), (500, 13), (501, 12), (502, 14), (503, 14), (504, 4), (418, 9), (431, 9), (599, 13),
    ],
)  # fmt: skip
def test_each_http_status_has_a_code(status: int, code: int) -> None:
    assert code_of(refused(status)) == code


def test_an_answer_that_cannot_be_read_is_not_a_server_that_cannot_be_reached() -> None:
    assert code_of(refused(502, "bad_answer")) == code_of(refused(502, "incomplete_answer")) == 13
    assert code_of(refused(502, "backend_broken")) == 14


@pytest.mark.parametrize("refusal", [NO_KEY, INTERNAL, DRAINED, STORE_UNAVAILABLE, OUTBOX_FULL])
def test_every_status_says_why_for_programs(refusal: Refusal) -> None:
    info = details(status_of(refusal, "req_1"))[ErrorInfo]
    assert isinstance(info, ErrorInfo)
    assert (info.reason, info.domain) == (refusal.code.upper(), "zuebee")
    assert dict(info.metadata) == {
        "type": refusal.type,
        "http_status": str(refusal.status),
        "should_retry": str(refusal.should_retry).lower(),
    }


@pytest.mark.requirement("A092")
@pytest.mark.parametrize(("wait_s", "told_ms"), [(0.0, 0), (0.0104, 11), (1.0, 1000), (59.9991, 60_000)])
def test_how_long_to_wait_is_never_less_than_it_is(wait_s: float, told_ms: int) -> None:
    status = status_of(refused(429, retry_after_s=wait_s, should_retry=True), "req_1")
    retry = details(status)[RetryInfo]
    assert isinstance(retry, RetryInfo)
    assert retry.retry_delay.ToMilliseconds() == told_ms
    assert dict(status.fields)["grpc-retry-pushback-ms"] == str(told_ms)


@pytest.mark.requirement("A092")
def test_who_need_not_wait_is_not_told_to_and_who_should_not_retry_is_told_so() -> None:
    again = status_of(refused(503, should_retry=True), "req_1")
    assert RetryInfo not in details(again)
    assert "grpc-retry-pushback-ms" not in dict(again.fields)
    never = status_of(refused(402, retry_after_s=5.0), "req_1")
    assert RetryInfo in details(never)
    assert dict(never.fields)["grpc-retry-pushback-ms"] == "-1"


def test_the_field_to_blame_is_named() -> None:
    status = status_of(bad_request("The field `n` is wrong.", param="n"), "req_1")
    told = details(status)
    assert isinstance(told[BadRequest], BadRequest)
    assert told[BadRequest].field_violations[0].field == "n"
    assert isinstance(told[RequestInfo], RequestInfo)
    assert told[RequestInfo].request_id == dict(status.fields)["x-request-id"] == "req_1"
    assert BadRequest not in details(status_of(NO_KEY, "req_1"))


@pytest.mark.parametrize("letter", ["m", "ä", "漢", "\U0001f41d"])
def test_a_long_message_is_cut_so_that_clients_can_take_it(letter: str) -> None:
    status = status_of(bad_request(letter * 2000, param=letter * 500), "req_" + "0" * 30)
    percent_encoded = 3 * len(status.message.encode())
    base64 = sum(len(value) * 4 // 3 if isinstance(value, bytes) else len(value) for _, value in status.fields)
    assert percent_encoded + base64 + sum(len(name) + 32 for name, _ in status.fields) < 8192
    assert status.message.endswith(letter + "...")
    details(status)


def test_limits_go_along() -> None:
    status = status_of(refused(429, headers=((b"x-ratelimit-limit", b"3"),)), "req_1")
    assert dict(status.fields)["x-ratelimit-limit"] == "3"


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("rate_limit_exceeded", "RATE_LIMIT_EXCEEDED"),
        ("no-such model!", "NO_SUCH_MODEL"),
        ("", "UNKNOWN"),
        ("é", "UNKNOWN"),
    ],
)
def test_a_reason_is_spelled_as_google_wants_it(code: str, reason: str) -> None:
    info = details(status_of(refused(400, code), "req_1"))[ErrorInfo]
    assert isinstance(info, ErrorInfo)
    assert info.reason == reason
