"""Paths as clients make them of a base URL and a path of their own."""

import json

import pytest

from tests.support.edge import KEY, FakeEdge

BODY = b'{"model":"m"}'


@pytest.mark.parametrize(
    "path", ["//v1/chat/completions", "/v1//chat/completions", "/v1/chat/completions/", "///chat//completions//"]
)
async def test_slashes_too_many_do_not_matter(path: str) -> None:
    edge = FakeEdge()
    request = await edge.ask("POST", path, BODY, KEY)
    assert request.status == 200
    assert edge.inference.jobs[0].path == "/v1/chat/completions"
    assert edge.doorman.callers[0].path in ("/v1/chat/completions", "/chat/completions"), (
        "rules see the path that is meant"
    )
    assert edge.doorman.settled[0].route == "/v1/chat/completions"


async def test_the_operators_paths_too() -> None:
    edge = FakeEdge()
    for path in ("/v1/models/", "//v1/models", "/health/", "//metrics"):
        assert (await edge.ask("GET", path, b"", KEY)).status == 200, path


async def test_the_name_of_a_model_is_its_own() -> None:
    edge = FakeEdge()
    edge.cards = [{"id": "hf://org/m/"}]
    assert (await edge.ask("GET", "/v1/models/hf://org/m/", b"", KEY)).status == 200


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/v1/messages/batches", "Anthropic's API for batches"),
        ("/v1/messages/batches/b_1/results", "Anthropic's API for batches"),
        ("/v1/responses", "OpenAI Responses"),
        ("/v1/responses/resp_1/input_items", "OpenAI Responses"),
        ("/v1beta/models/gemini-2.5-pro:streamGenerateContent", "Gemini"),
        ("/api/chat", "Ollama"),
        ("/v1/audio/speech", "sounds"),
        ("/v1/images/generations", "images"),
        ("/v1/batches", "This API"),
        ("/v1/rerank", "This API"),
    ],
)
async def test_what_is_not_there_yet_is_named(path: str, name: str) -> None:
    for method in ("GET", "POST"):
        edge = FakeEdge()
        request = await edge.ask(method, path, BODY, KEY)
        error = json.loads(request.body)["error"]
        assert (request.status, error["code"]) == (404, "unsupported_endpoint")
        assert name in error["message"]
        assert path in error["message"]
        assert "/v1/chat/completions" in error["message"]
        assert edge.inference.begun == 0


@pytest.mark.parametrize("path", ["/v1/v1/chat/completions", "/openai/v1/models", "/v1/chat/completions/v1/embeddings"])
async def test_a_base_url_with_too_much_in_it_is_told_so(path: str) -> None:
    request = await FakeEdge().ask("POST", path, BODY, KEY)
    error = json.loads(request.body)["error"]
    assert (request.status, error["code"]) == (404, "unknown_path")
    assert "base URL" in error["message"]


async def test_a_long_path_is_not_said_back() -> None:
    request = await FakeEdge().ask("POST", "/" + "a" * 5000 + "/v1/models", BODY, KEY)
    assert len(request.body) < 1500
