"""A gRPC listener whose end the caller controls, step by step, as `HttpServer` has it. It knows no messages: bytes."""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import grpc.aio
from google.protobuf import descriptor_pb2, descriptor_pool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2

from zuebee.lib.tasks import Tasks

# What clients can ask of a gRPC listener about itself: `grpc.reflection.v1`, and `v1alpha`, as older ones call it.
#
# Both are the same messages under two names, and Google's package for Python knows only the older one.

OLD = "grpc.reflection.v1alpha"
NEW = "grpc.reflection.v1"
SERVICE = f"{NEW}.ServerReflection"


def add_reflection(server: Any, services: Iterable[str]) -> None:
    """Let clients of a server ask about these services, and about reflection itself."""
    pool = descriptor_pool.Default()
    _know_new_name(pool)
    names = (*services, reflection.SERVICE_NAME, SERVICE)
    reflection.enable_server_reflection(names, server, pool)
    method = grpc.stream_stream_rpc_method_handler(
        reflection.aio.ReflectionServicer(names, pool=pool).ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {"ServerReflectionInfo": method}),))


def _know_new_name(pool: Any) -> None:
    """Who asks what the service is that answers gets its description."""
    try:
        pool.FindServiceByName(SERVICE)
    except KeyError:
        new = descriptor_pb2.FileDescriptorProto()
        reflection_pb2.DESCRIPTOR.CopyToProto(new)
        new.name, new.package = "grpc/reflection/v1/reflection.proto", NEW
        new.ClearField("options")
        for service in new.service:
            for method in service.method:
                method.input_type = method.input_type.replace(OLD, NEW)
                method.output_type = method.output_type.replace(OLD, NEW)
        for message in new.message_type:
            for field in filter(lambda each: each.type_name, message.field):
                field.type_name = field.type_name.replace(OLD, NEW)
        pool.AddSerializedFile(new.SerializeToString())


Fields = Sequence[tuple[str, str | bytes]]
"""Metadata: names in lower case; those that end in `-bin` have bytes."""

CLOSE_WAIT_S = 5.0
WATCH_INTERVAL_S = 1.0
MAX_WATCHERS = 100
PING_INTERVAL_MS = 10_000
FOREVER_S = 3600.0 * 24
_CODES = {code.value[0]: code for code in grpc.StatusCode}


class GrpcLimits(NamedTuple):
    """What clients may send, and by when."""

    max_message_bytes: int
    max_metadata_bytes: int
    max_calls: int
    handshake_timeout_s: float
    write_timeout_s: float


class GrpcTls(NamedTuple):
    """Certificate and key of the listener, PEM; `client_ca`: clients must show a certificate of these authorities."""

    certificate: bytes
    key: bytes
    client_ca: bytes | None = None

    @classmethod
    def read(cls, certificate: str, key: str, client_ca: str | None) -> "GrpcTls":
        """From these files. Raises OSError."""
        authorities = None if client_ca is None else Path(client_ca).read_bytes()
        return cls(Path(certificate).read_bytes(), Path(key).read_bytes(), authorities)


