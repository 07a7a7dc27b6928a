from zuebee.admission.service import may_knock, may_use
from zuebee.contracts.admission import ANONYMOUS, Principal


def test_nothing_said_is_everything_allowed() -> None:
    assert may_use(ANONYMOUS, "any") is None
    assert may_knock(ANONYMOUS, "/v1/embeddings") is None


def test_only_what_is_named() -> None:
    principal = Principal("k", models=("gpt-4o", "qwen-*"), endpoints=("/v1/chat/*",))
    assert may_use(principal, "gpt-4o") is None
    assert may_use(principal, "qwen-coder") is None
    assert may_use(principal, "gpt-4o-mini") is not None
    assert may_knock(principal, "/v1/chat/completions") is None
    assert may_knock(principal, "/v1/embeddings") is not None


def test_who_may_not_is_told_what_and_where_to_look() -> None:
    principal = Principal("k", models=("a",), endpoints=("/v1/chat/*", *map(str, range(20))))
    refusal = may_use(principal, "m" * 1000)
    assert refusal is not None
    assert (refusal.status, refusal.code, refusal.param) == (403, "model_not_allowed", "model")
    assert f"`{'m' * 200}`" in refusal.message
    assert "`GET /v1/models` lists" in refusal.message
    unnamed = may_use(principal, "")
    assert unnamed is not None
    assert (unnamed.status, unnamed.param) == (400, "model")
    refusal = may_knock(principal, "/v1/embeddings")
    assert refusal is not None
    assert "It may use: `/v1/chat/*`, `0`" in refusal.message
    assert refusal.message.endswith(" and 11 more.")
