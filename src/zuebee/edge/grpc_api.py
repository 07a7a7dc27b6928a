"""The gRPC edge (llm.v1): calls in, answers out, by the same pipeline as HTTP."""

import itertools
import os
import re
from collections.abc import Mapping
from urllib.parse import unquote

from zuebee.contracts.admission import MAX_CLIENT_ID, Caller, Settlement
from zuebee.contracts.inference import Headers
from zuebee.edge.address import TrustedProxies
from zuebee.edge.grpc_client import GrpcClient
from zuebee.edge.pipeline import Pipeline
from zuebee.kit import clock
from zuebee.kit.grpc_server import Call, Fields, Method

SERVICES = ("llm.v1.LlmService", "llm.v1.LLMService")
ROUTE = "/v1/chat/completions"
"""What a call is to permissions, limits and firewall: the same as that request over HTTP, whoever carries it."""
METHOD = "GRPC"
"""How access log and usage records tell them apart."""

_OF_HTTP = frozenset(
    {"connection", "content-encoding", "content-length", "content-type", "host", "te", "transfer-encoding"}
)
"""They are about the bytes of an HTTP request, which a call has not."""
_PEER = re.compile(r"ipv[46]:(?:\[([^\]]+)\]|([^:]+)):\d+")


class GrpcEdge:
    """The methods of the services."""

    def __init__(self, pipeline: Pipeline, *, default_model: str, proxies: TrustedProxies) -> None:
        self._pipeline = pipeline
        self._default_model = default_model
        self._proxies = proxies
        self._id_prefix = "req_" + os.urandom(8).hex()
        self._ids = itertools.count(1)

    def services(self) -> Mapping[str, Mapping[str, Method]]:
        """Each service with its methods."""
        stream = Method(self._chat, streams=True)
        whole = Method(self._chat, streams=False)
        methods = {"ChatCompletion": whole, "ChatCompletionStream": stream, "StreamGenerate": stream}
        return dict.fromkeys(SERVICES, methods)

    async def _chat(self, call: Call) -> None:
        request_id = f"{self._id_prefix}{next(self._ids):08x}"
        headers = _headers(call.fields)
        fields = dict(headers)
        peer = peer_address(call.peer)
        caller = Caller(
            "POST", ROUTE, fields, self._proxies.client(peer, headers) if self._proxies else peer, ROUTE, b"", "",
            ROUTE.encode(),
        )  # fmt: skip
        settlement = Settlement(request_id, METHOD, ROUTE, caller.address, clock.wall_s())
        settlement.client_request_id = fields.get(b"x-request-id", b"")[:MAX_CLIENT_ID].decode("latin-1")
        client = GrpcClient(call, headers, settlement, self._default_model)
        await self._pipeline.serve(caller, client, settlement)
        client.close()


def peer_address(peer: str) -> str:
    """The address in what gRPC calls a peer: `ipv4:10.0.0.1:5`, `ipv6:[::1]:5`; empty where it has none."""
    found = _PEER.fullmatch(unquote(peer))
    return (found[1] or found[2]) if found else ""


def _headers(fields: Fields) -> Headers:
    """Metadata as header fields; what is not text, and what is about HTTP's bytes, is left out."""
    return [
        (name.encode(), value.encode("latin-1", "replace"))
        for name, value in fields
        if isinstance(value, str) and name not in _OF_HTTP
    ]