class Call:
    """One call of a client: its request, and how to answer it.

    `fields` are its metadata. `goes_on` is asked when the client leaves before the end: True lets the handler run on,
    and nobody sees what it sends.
    """

    def __init__(self, context: Any, request: bytes, *, streams: bool, write_timeout_s: float) -> None:
        self.request = request
        self.streams = streams
        self.fields: Fields = tuple((item[0], item[1]) for item in context.invocation_metadata() or ())
        self.peer: str = context.peer()
        self.goes_on: Callable[[], bool] = lambda: False
        self.task: asyncio.Task[None] | None = None
        self._context = context
        self._write_timeout_s = write_timeout_s
        self._gone = False
        self._answer = b""
        self._failure: tuple[int, str, Fields] | None = None

    async def start(self, fields: Fields) -> None:
        """Send the first metadata of the answer. Once, before anything else; it may be left out."""
        if not self._gone:
            try:
                await self._context.send_initial_metadata(tuple(fields))
            except grpc.aio.BaseError:
                await self._left()

    async def send(self, message: bytes) -> None:
        """Send a message of the answer; waits while the client is slow. A client that takes nothing is cut off."""
        if self._gone:
            return
        if not self.streams:
            self._answer = message
            return
        try:
            async with asyncio.timeout(self._write_timeout_s):
                await self._context.write(message)
        except TimeoutError:
            self.fail(grpc.StatusCode.DEADLINE_EXCEEDED.value[0], "The client takes no more of the answer.", ())
            await self._left()
        except grpc.aio.BaseError:
            # It left, and gRPC has not told us yet.
            await self._left()

    def fail(self, code: int, message: str, fields: Fields) -> None:
        """End the answer with a status other than OK (google.rpc.Code), and metadata behind it."""
        self._failure = code, message, fields

    def cancel(self) -> None:
        """Cancel the task that answers."""
        if self.task is not None:
            self.task.cancel()

    async def _left(self) -> None:
        self.leave()
        await asyncio.sleep(0)  # here the task is cancelled, unless it goes on without a client

    def leave(self) -> None:
        """The client has left."""
        if self._gone:
            return
        self._gone = True
        if not self.goes_on():
            self.cancel()

    async def end(self) -> bytes:
        """The handler is done: what is left to give to the client. Raises what makes the status."""
        if self._failure is not None:
            code, message, fields = self._failure
            await self._context.abort(_CODES.get(code, grpc.StatusCode.UNKNOWN), message, tuple(fields))
        return self._answer


Handler = Callable[[Call], Coroutine[Any, Any, None]]


class Method(NamedTuple):
    """A method of a service; `streams`: its answer is a stream of messages."""

    handler: Handler
    streams: bool


