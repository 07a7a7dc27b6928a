import pytest

from zuebee.models.header_policy import BaseUrl

CHAT = "/v1/chat/completions"


@pytest.mark.requirement("A246")
@pytest.mark.parametrize(
    ("base", "chat", "health"),
    [
        ("", "/v1/chat/completions", "/health"),
        ("/", "/v1/chat/completions", "/health"),
        ("/v1", "/v1/chat/completions", "/health"),
        ("/openai/v1", "/openai/v1/chat/completions", "/openai/health"),  # Groq
        ("/api/v1", "/api/v1/chat/completions", "/api/health"),  # OpenRouter
        ("/api/v3", "/api/v3/chat/completions", "/api/health"),  # Ark
        ("/api/v3/", "/api/v3/chat/completions", "/api/health"),
        ("/api/paas/v4", "/api/paas/v4/chat/completions", "/api/paas/health"),  # Zhipu
        ("/v1beta/openai", "/v1beta/openai/chat/completions", "/health"),  # Gemini
        ("/v1beta/openai/", "/v1beta/openai/chat/completions", "/health"),
        ("/v1alpha1/openai", "/v1alpha1/openai/chat/completions", "/health"),
        ("/client/v4/a/ai/v1", "/client/v4/a/ai/v1/chat/completions", "/client/v4/a/ai/health"),
        ("/v1/account/gateway/compat", "/v1/account/gateway/compat/chat/completions", "/health"),
        ("/v1/projects/p/openapi", "/v1/projects/p/openapi/chat/completions", "/health"),
        ("/openai/deployments/mine", "/openai/deployments/mine/chat/completions", "/openai/health"),  # Azure
        ("/chat/completions", "/chat/completions", "/health"),
        ("/v1/chat/completions", "/v1/chat/completions", "/health"),
        ("/api/v3/chat/completions/", "/api/v3/chat/completions", "/api/health"),
        ("/openai/deployments/mine/chat/completions", "/openai/deployments/mine/chat/completions", "/openai/health"),
        ("/v1/completions", "/v1/chat/completions", "/health"),
        ("/v1/embeddings", "/v1/chat/completions", "/health"),
        ("/base", "/base/v1/chat/completions", "/base/health"),
        ("/av1", "/av1/v1/chat/completions", "/av1/health"),
        ("/v1x1y", "/v1x1y/v1/chat/completions", "/v1x1y/health"),
        ("/vllm", "/vllm/v1/chat/completions", "/vllm/health"),
    ],
)  # fmt: skip
def test_bases_as_they_are_written(base: str, chat: str, health: str) -> None:
    url = BaseUrl(f"https://h{base}")
    assert url.path(CHAT) == chat.encode()
    assert url.path("/v1/embeddings") == chat.replace("/chat/completions", "/embeddings").encode()
    assert url.path("/v1/models") == chat.replace("/chat/completions", "/models").encode()
    assert url.path("/health") == health.encode()
    assert url.shown == f"https://h{base}"
    assert url.queried(b"a=1") == b"a=1"


def test_the_query_of_a_base_goes_along_and_is_not_shown() -> None:
    url = BaseUrl("https://h/openai/deployments/d/chat/completions?api-version=2024-10-21&key=secret")
    assert url.path(CHAT) == b"/openai/deployments/d/chat/completions"
    assert url.shown == "https://h/openai/deployments/d/chat/completions"
    assert url.queried(b"") == b"api-version=2024-10-21&key=secret"
    assert url.queried(b"x=1&y") == b"api-version=2024-10-21&key=secret&x=1&y"


@pytest.mark.parametrize("theirs", [b"key=mine", b"k%65y=mine", b"key", b"a=1&key=2&key=3"])
def test_no_caller_says_otherwise_than_the_base(theirs: bytes) -> None:
    said = BaseUrl("https://h/v1?key=secret").queried(theirs)
    assert said == (b"key=secret&a=1" if b"a=1" in theirs else b"key=secret")
