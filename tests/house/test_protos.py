"""The messages of the gRPC APIs are those of proto/, and what is promised to clients stays."""

import json
import subprocess
import sys

import pytest

from tests.support.source import ROOT
from zuebee.protos import llm_pb2
from zuebee.protos.auth_pb2 import ValidateKeyRequest, ValidateKeyResponse
from zuebee.protos.llm_pb2 import ChatCompletionChunkResponse

PACKAGE = ROOT / "src" / "zuebee" / "protos"
_SHOW = """
import json, sys
sys.path.insert(0, sys.argv[1])
from make_protos import generated
print(json.dumps({name: content.decode() for name, content in generated().items()}))
"""


def generated() -> dict[str, str]:
    """What protoc makes of proto/, in a process of its own: it prints what it likes."""
    command = [sys.executable, "-c", _SHOW, str(ROOT / "scripts")]
    found: dict[str, str] = json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
    return found


def test_what_is_committed_is_what_protoc_makes() -> None:
    wanted = generated()
    assert wanted
    assert {path.name: path.read_text() for path in PACKAGE.glob("*_pb2.py*")} == wanted, "Run `make protos`."


# What clients in the field speak (llm.v1 and auth of the services that the gate stands in for): these numbers and types
# are for ever, whatever is added beside them.
FOREVER = {
    "ChatCompletionRequest": {
        "meta": 1, "model": 2, "system_prompt": 3, "user_prompt": 4, "context": 5, "temperature": 6, "max_tokens": 7,
        "top_p": 8,
    },
    "ChatCompletionResponse": {
        "output_text": 1, "finish_reason": 2, "prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 5,
        "latency_ms": 6,
    },
    "ChatCompletionChunkResponse": {
        "delta_text": 1, "finish_reason": 2, "index": 3, "prompt_tokens": 4, "completion_tokens": 5, "total_tokens": 6,
        "latency_ms": 7,
    },
    "LlmMetadata": {"request_id": 1, "trace_id": 2, "session_id": 3, "user_id": 4},
}  # fmt: skip


@pytest.mark.parametrize("name", FOREVER)
def test_no_field_of_a_client_in_the_field_has_moved(name: str) -> None:
    fields = {field.name: field.number for field in getattr(llm_pb2, name).DESCRIPTOR.fields}
    assert fields.items() >= FOREVER[name].items()


def test_the_names_in_json_are_those_of_the_first_contract() -> None:
    names = {field.json_name for field in ChatCompletionChunkResponse.DESCRIPTOR.fields}
    assert names >= {"deltaText", "finishReason", "promptTokens", "completionTokens", "totalTokens", "latencyMs"}


def test_what_a_billing_service_answers_has_not_moved() -> None:
    assert {field.name: field.number for field in ValidateKeyRequest.DESCRIPTOR.fields} == {"api_key": 1}
    answer = {field.name: field.number for field in ValidateKeyResponse.DESCRIPTOR.fields}
    assert answer.items() >= {"valid": 1, "user_id": 2, "plan": 3, "balance": 4}.items()
