import json
from typing import Any

import pytest

from zuebee.sim.base import Send, SimRequest, SimSettings
from zuebee.sim.site import SimExchange, Site

CHAT = {"messages": [{"role": "user", "content": "hi"}]}


class Desk:
    """A site, asked without a network."""

    def __init__(self, **settings: Any) -> None:
        self.refused: list[float] = []
        self.site = Site(SimSettings(tokens=3, tokens_per_s=0, **settings), self.refused.append)

    def ask(self, path: str, body: Any = None, method: str = "POST", **headers: str) -> tuple[int, dict[str, str], Any]:
        exchange = self.begin(path, body, method, **headers)
        data = b"".join(step.data for step in exchange.steps if isinstance(step, Send))
        head, _, content = data.partition(b"\r\n\r\n")
        status, *lines = head.decode().split("\r\n")
        return int(status.split()[1]), dict(line.split(": ", 1) for line in lines), json.loads(content or b"null")

    def begin(self, path: str, body: Any, method: str, **headers: str) -> SimExchange:
        given = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        data = b"" if body is None else json.dumps(body).encode()
        return self.site.answer(SimRequest(method=method, target=path.encode(), headers=given, body=data, connection=1))


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/health", 200),
        ("GET", "/v1/models", 200),
        ("GET", "/v1/models/sim-small", 200),
        ("GET", "/v1/models/other", 404),
        ("POST", "/v1/models", 405),
        ("GET", "/v1/chat/completions", 405),
        ("POST", "/v1/chat", 404),
        ("GET", "/_sim/nothing", 404),
    ],
)
def test_routes(method: str, path: str, status: int) -> None:
    assert Desk().ask(path, method=method)[0] == status


def test_the_request_id_comes_back_and_names_the_answer() -> None:
    _, headers, answer = Desk().ask("/v1/chat/completions", CHAT, x_request_id="r-1")
    assert (headers["x-request-id"], answer["id"]) == ("r-1", "chatcmpl-r-1")


def test_a_key_is_asked_for_under_v1_only() -> None:
    desk = Desk(api_key="k")
    assert desk.ask("/v1/models", method="GET")[0] == 401
    assert desk.ask("/v1/models", method="GET", authorization="Bearer k")[0] == 200
    assert desk.ask("/health", method="GET")[0] == 200


def test_a_refused_door_is_the_business_of_the_server() -> None:
    desk = Desk()
    desk.begin("/v1/chat/completions", {**CHAT, "sim": {"fault": "refuse"}}, "POST")
    desk.ask("/_sim/faults", {"fault": "refuse", "for_s": 3})
    assert desk.refused == [1.0, 3.0]


def test_faults_strike_bad_requests_as_well() -> None:
    desk = Desk()
    desk.ask("/_sim/faults", {"fault": 503, "times": 1})
    assert [desk.ask("/v1/chat/completions", {})[0] for _ in range(2)] == [503, 400]


def test_an_account_is_kept_of_everything_but_control_calls() -> None:
    desk = Desk()
    desk.ask("/_sim/stats", method="GET")
    exchange = desk.begin("/v1/chat/completions", {**CHAT, "stream": True}, "POST")
    assert exchange.account is not None
    assert (exchange.account.stream, exchange.account.prompt_tokens, exchange.account.ended) == (True, 8, "running")
    assert desk.site.observer.stats.requests_started == 1
    assert len(desk.site.observer.requests()) == 1


def test_a_prompt_that_the_model_never_saw_costs_nothing() -> None:
    desk = Desk()
    for fault, status, prompt_tokens in (("503", 503, 0), ("redirect", 302, 0), ("malformed", 200, 8)):
        account = desk.begin("/v1/chat/completions", {**CHAT, "sim": {"fault": fault}}, "POST").account
        assert account is not None
        assert (account.status, account.prompt_tokens) == (status, prompt_tokens)


def test_head_has_no_body() -> None:
    status, headers, answer = Desk().ask("/nowhere", method="HEAD")
    assert (status, headers["content-length"], answer) == (404, "0", None)
