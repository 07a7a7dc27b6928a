"""Calls to a gRPC service, of bytes: what they mean is the caller's business."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import grpc.aio

from zuebee.lib.failures import GrpcFailure

_OPTIONS = (
    # A service that comes back is found within seconds, and one that vanished without a word is not waited for.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.enable_retries", 0),
    # The services of a house are not reached through the proxy that leads out of it.
    ("grpc.enable_http_proxy", 0),
)


class ChannelTls(NamedTuple):
    """Authorities to trust (None: the system's), and a certificate with its key to show, all files with PEM."""

    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    server_name: str | None = None


class GrpcChannel:
    """One service. Connects when it is first asked. Raises OSError if a file cannot be read."""

    def __init__(
        self, address: str, *, tls: ChannelTls | None = None, metadata: Mapping[str, str], max_answer_bytes: int
    ) -> None:
        self._address = address
        self._metadata = tuple(metadata.items())
        self._options: tuple[tuple[str, Any], ...] = (*_OPTIONS, ("grpc.max_receive_message_length", max_answer_bytes))
        self._credentials: Any = None
        if tls is not None:
            self._credentials = grpc.ssl_channel_credentials(*map(_content, (tls.ca_file, tls.key_file, tls.cert_file)))
            if tls.server_name is not None:
                self._options += (("grpc.ssl_target_name_override", tls.server_name),)
        self._channel: Any = None

    async def call(self, method: str, request: bytes, *, timeout_s: float) -> bytes:
        """Call a method (`/package.Service/Method`) with one message; the one it answers. Raises GrpcFailure."""
        if self._channel is None:
            self._channel = self._connect()
        try:
            answer: bytes = await self._channel.unary_unary(method)(request, timeout=timeout_s, metadata=self._metadata)
        except grpc.aio.AioRpcError as error:
            raise GrpcFailure(error.code().name.lower()) from None
        return answer

    def _connect(self) -> Any:
        if self._credentials is None:
            return grpc.aio.insecure_channel(self._address, options=self._options)
        return grpc.aio.secure_channel(self._address, self._credentials, options=self._options)

    async def aclose(self) -> None:
        """Let go of the connection."""
        if self._channel is not None:
            await self._channel.close()


def _content(file: str | None) -> bytes | None:
    return None if file is None else Path(file).read_bytes()
