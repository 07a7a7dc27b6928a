"""The other ends of gRPC: clients of the gate's API, and a billing service that it asks."""

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any, NamedTuple

import grpc
import grpc.aio
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from tests.support.processes import KEY, Gateway, until
from zuebee.protos.auth_pb2 import ValidateKeyRequest, ValidateKeyResponse
from zuebee.protos.llm_pb2 import ChatCompletionChunkResponse, ChatCompletionRequest, ChatCompletionResponse

SERVICES = ("llm.v1.LlmService", "llm.v1.LLMService")
TIMEOUT_S = 20.0
_DETAILS = (
    error_details_pb2.ErrorInfo, error_details_pb2.RetryInfo, error_details_pb2.BadRequest,
    error_details_pb2.RequestInfo,
)  # fmt: skip


def hello(**fields: Any) -> ChatCompletionRequest:
    """A request that any simulated server answers."""
    return ChatCompletionRequest(**{"model": "sim-small", "user_prompt": "Hello there", **fields})


class Failure(NamedTuple):
    """How a call failed: the name of its status, what it said, its details by their type, and its last metadata."""

    status: str
    message: str
    details: dict[str, Any]
    fields: dict[str, Any]

    @property
    def reason(self) -> str:
        """Of its ErrorInfo."""
        return str(self.details["ErrorInfo"].reason)

    @property
    def retry_s(self) -> float | None:
        """Of its RetryInfo; None: it has none."""
        told = self.details.get("RetryInfo")
        return None if told is None else told.retry_delay.ToMilliseconds() / 1000


def failure(error: grpc.RpcError) -> Failure:
    """What a call failed with."""
    fields = dict(error.trailing_metadata() or ())
    status = status_pb2.Status.FromString(fields.get("grpc-status-details-bin", b""))
    found: dict[str, Message] = {}
    for packed in status.details:
        for kind in _DETAILS:
            if packed.Is(kind.DESCRIPTOR):
                found[kind.DESCRIPTOR.name] = detail = kind()
                packed.Unpack(detail)
    if status.details:
        assert (status.code, status.message) == (error.code().value[0], error.details())
    return Failure(error.code().name, error.details() or "", found, fields)


class Caller:
    """A client with a key (empty: none)."""

    def __init__(self, channel: grpc.Channel, key: str = KEY, service: str = SERVICES[0]) -> None:
        self.channel = channel
        self._service = service
        self._metadata = (("authorization", f"Bearer {key}"),) if key else ()

    def with_key(self, key: str) -> "Caller":
        """The same client with another key."""
        return Caller(self.channel, key, self._service)

    def ask(
        self, request: ChatCompletionRequest | None = None, *more: tuple[str, str], timeout_s: float = TIMEOUT_S
    ) -> ChatCompletionResponse | Failure:
        """The answer to a call of ChatCompletion."""
        answer, _ = self.ask_whole(request, *more, timeout_s=timeout_s)
        return answer

    def ask_whole(
        self, request: ChatCompletionRequest | None = None, *more: tuple[str, str], timeout_s: float = TIMEOUT_S
    ) -> tuple[ChatCompletionResponse | Failure, dict[str, Any]]:
        """The answer, and its first metadata."""
        method = self.channel.unary_unary(
            f"/{self._service}/ChatCompletion",
            ChatCompletionRequest.SerializeToString,
            ChatCompletionResponse.FromString,
        )
        try:
            answer, call = method.with_call(
                request or hello(max_tokens=3), timeout=timeout_s, metadata=self._metadata + more
            )
        except grpc.RpcError as error:
            return failure(error), {}
        return answer, dict(call.initial_metadata())

    def stream(
        self,
        request: ChatCompletionRequest | None = None,
        *more: tuple[str, str],
        timeout_s: float = TIMEOUT_S,
        method: str = "ChatCompletionStream",
    ) -> Any:
        """A running call: iterate it for its messages, which raises grpc.RpcError when it fails."""
        call = self.channel.unary_stream(
            f"/{self._service}/{method}",
            ChatCompletionRequest.SerializeToString,
            ChatCompletionChunkResponse.FromString,
        )
        return call(request or hello(max_tokens=5), timeout=timeout_s, metadata=self._metadata + more)


def answered(found: ChatCompletionResponse | Failure) -> ChatCompletionResponse:
    """What must be an answer."""
    assert isinstance(found, ChatCompletionResponse), found
    return found


def failed(found: ChatCompletionResponse | Failure | None) -> Failure:
    """What must be a failure."""
    assert isinstance(found, Failure), found
    return found


def chunks(call: Any) -> tuple[list[ChatCompletionChunkResponse], Failure | None]:
    """All messages of a stream, and how it failed, if it did."""
    found: list[ChatCompletionChunkResponse] = []
    try:
        found.extend(call)
    except grpc.RpcError as error:
        return found, failure(error)
    return found, None


def grpc_port(gateway: Gateway) -> int:
    """Where a gateway serves gRPC, as it says itself."""
    return int(until(lambda: re.search(r"gRPC on port (\d+)", gateway.output), "it says its gRPC port")[1])


@contextmanager
def calling(
    gateway: Gateway, key: str = KEY, credentials: grpc.ChannelCredentials | None = None, *more: tuple[str, Any]
) -> Iterator[Caller]:
    """A client of a gateway; `more` options of its channel."""
    address = f"127.0.0.1:{grpc_port(gateway)}"
    # A channel of its own: by default they share one connection, which no two clients do.
    options = (("grpc.use_local_subchannel_pool", 1), *more)
    channel = (
        grpc.insecure_channel(address, options)
        if credentials is None
        else grpc.secure_channel(address, credentials, options)
    )
    with channel:
        yield Caller(channel, key)


Validate = Callable[[ValidateKeyRequest], Awaitable[ValidateKeyResponse | bytes | grpc.StatusCode]]


@asynccontextmanager
async def billing_service(
    validate: Validate,
    *,
    method: str = "auth.AuthService/ValidateKey",
    port: int = 0,
    credentials: grpc.ServerCredentials | None = None,
    heard: list[Mapping[str, Any]] | None = None,
) -> AsyncIterator[str]:
    """A real gRPC server on the loopback that answers ValidateKey; its address. `heard`: metadata it was sent."""

    async def answer(request: bytes, context: Any) -> bytes:
        if heard is not None:
            heard.append(dict(context.invocation_metadata()))
        found = await validate(ValidateKeyRequest.FromString(request))
        if isinstance(found, grpc.StatusCode):
            await context.abort(found, f"about {ValidateKeyRequest.FromString(request).api_key}")
        return found if isinstance(found, bytes) else found.SerializeToString()  # type: ignore[union-attr]

    service, _, name = method.rpartition("/")
    handlers = {name: grpc.unary_unary_rpc_method_handler(answer)}
    server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    if credentials is None:
        bound = server.add_insecure_port(f"127.0.0.1:{port}")
    else:
        bound = server.add_secure_port(f"127.0.0.1:{port}", credentials)
    await server.start()
    try:
        yield f"127.0.0.1:{bound}"
    finally:
        await server.stop(0)
