"""llmock breaks as real providers do and judges its client. The gateway passes; a careless client fails."""

from collections.abc import Callable, Iterator
from typing import Any

import llmock.main  # noqa: F401  (here, while no thread runs: CPython 3.11 cannot parse two files at once)
import openai
import pytest
from llmock.journal import RequestRecord
from llmock.scenarios import Behavior, Fail, Reply, StreamFault
from llmock.testing import LLMockServer
from llmock.verdict import Verdict, judge

from tests.support.processes import KEY, Gateway, running

TRIES = 3
TEXT = "One two three four five six seven eight nine ten."


@pytest.fixture(scope="module")
def provider() -> Iterator[LLMockServer]:
    with LLMockServer() as server:
        yield server


@pytest.fixture(scope="module")
def gateway(provider: LLMockServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    config = {
        "backends": [{"url": provider.url, "idle_timeout": "1s"}],
        "routing": {"retry": {"initial_wait": "100ms"}},
        "health_check": {"enabled": False},
    }
    with running(tmp_path_factory.mktemp("gateway"), config) as process:
        yield process


@pytest.fixture(autouse=True)
def _fresh(provider: LLMockServer) -> None:
    provider.state.reset()


def verdict(provider: LLMockServer) -> Verdict:
    return judge(records(provider))


def records(provider: LLMockServer) -> list[RequestRecord]:
    return provider.state.journal.records(wait=2.0)


def ask(client: openai.OpenAI, case: str, *, stream: bool) -> str:
    """What the model says; each case is a call of its own."""
    messages: Any = [{"role": "user", "content": case}]
    if not stream:
        return client.chat.completions.create(model="gpt-4o", messages=messages).choices[0].message.content or ""
    chunks = client.chat.completions.create(model="gpt-4o", messages=messages, stream=True)
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def honest(client: openai.OpenAI, case: str, *, stream: bool) -> str:
    """As an honest application: a stream that says that it is broken is asked for again, as a whole."""
    for _ in range(TRIES - 1):
        try:
            return ask(client, case, stream=stream)
        except openai.APIStatusError:
            raise
        except openai.APIError:
            continue
    return ask(client, case, stream=stream)


Script = Callable[[], list[Behavior]]

HEALED: dict[str, tuple[bool, Script]] = {
    "429 with retry-after": (False, lambda: [Fail(429, retry_after=0.4, times=2)]),
    "429 before a stream": (True, lambda: [Fail(429, retry_after=0.4)]),
    "503 before a stream": (True, lambda: [Fail(503, retry_after=0.1, times=2)]),
    "disconnect": (True, lambda: [StreamFault("disconnect", after_chunks=3)]),
    "truncate": (True, lambda: [StreamFault("truncate", after_chunks=3)]),
    "truncate twice": (True, lambda: [StreamFault("truncate", after_chunks=2, times=2)]),
    "malformed": (True, lambda: [StreamFault("malformed", after_chunks=2)]),
    "stall": (True, lambda: [StreamFault("stall", after_chunks=2, stall_seconds=5)]),
}


@pytest.mark.requirement("A143")
@pytest.mark.parametrize("case", HEALED)
def test_what_can_be_healed_is_healed_and_the_verdict_is_clean(
    provider: LLMockServer, gateway: Gateway, case: str
) -> None:
    stream, script = HEALED[case]
    provider.state.scenarios.add(Reply(text=TEXT, times=None), *script())
    with openai.OpenAI(api_key=KEY, base_url=gateway.url + "/v1") as client:
        assert honest(client, case, stream=stream) == TEXT
    result = verdict(provider)
    assert result.faults >= 1
    assert result.passed, result.render()


BEGUN: dict[str, tuple[bool, Script]] = {
    "500": (False, lambda: [Fail(500, times=2)]),
    "disconnect at once": (True, lambda: [StreamFault("disconnect", after_chunks=0)]),
    "truncate at once": (True, lambda: [StreamFault("truncate", after_chunks=0)]),
}


@pytest.mark.parametrize("case", BEGUN)
def test_what_may_have_been_begun_is_not_bought_twice(provider: LLMockServer, gateway: Gateway, case: str) -> None:
    stream, script = BEGUN[case]
    provider.state.scenarios.add(Reply(text=TEXT, times=None), *script())
    client = openai.OpenAI(api_key=KEY, base_url=gateway.url + "/v1", max_retries=4)
    with client, pytest.raises(openai.InternalServerError):
        ask(client, case, stream=stream)
    assert len(records(provider)) == 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
def test_what_no_retry_can_heal_is_not_retried(provider: LLMockServer, gateway: Gateway, status: int) -> None:
    provider.state.scenarios.add(Fail(status, times=None))
    client = openai.OpenAI(api_key=KEY, base_url=gateway.url + "/v1")
    with client, pytest.raises(openai.APIStatusError) as caught:
        ask(client, f"status {status}", stream=False)
    assert caught.value.status_code == (502 if status == 401 else status)
    assert len(records(provider)) == 1
    verdict(provider).assert_ok(strict=True)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(("status", "retry_after"), [(503, 0.1), (429, 0.1)])
def test_an_outage_is_no_storm_though_the_client_retries_too(
    provider: LLMockServer, gateway: Gateway, status: int, retry_after: float | None, stream: bool
) -> None:
    """The gateway tries four times; it tells the package not to multiply that."""
    provider.state.scenarios.add(Fail(status, retry_after=retry_after, times=None))
    client = openai.OpenAI(api_key=KEY, base_url=gateway.url + "/v1", max_retries=4)
    with client, pytest.raises(openai.APIStatusError) as caught:
        ask(client, f"outage {status} {stream}", stream=stream)
    assert caught.value.status_code == status
    assert len(records(provider)) == 4
    assert (result := verdict(provider)).passed, result.render()


@pytest.mark.parametrize(
    ("behaviour", "finding"),
    [
        (StreamFault("truncate", after_chunks=3), "truncated_stream_accepted"),
        (Fail(429, retry_after=5), "retry_after_ignored"),
        (Fail(400), "retried_non_retryable"),
    ],
)
def test_the_verdict_condemns_a_careless_client(provider: LLMockServer, behaviour: Behavior, finding: str) -> None:
    """The control: without the gateway, believing every stream and retrying everything at once."""
    provider.state.scenarios.add(behaviour)
    with openai.OpenAI(api_key="any", base_url=provider.base_url(), max_retries=0) as client:
        try:
            ask(client, finding, stream=True)
        except openai.APIStatusError:
            ask(client, finding, stream=True)
    result = verdict(provider)
    assert not result.passed
    assert [each.code for each in result.errors] == [finding]
