from zuebee.admission.permissions import matches, may_knock, may_use
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


def test_a_star_stands_for_any_rest_only_at_the_end() -> None:
    assert matches("abc", ["a*"])
    assert matches("a*c", ["a*c"])
    assert not matches("abc", ["a*c"])
