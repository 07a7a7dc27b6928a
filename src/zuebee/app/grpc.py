"""Settings -> what speaks gRPC: the listener of the API, and the source of keys behind a billing service.

gRPC takes 0.1 s and 20 MB to import, which those who do not speak it can do without.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from zuebee.auth.lookups import Lookup
from zuebee.config.settings import Settings, TlsSettings
from zuebee.config.settings_auth import BillingSourceSettings
from zuebee.config.validate import grpc_address
from zuebee.edge.client import TrustedProxies
from zuebee.edge.operator import Readiness
from zuebee.edge.pipeline import Pipeline

if TYPE_CHECKING:
    from collections.abc import Callable

    from zuebee.lib.grpc.server import GrpcServer, GrpcTls


def billing_lookup(settings: BillingSourceSettings) -> Lookup:
    """A lookup of keys at a billing service. Raises OSError or ValueError."""
    from zuebee.auth.sources.billing import ValidateKeyLookup
    from zuebee.lib.grpc.channel import ChannelTls

    tls = None
    if settings.tls is not None and settings.tls.enabled:
        given = settings.tls
        tls = ChannelTls(given.ca_file, given.cert_file, given.key_file, given.server_name)
    return ValidateKeyLookup(
        settings.addr,
        settings.method,
        tls=tls,
        metadata=settings.headers,
        timeout_s=settings.timeout_s,
        check_balance=settings.check_balance,
    )


def build_grpc_server(settings: Settings, pipeline: Pipeline, readiness: Callable[[], Readiness]) -> GrpcServer | None:
    """The listener of the gRPC API; None where it is not served. Raises OSError."""
    if settings.grpc is None or not settings.grpc.enabled:
        return None
    from zuebee.edge.grpc import GrpcEdge
    from zuebee.lib.grpc.server import GrpcLimits, GrpcServer

    server = settings.server
    edge = GrpcEdge(pipeline, default_model=settings.grpc.default_model, proxies=TrustedProxies(server.trusted_proxies))
    limits = GrpcLimits(
        max_message_bytes=min(settings.grpc.max_message_size, server.max_body_size),
        max_metadata_bytes=server.max_header_bytes,
        max_calls=server.max_connections,
        handshake_timeout_s=server.header_timeout_s,
        write_timeout_s=server.write_timeout_s,
    )
    return GrpcServer(
        edge.services(),
        limits=limits,
        ready=lambda: readiness().ready,
        tls=grpc_tls(server.tls),
        reflects=settings.grpc.reflection,
    )


def grpc_tls(tls: TlsSettings | None) -> GrpcTls | None:
    """The certificate of the listener; None: it speaks in the clear. Raises OSError."""
    if tls is None or not tls.enabled:
        return None
    from zuebee.lib.grpc.server import GrpcTls

    return GrpcTls.read(tls.cert_file, tls.key_file, tls.client_ca_file if tls.client_auth == "require" else None)


async def listen_grpc(server: GrpcServer, settings: Settings) -> int:
    """Listen where the settings say; answers with the port. Raises OSError."""
    address = grpc_address(settings)
    assert address is not None
    try:
        return await server.start(address.host, address.port)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else error
        raise OSError(f"cannot listen on {settings.grpc.listen if settings.grpc else ''}: {reason}") from None
