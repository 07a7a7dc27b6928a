import pytest

from tests.support.fakes import make_job
from zuebee.config.settings import BackendSettings
from zuebee.models.added_fields import Bounds

REFUSED = b'{"error":{"message":"Unsupported parameter: use \'max_completion_tokens\' instead."}}'


@pytest.mark.parametrize(
    ("url", "setting", "operation", "field"),
    [
        ("http://vllm:8000/v1", "auto", "chat", "max_tokens"),
        ("https://api.openai.com/v1", "auto", "chat", "max_completion_tokens"),
        ("https://api.openai.com/v1", "auto", "completions", "max_tokens"),
        ("https://mine.openai.azure.com", "auto", "chat", "max_completion_tokens"),
        ("https://notopenai.com", "auto", "chat", "max_tokens"),
        ("http://proxy", "max_completion_tokens", "chat", "max_completion_tokens"),
        ("https://api.openai.com/v1", "max_tokens", "chat", "max_tokens"),
    ],
)
def test_the_bound_goes_where_the_deployment_takes_it(url: str, setting: str, operation: str, field: str) -> None:
    bounds = Bounds(BackendSettings(url=url, max_tokens_field=setting))  # type: ignore[arg-type]
    assert bounds.of(make_job(operation=operation, answer_bound=9)) == (field, 9)


def test_nothing_is_written_where_nothing_is_held() -> None:
    assert Bounds(BackendSettings(url="http://vllm")).of(make_job()) is None


def test_a_refused_bound_is_tried_by_its_other_name_where_the_answer_asks_for_it_else_left_out() -> None:
    bounds, job = Bounds(BackendSettings(url="http://vllm")), make_job(answer_bound=9)
    assert bounds.another(job, REFUSED) == ("max_completion_tokens", 9)
    assert job.answer_bound == 9
    assert bounds.another(job, b'{"message":"too long for the context"}') is None
    assert job.answer_bound == 0
    text = make_job(operation="completions", answer_bound=9)
    assert bounds.another(text, REFUSED) is None
