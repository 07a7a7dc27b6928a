"""Keys known to a billing service of yours, asked over gRPC (proto/auth/auth.proto)."""

from typing import Any

from google.protobuf.message import DecodeError

from zuebee.auth.lookups import MAX_VALUE_BYTES, UnreadableAnswer
from zuebee.auth.records import NOT_ADMITTED, Data, objection
from zuebee.contracts.errors import Refusal
from zuebee.contracts.keys import Credential
from zuebee.dialects.llm_v1 import plain
from zuebee.lib.failures import GrpcFailure
from zuebee.lib.grpc.channel import ChannelTls, GrpcChannel
from zuebee.protos.auth_pb2 import ValidateKeyRequest, ValidateKeyResponse


class ValidateKeyLookup:
    """Asks `ValidateKey`. Only `valid: true` can admit.

    `valid: false` and the status NOT_FOUND: not known here. PERMISSION_DENIED: denied. Any other status is a failure,
    UNAUTHENTICATED too: it is us that the service does not know.
    """

    def __init__(
        self,
        address: str,
        method: str,
        *,
        tls: ChannelTls | None = None,
        metadata: dict[str, str],
        timeout_s: float,
        check_balance: bool = True,
    ) -> None:
        self._channel = GrpcChannel(address, tls=tls, metadata=metadata, max_answer_bytes=MAX_VALUE_BYTES)
        self._method = method
        self._timeout_s = timeout_s
        self._check_balance = check_balance

    async def look(self, presented: Credential) -> Data | Refusal | None:
        assert presented.key is not None
        question = ValidateKeyRequest(api_key=presented.key.decode("ascii")).SerializeToString()
        try:
            data = await self._channel.call(self._method, question, timeout_s=self._timeout_s)
        except GrpcFailure as failure:
            match failure.kind:
                case "not_found":
                    return None
                case "permission_denied":
                    return NOT_ADMITTED
                case _:
                    raise
        return self._read(data)

    def _read(self, data: bytes) -> Data | Refusal | None:
        try:
            answer = ValidateKeyResponse.FromString(data)
            found: dict[str, Any] = plain(answer.details)
        except DecodeError:
            raise UnreadableAnswer("the answer is no ValidateKeyResponse") from None
        except ValueError as error:
            raise UnreadableAnswer(f"details: {error}") from None
        if not answer.valid:
            # With a reason the key is known, and refused for it.
            return objection({"status": found["status"]}) if found.get("status") else None
        found.pop("balance", None)
        if self._check_balance:
            found["balance"] = answer.balance
        return found | {name: text for name, text in (("user_id", answer.user_id), ("plan", answer.plan)) if text}

    async def aclose(self) -> None:
        await self._channel.aclose()