class GrpcServer:
    """Listens, serves, drains. The caller calls `start`, then at the end `stop_accepting`, `wait_idle`, `close`.

    `port` is where, once it listens. `ready` is what the health service (grpc.health.v1) answers, for the whole server
    and for each of its services. With `reflects` clients can ask what there is.
    `ping_interval_ms`: more often no client may say that it lives.
    """

    def __init__(
        self,
        services: Mapping[str, Mapping[str, Method]],
        *,
        limits: GrpcLimits,
        ready: Callable[[], bool],
        tls: GrpcTls | None = None,
        reflects: bool = True,
        ping_interval_ms: int = PING_INTERVAL_MS,
    ) -> None:
        self.tls = tls
        self._services = services
        self._limits = limits
        self._ping_interval_ms = ping_interval_ms
        self._ready = ready
        self._reflects = reflects
        self._tasks = Tasks()
        self._server: Any = None
        self._stopping = False
        self.running_count = 0
        self.port = 0

    async def start(self, host: str, port: int) -> int:
        """Listen; returns the port (useful with port 0). Raises OSError."""
        limits = self._limits
        options = (
            ("grpc.max_receive_message_length", limits.max_message_bytes),
            ("grpc.max_metadata_size", limits.max_metadata_bytes),
            ("grpc.absolute_max_metadata_size", limits.max_metadata_bytes),
            ("grpc.server_handshake_timeout_ms", round(limits.handshake_timeout_s * 1000)),
            # A second process on this port must fail, not take half of the calls.
            ("grpc.so_reuseport", 0),
            # Dead clients are found, and live ones may say that they live as often as every ten seconds.
            ("grpc.keepalive_time_ms", 60_000),
            ("grpc.keepalive_timeout_ms", 20_000),
            (
                "grpc.http2.min_ping_interval_without_data_ms",
                self._ping_interval_ms,
            ),  # of pings received, despite its name
            ("grpc.keepalive_permit_without_calls", 1),
        )
        server = grpc.aio.server(options=options, maximum_concurrent_rpcs=limits.max_calls)
        for name, methods in self._services.items():
            handlers = {method: self._handler(what) for method, what in methods.items()}
            server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, handlers),))
        names = (*self._services, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name)
        health_pb2_grpc.add_HealthServicer_to_server(_Health(self._services, self._is_ready), server)
        if self._reflects:
            add_reflection(server, names)
        address = f"{f'[{host}]' if ':' in host else host or '[::]'}:{port}"
        try:
            if self.tls is None:
                bound = server.add_insecure_port(address)
            else:
                bound = server.add_secure_port(address, self._credentials(self.tls))
        except RuntimeError:
            raise OSError("the port is taken, or the address is not this machine's") from None
        await server.start()
        self._server, self.port = server, int(bound)
        return self.port

    def _credentials(self, tls: GrpcTls) -> Any:
        """Asks for the certificate at each handshake, so that a new one is taken up."""

        def configuration() -> Any:
            now = self.tls or tls
            return grpc.ssl_server_certificate_configuration([(now.key, now.certificate)], now.client_ca)

        return grpc.dynamic_ssl_server_credentials(
            configuration(), configuration, require_client_authentication=tls.client_ca is not None
        )

    def _handler(self, method: Method) -> Any:
        if method.streams:
            return grpc.unary_stream_rpc_method_handler(partial(self._stream, method.handler))
        return grpc.unary_unary_rpc_method_handler(partial(self._answer, method.handler))

    async def _answer(self, handler: Handler, request: bytes, context: Any) -> bytes:
        call = Call(context, request, streams=False, write_timeout_s=self._limits.write_timeout_s)
        del request  # see `_serve`
        return await self._serve(handler, call)

    async def _stream(self, handler: Handler, request: bytes, context: Any) -> None:
        call = Call(context, request, streams=True, write_timeout_s=self._limits.write_timeout_s)
        del request  # see `_serve`
        await self._serve(handler, call)

    async def _serve(self, handler: Handler, call: Call) -> bytes:
        """Answer a call. Errors and what was called know each other until Python's collector comes by, which may take
        long: nothing of that may hold the request, which may be large.
        """
        # A task of its own: gRPC cancels ours as soon as the client leaves, and the answer may have to go on.
        call.task = task = self._tasks.spawn(handler(call), "grpc")
        self.running_count += 1
        task.add_done_callback(self._ended)
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            if not task.done():
                call.leave()
                raise
        except Exception:  # its owner logs it
            call.fail(grpc.StatusCode.INTERNAL.value[0], "Something went wrong inside the gateway.", ())
        return await call.end()

    def _ended(self, _: "asyncio.Task[None]") -> None:
        self.running_count -= 1

    def _is_ready(self) -> bool:
        return not self._stopping and self._ready()

    def begin_drain(self) -> None:
        """New calls are still taken; whoever asks is told that it is not ready (`ready`)."""

    def stop_accepting(self) -> None:
        """Take no more calls."""
        if self._server is not None and not self._stopping:
            self._stopping = True
            self._tasks.spawn(self._server.stop(FOREVER_S), "grpc.stop")

    async def wait_idle(self, timeout_s: float, hurry: asyncio.Event) -> bool:
        """Wait until no call runs; False if `timeout_s` passed or `hurry` was set first."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + timeout_s
        while self.running_count:
            if loop.time() >= until_s or hurry.is_set():
                return False
            await asyncio.sleep(0.02)
        return True

    async def close(self) -> None:
        """End all calls, whatever they do."""
        if self._server is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_WAIT_S):
                    await self._server.stop(0)
        await self._tasks.aclose()


class _Health(health_pb2_grpc.HealthServicer):
    """grpc.health.v1: of the whole server (no name) and of each service."""

    def __init__(self, services: Mapping[str, Any], ready: Callable[[], bool]) -> None:
        self._names = {"", *services}
        self._ready = ready
        self._watchers = 0

    def _status(self) -> int:
        serving = health_pb2.HealthCheckResponse
        return serving.SERVING if self._ready() else serving.NOT_SERVING

    async def Check(self, request: Any, context: Any) -> Any:
        if request.service not in self._names:
            await context.abort(grpc.StatusCode.NOT_FOUND, "There is no such service.")
        return health_pb2.HealthCheckResponse(status=self._status())

    async def Watch(self, request: Any, context: Any) -> None:
        if self._watchers >= MAX_WATCHERS:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "Too many watch already.")
        self._watchers += 1
        said = None
        try:
            while True:
                known = request.service in self._names
                status = self._status() if known else health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
                if status != said:
                    said = status
                    await context.write(health_pb2.HealthCheckResponse(status=status))
                await asyncio.sleep(WATCH_INTERVAL_S)
        finally:
            self._watchers -= 1
