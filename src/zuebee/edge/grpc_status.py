"""PURE. A refusal as a gRPC status with details (google.rpc), and the metadata that goes with it.

Sources: google/rpc/code.proto for what HTTP statuses mean; google/rpc/error_details.proto; gRFC A6 for the pushback
that gRPC clients obey when they retry by themselves.
"""

import math
import re
from typing import NamedTuple

from google.protobuf.any_pb2 import Any as Packed
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import code_pb2
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RequestInfo, RetryInfo
from google.rpc.status_pb2 import Status

from zuebee.contracts.errors import Refusal

DOMAIN = "zuebee"
MAX_REASON = 63
MAX_MESSAGE_BYTES = 500
"""What a model server says may be long, it is said three times, and clients take 8 KiB of metadata in all."""

_BY_STATUS: dict[int, int] = {
    400: code_pb2.INVALID_ARGUMENT,
    401: code_pb2.UNAUTHENTICATED,
    402: code_pb2.RESOURCE_EXHAUSTED,
    403: code_pb2.PERMISSION_DENIED,
    404: code_pb2.NOT_FOUND,
    405: code_pb2.UNIMPLEMENTED,
    408: code_pb2.DEADLINE_EXCEEDED,
    409: code_pb2.ABORTED,
    413: code_pb2.INVALID_ARGUMENT,
    415: code_pb2.INVALID_ARGUMENT,
    422: code_pb2.INVALID_ARGUMENT,
    429: code_pb2.RESOURCE_EXHAUSTED,
    499: code_pb2.CANCELLED,
    500: code_pb2.INTERNAL,
    501: code_pb2.UNIMPLEMENTED,
    502: code_pb2.UNAVAILABLE,
    503: code_pb2.UNAVAILABLE,
    504: code_pb2.DEADLINE_EXCEEDED,
}
_BY_CODE: dict[str, int] = {"bad_answer": code_pb2.INTERNAL, "incomplete_answer": code_pb2.INTERNAL}
"""What the status alone does not say: the model server is there, but cannot be understood."""


class GrpcStatus(NamedTuple):
    """How a call ends: google.rpc.Code, what it says, and the metadata behind it."""

    code: int
    message: str
    fields: tuple[tuple[str, str | bytes], ...]


def code_of(refusal: Refusal) -> int:
    """The google.rpc.Code of a refusal."""
    code = _BY_CODE.get(refusal.code) or _BY_STATUS.get(refusal.status)
    if code is not None:
        return code
    return int(code_pb2.FAILED_PRECONDITION if 400 <= refusal.status < 500 else code_pb2.INTERNAL)


def status_of(refusal: Refusal, request_id: str) -> GrpcStatus:
    """The status of a refusal.

    Details: ErrorInfo with the code as its reason, RequestInfo, RetryInfo where waiting helps, BadRequest where a field
    is to blame. `grpc-retry-pushback-ms` keeps clients that retry by themselves from what would fail or cost again.
    """
    code, message = code_of(refusal), _cut(refusal.message)
    retry = refusal.should_retry
    info = {"type": refusal.type, "http_status": str(refusal.status), "should_retry": "true" if retry else "false"}
    details: list[Message] = [ErrorInfo(reason=_reason(refusal.code), domain=DOMAIN, metadata=info)]
    if refusal.retry_after_s is not None:
        wait = Duration()
        wait.FromMilliseconds(math.ceil(refusal.retry_after_s * 1000))
        details.append(RetryInfo(retry_delay=wait))
    if refusal.param is not None:
        violation = BadRequest.FieldViolation(field=_cut(refusal.param), description=message)
        details.append(BadRequest(field_violations=[violation]))
    details.append(RequestInfo(request_id=request_id))
    status = Status(code=code, message=message, details=[_packed(detail) for detail in details])
    fields: list[tuple[str, str | bytes]] = [("grpc-status-details-bin", status.SerializeToString())]
    fields += [("x-request-id", request_id), ("x-should-retry", info["should_retry"])]
    fields += [(name.decode(), value.decode("latin-1")) for name, value in refusal.headers]
    if not retry:
        fields.append(("grpc-retry-pushback-ms", "-1"))
    elif refusal.retry_after_s is not None:
        fields.append(("grpc-retry-pushback-ms", str(math.ceil(refusal.retry_after_s * 1000))))
    return GrpcStatus(code, message, tuple(fields))


def _cut(text: str) -> str:
    data = text.encode("utf-8", "replace")
    return text if len(data) <= MAX_MESSAGE_BYTES else data[:MAX_MESSAGE_BYTES].decode("utf-8", "ignore") + "..."


def _packed(message: Message) -> Packed:
    packed = Packed()
    packed.Pack(message)
    return packed


def _reason(code: str) -> str:
    """A code as ErrorInfo wants it: upper case, digits and underscores."""
    return re.sub(r"[^A-Z0-9]+", "_", code.upper()).strip("_")[:MAX_REASON] or "UNKNOWN"
