"""Error answers as servers and proxies give them, and what an SDK reads of them afterwards."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zuebee.dialects.openai_errors import as_openai_error

SILENT = "The model server answered {} and did not say why."
VLLM = b'{"error":{"message":"too long","type":"BadRequestError","param":null,"code":400}}'


@pytest.mark.parametrize("body", [VLLM, b'{"error":{"message":""},"x":1}', b' {"error": {"message": "m"}} '])
def test_what_is_one_already_passes_as_it_came(body: bytes) -> None:
    assert as_openai_error(body, 400) is None


@pytest.mark.parametrize(
    ("body", "status", "message", "code", "kind", "param"),
    [
        # FastAPI
        (b'{"detail":"Not Found"}', 404, "Not Found", "backend_error", "not_found_error", None),
        (
            b'{"detail":[{"type":"missing","loc":["body","messages",0],"msg":"Field required"}]}',
            422, "Field required", "missing", "invalid_request_error", "messages.0",
        ),
        # TGI, Ollama
        (
            b'{"error":"model overloaded","error_type":"overloaded"}',
            429, "model overloaded", "overloaded", "rate_limit_error", None,
        ),
        (b'{"error":"model \'x\' not found"}', 404, "model 'x' not found", "backend_error", "not_found_error", None),
        # Gemini's list
        (
            b'[{"error":{"code":400,"message":"API key not valid.","status":"INVALID_ARGUMENT"}}]',
            400, "API key not valid.", "INVALID_ARGUMENT", "invalid_request_error", None,
        ),
        # vLLM before 0.10, SGLang
        (
            b'{"object":"error","message":"bad","type":"BadRequestError","param":"n","code":400}',
            400, "bad", "BadRequestError", "invalid_request_error", "n",
        ),
        # clouds
        (
            b'{"message":"Too many tokens","__type":"ThrottlingException"}',
            429, "Too many tokens", "ThrottlingException", "rate_limit_error", None,
        ),
        (b'{"errors":[{"message":"a"},{"message":"b"}]}', 500, "a; b", "backend_error", "api_error", None),
        (b'{"error":{"detail":"deep"}}', 500, "deep", "backend_error", "api_error", None),
        # proxies before servers
        (
            b"<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>nginx</body></html>",
            502, "502 Bad Gateway", "backend_error", "api_error", None,
        ),
        (
            b"<h1>Service &amp; more</h1><script>x()</script> down",
            503, "Service & more down", "backend_error", "overloaded_error", None,
        ),
        (b"upstream connect error\n", 503, "upstream connect error", "backend_error", "overloaded_error", None),
        (b'"just a text"', 400, "just a text", "backend_error", "invalid_request_error", None),
        (b"\xff\xfe\x00", 500, "", "backend_error", "api_error", None),
        (b"", 500, SILENT.format(500), "backend_error", "api_error", None),
        (b"null", 418, SILENT.format(418), "backend_error", "invalid_request_error", None),
        (b'{"error":null}', 504, SILENT.format(504), "backend_error", "timeout_error", None),
        (b"[]", 400, SILENT.format(400), "backend_error", "invalid_request_error", None),
    ],
)  # fmt: skip
def test_what_others_say_is_said_as_openai_says_it(
    body: bytes, status: int, message: str, code: str, kind: str, param: str | None
) -> None:
    made = as_openai_error(body, status)
    assert made is not None
    error = json.loads(made)["error"]
    assert message in error["message"]
    assert (error["code"], error["type"], error["param"]) == (code, kind, param)


NAMES = ["error", "message", "detail", "code", "msg", "loc", "type", "x"]


@given(st.one_of(st.binary(max_size=200), st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-5, 5), st.text(max_size=10)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
    ), max_leaves=12,
).map(lambda value: json.dumps(value).encode())))  # fmt: skip
def test_whatever_comes_an_sdk_can_read_it(body: bytes) -> None:
    made = as_openai_error(body, 500)
    error = json.loads(body if made is None else made)["error"]
    assert isinstance(error["message"], str)


@pytest.mark.slow
@pytest.mark.parametrize(
    "body", [b"[" * 100_000, b'{"detail":' * 5000, b"<" * 1_000_000, b'{"message":"' + b"a" * 900_000 + b'"}']
)
def test_what_is_dear_to_read_is_read_in_a_moment(body: bytes) -> None:
    made = as_openai_error(body, 500)
    assert made is not None
    assert len(made) < 10_000
