"""Every way in which a model server can break: what the client sees, what is recorded, what is never reused."""

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from tests.support.client import CHAT, HELLO, Answer, ask
from tests.support.processes import Gateway, Sim, running, simulated, until
from tests.support.records import line_of, record_of, written

TOKENS = 6
ALL_EVENTS = TOKENS + 3  # role, tokens, finish, [DONE]
PROMPT_TOKENS = 10
HONEST = (PROMPT_TOKENS, TOKENS, "provider")


@pytest.fixture(scope="module")
def sim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sim]:
    with simulated(tmp_path_factory.mktemp("sim"), "--tokens-per-s", "0", "--tokens", str(TOKENS)) as process:
        yield process


@pytest.fixture(scope="module")
def gateway(sim: Sim, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    # Long enough that a server is not taken for silent when the machine is busy; a silent one costs as much.
    # A whole answer has the time of a whole exchange.
    config = {
        "backends": [{"url": sim.url, "first_byte_timeout": "1s", "idle_timeout": "1s", "timeout": "3s"}],
        "routing": {"retry": {"enabled": False}},
        "health_check": {"enabled": False},
    }
    with running(tmp_path_factory.mktemp("gateway"), config) as process:
        yield process
    ids = sorted(line["request_id"] for line in process.access_lines() if line["path"] == CHAT)
    assert sorted(row["request_id"] for row in process.usage_rows()) == ids, "one record and one line for each request"
    assert len(set(ids)) == len(ids)


class Seen(NamedTuple):
    """What is expected of one request: for the client, for the records, and for the connection to the backend.

    `events`: how many whole events of the model a stream delivers. `code`: of an error answer, or of the error event
    that ends a stream. `usage`: prompt and completion tokens and their source, None if there is none. `reused`: whether
    the connection serves the next request, which it must not after an exchange that did not end as HTTP says. None:
    it is a matter of moments, as the rest of a bad stream may be there already when its bad event is read.
    """

    status: int
    code: str = ""
    events: int = 0
    termination_reason: str = "complete"
    usage: tuple[Any, ...] | None = HONEST
    reused: bool | None = True
    headers: tuple[tuple[str, str], ...] = ()


NEVER = (("x-should-retry", "false"),)
AT_ONCE = (("x-should-retry", "true"), ("retry-after", "0"))


BEGUN = (None, 0, "estimate")
"""A backend that may have worked on the prompt: that is charged."""
IDLE = (0, 0, "estimate")


def broken(
    code: str,
    *,
    status: int = 502,
    termination_reason: str = "upstream_broken",
    reused: bool | None = False,
    usage: tuple[Any, ...] | None = BEGUN,
) -> Seen:
    """An error answer before anything was sent."""
    return Seen(status, code, 0, termination_reason, usage, reused, NEVER)


def cut(code: str, events: int, termination_reason: str = "upstream_broken", reused: bool | None = False) -> Seen:
    """A stream that ends in an error event after so many events; each counts as a token."""
    return Seen(200, code, events, termination_reason, (None, events, "partial"), reused)


def refused(status: int, headers: tuple[tuple[str, str], ...] = NEVER) -> Seen:
    """The backend's own error answer, passed on."""
    return Seen(status, "", 0, "refused", None, True, headers)


ESTIMATED = Seen(200, usage=(None, None, "estimate"))
ESTIMATED_STREAM = Seen(200, events=ALL_EVENTS, usage=(None, TOKENS + 2, "estimate"))

WHOLE = {
    "hang": broken("backend_timeout", status=504, termination_reason="timeout"),
    "hang;after_events=0": broken("backend_stalled", status=504, termination_reason="timeout"),
    "hang;after_events=0;for_s=0.1": Seen(200),
    "reset": broken("backend_broken"),
    "reset;after_events=0": broken("backend_broken"),
    "truncate": broken("incomplete_answer"),
    "malformed": broken("bad_answer", reused=True),
    "html": broken("bad_answer", reused=True, usage=IDLE),
    "redirect;location=http://127.0.0.1:9/": broken("bad_answer", reused=True, usage=IDLE),
    "401": broken("backend_refused_key", reused=True, usage=None),
    "400": refused(400),
    "404": refused(404),
    "422": refused(422),
    "429;retry_after_s=0": refused(429, AT_ONCE),
    "500": refused(500),
    "503;retry_after_s=0": refused(503, AT_ONCE),
    "slow_drip;interval_s=0.0005": Seen(200),
    "close_delimited": Seen(200, reused=False),
    "garbage_after": Seen(200, reused=False),
    "no_done": Seen(200),
    "interim_1xx": Seen(200),
    "gzip": Seen(200),  # unpacked to be read, passed on as it came
    "usage;kind=negative": ESTIMATED,
    "usage;kind=huge": ESTIMATED,
    "usage;kind=string": ESTIMATED,
    "usage;kind=float": ESTIMATED,
    **{f"usage;kind={kind}": ESTIMATED for kind in ("exponent", "bool", "nested", "list", "null_figures", "null")},
    "usage;kind=nan": ESTIMATED,
    "usage;kind=infinity": ESTIMATED,
    "usage;kind=missing": ESTIMATED,
    "error_first": broken("InternalServerError", status=500, reused=None, usage=None),
}
STREAM = {
    **{name: WHOLE[name] for name in ("hang", "reset", "html", "redirect;location=http://127.0.0.1:9/", "401", "400")},
    **{name: WHOLE[name] for name in ("404", "429;retry_after_s=0", "500", "503;retry_after_s=0", "error_first")},
    "hang;after_events=0": broken("backend_timeout", status=504, termination_reason="timeout"),
    "hang;after_events=3": cut("backend_stalled", 3, "timeout"),
    "hang;after_events=3;for_s=0.1": Seen(200, events=ALL_EVENTS),
    "reset;after_events=0": broken("backend_broken"),
    "reset;after_events=3": cut("backend_broken", 3),
    "truncate;after_events=0": broken("incomplete_answer"),
    "truncate;after_events=3": cut("incomplete_answer", 3),
    "malformed;after_events=0": broken("bad_answer", reused=None),
    "malformed;after_events=2": cut("bad_answer", 2, reused=None),
    "error_mid;after_events=4": cut("InternalServerError", 4, reused=None),
    "no_done": Seen(200, events=ALL_EVENTS - 1),
    "slow_drip;interval_s=0.0002": Seen(200, events=ALL_EVENTS, reused=None),
    "close_delimited": Seen(200, events=ALL_EVENTS, reused=False),
    "garbage_after": Seen(200, events=ALL_EVENTS, reused=False),
    "interim_1xx": Seen(200, events=ALL_EVENTS),
    "big_event;size_bytes=100000": Seen(200, events=ALL_EVENTS + 1),
    "big_event;size_bytes=3000000": Seen(200, events=ALL_EVENTS + 1),
    "big_event;size_bytes=9000000": Seen(200, events=ALL_EVENTS + 1),  # more than is held: it passes without being read
    "usage;kind=negative": ESTIMATED_STREAM,
    "usage;kind=huge": ESTIMATED_STREAM,
    "usage;kind=string": ESTIMATED_STREAM,
    "usage;kind=float": ESTIMATED_STREAM,
    **{
        f"usage;kind={kind}": ESTIMATED_STREAM
        for kind in ("exponent", "bool", "nested", "list", "null_figures")
    },
    "usage;kind=nan": ESTIMATED_STREAM,
    "usage;kind=infinity": ESTIMATED_STREAM,
    "usage;kind=null": Seen(200, events=ALL_EVENTS + 1, usage=(None, None, "estimate")),  # it tells nothing to hide
    "usage;kind=missing": ESTIMATED_STREAM,
}  # fmt: skip
CASES = [(text, stream, table[text]) for stream, table in ((False, WHOLE), (True, STREAM)) for text in table]


def wish(text: str) -> dict[str, Any]:
    """`name;parameter=value` as the simulation's field of a request."""
    name, *pairs = text.split(";")
    values = (pair.split("=", 1) for pair in pairs)
    numeric = {key: float(value) if "." in value else int(value) for key, value in values if value[0].isdigit()}
    others = dict(pair.split("=", 1) for pair in pairs)
    return {"fault": name, **others, **numeric}


def connection_of(sim: Sim, answer: Answer) -> int:
    """The number of the connection on which the backend got a request."""
    return int(sim.control("GET", f"/_sim/account?request_id={answer.header('x-request-id')}")[-1]["connection"])


@pytest.mark.requirement("A048", "A049", "A148")
@pytest.mark.parametrize(
    ("text", "stream", "seen"), CASES, ids=[f"{c[0]}-{'stream' if c[1] else 'whole'}" for c in CASES]
)
def test_a_fault_is_said_aloud_and_settled_once(
    sim: Sim, gateway: Gateway, text: str, stream: bool, seen: Seen
) -> None:
    written(gateway)
    before = gateway.metrics()
    answer = ask(gateway.url, {**HELLO, "stream": stream, "sim": wish(text)})
    check_answer(answer, stream, seen)
    row, line = record_of(gateway, answer.header("x-request-id")), line_of(gateway, answer.header("x-request-id"))
    assert (row["status"], row["termination_reason"], row["attempts"]) == (seen.status, seen.termination_reason, 1)
    for name in (
        "status",
        "termination_reason",
        "code",
        "backend",
        "prompt_tokens",
        "completion_tokens",
        "usage_source",
    ):
        assert line[name] == row[name]
    check_usage(row, seen)
    check_metrics(before, gateway.metrics(), row, stream)
    after = ask(gateway.url, HELLO)
    assert after.status == 200
    if seen.reused is not None:
        assert (connection_of(sim, after) == connection_of(sim, answer)) == seen.reused


def check_answer(answer: Answer, stream: bool, seen: Seen) -> None:
    assert (answer.status, answer.whole) == (seen.status, True)
    for name, value in seen.headers:
        assert answer.header(name) == value
    if answer.status != 200:
        assert set(answer.json["error"]) >= {"message", "type", "param", "code"}
        assert not seen.code or code_of(answer.json["error"]) == seen.code
        return
    if not stream:
        return
    events = answer.events
    assert answer.header("x-accel-buffering") == "no"
    if seen.code:
        assert code_of(json.loads(events.pop())["error"]) == seen.code
        assert "[DONE]" not in events
    assert len(events) == seen.events
    assert all(json.loads(event)["choices"] or '"usage":null' in event or "padding" in event for event in events[:-1])


def code_of(error: dict[str, Any]) -> str:
    """What is recorded of an error: its code, or its type where vLLM has the status in its place."""
    return str(error["code"] if isinstance(error["code"], str) else error["type"])


def check_usage(row: dict[str, Any], seen: Seen) -> None:
    figures = (row["prompt_tokens"], row["completion_tokens"], row["usage_source"])
    if seen.usage is None:
        assert figures == (None, None, None)
        return
    for figure, expected in zip(figures, seen.usage, strict=True):
        assert figure == expected if expected is not None else 0 <= figure <= 200
    if seen.usage[2] == "estimate" and seen.usage != IDLE:
        assert row["prompt_tokens"] > 0, "an estimate, not a refusal to say"


def check_metrics(before: dict[str, float], after: dict[str, float], row: dict[str, Any], stream: bool) -> None:
    grown = {name for name, value in after.items() if value - before.get(name, 0.0) == 1}
    flag, backend, status = str(stream).lower(), row["backend"], row["status"]
    assert f'zuebee_terminations_total{{reason="{row["termination_reason"]}"}}' in grown
    assert f'zuebee_usage_records_total{{source="{row["usage_source"] or "none"}"}}' in grown
    labels = f'backend="{backend}",path="/v1/chat/completions",status="{status}",stream="{flag}"'
    assert f"llmproxy_requests_total{{{labels}}}" in grown
    tokens = {kind: f'llmproxy_usage_tokens_total{{type="{kind}"}}' for kind in ("prompt", "completion")}
    for kind, name in tokens.items():
        assert after[name] - before.get(name, 0.0) == (row[f"{kind}_tokens"] or 0)


@pytest.mark.requirement("A048")
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_backend_that_refuses_connections_is_unavailable_for_now(sim: Sim, gateway: Gateway, stream: bool) -> None:
    sim.fault("refuse", for_s=1.0)
    answer = ask(gateway.url, {**HELLO, "stream": stream})
    assert (answer.status, answer.code) == (503, "backend_unreachable")
    # A kept connection may be found dead only once the request is on it: then nobody knows whether it was read.
    told = (answer.header("x-should-retry"), answer.header("retry-after"))
    assert told in {("true", "1"), ("false", None)}
    row = record_of(gateway, answer.header("x-request-id"))
    assert row["termination_reason"] == "upstream_broken"
    assert row["usage_source"] == (None if told[0] == "true" else "estimate")
    refused = ask(gateway.url, {**HELLO, "stream": stream})
    assert refused.status == 200 or refused.header("x-should-retry") == "true", "now no connection is kept"
    until(lambda: ask(gateway.url, HELLO).status == 200, "the backend is back")
