import asyncio
from typing import Any

import pytest

from tests.support.exchange import BROKEN, CALLER, STREAM, Pledge, Scene, refusal, streaming
from tests.support.fakes import USAGE, FakeInference, Step, answer, failure, head, make_job, until
from zuebee.contracts.admission import ANONYMOUS, Principal
from zuebee.contracts.errors import CLIENT_LEFT, DRAINED, INTERNAL, KEY_REVOKED, NO_KEY, bad_request
from zuebee.contracts.inference import QUIET, End, FailureCause, Head, Job, Reply, Sink, Usage
from zuebee.dialects import sse
from zuebee.edge.client import JSON

# --- endings ---


@pytest.mark.parametrize("stream", [True, False])
async def test_complete(stream: bool) -> None:
    scene = Scene(streaming(b"data: [DONE]\n\n", End(USAGE)) if stream else answer(), stream=stream)
    assert await scene.run() == ("complete", 200, "", USAGE)
    assert scene.log[-2:] == ["settled", "finish"]
    assert scene.settlement.principal.name == "key"
    assert (scene.settlement.model, scene.settlement.request_bytes) == ("m", 40)
    assert scene.settlement.response_bytes == len(scene.client.body)
    assert (scene.settlement.first_token_s >= 0) is stream
    assert (b"x-request-id", b"req_1") in scene.client.headers


async def test_a_stream_is_not_to_be_buffered_and_shows_that_it_lives() -> None:
    headers = [*STREAM, (b"cache-control", b"max-age=9")]
    scene = Scene([head(200, headers), QUIET, b"data: 1\n\n", End(USAGE)])
    await scene.run()
    assert (b"x-accel-buffering", b"no") in scene.client.headers
    assert [value for name, value in scene.client.headers if name == b"cache-control"] == [b"no-cache"]
    assert scene.client.body.startswith(b":")
    assert scene.settlement.response_bytes == len(b"data: 1\n\n")


@pytest.mark.parametrize("stream", [False, True])
async def test_only_a_stream_can_be_cut_for_what_it_has_cost_so_far(stream: bool) -> None:
    scene = Scene(streaming(End(USAGE)) if stream else answer(), stream=stream)
    await scene.run()
    assert scene.settlement.grant is not None
    assert (scene.settlement.grant.usage_so_far is not None) is stream


@pytest.mark.requirement("A048")
async def test_an_error_of_the_backend_passes() -> None:
    scene = Scene(answer(422))
    assert await scene.run() == ("refused", 422, "backend_error", None)
    assert scene.client.body == b"{}"
    assert (b"x-should-retry", b"false") in scene.client.headers


@pytest.mark.requirement("A048", "A049")
@pytest.mark.parametrize(
    ("cause", "termination_reason"),
    [
        ("broken", "upstream_broken"),
        ("died", "upstream_broken"),
        ("gone", "upstream_broken"),
        ("connect_failure", "upstream_broken"),
        ("timeout", "timeout"),
        ("none", "refused"),
    ],
)
async def test_broken_before_the_head(cause: FailureCause, termination_reason: str) -> None:
    scene = Scene(failure(cause))
    begun = Usage(12, 0, "estimate") if cause in ("broken", "died", "gone", "timeout") else None
    assert await scene.run() == (termination_reason, 502, f"was_{cause}", begun)
    assert scene.log[-2:] == ["settled", f"refuse was_{cause}"]
    assert scene.settlement.backend == "a"


@pytest.mark.requirement("A048", "A049")
@pytest.mark.parametrize(("cause", "termination_reason"), [("broken", "upstream_broken"), ("timeout", "timeout")])
async def test_a_stream_broken_after_the_head_says_so(cause: FailureCause, termination_reason: str) -> None:
    partial = Usage(7, 1, "partial")
    scene = Scene(streaming(End(partial, BROKEN, cause)))
    assert await scene.run() == (termination_reason, 200, "incomplete_answer", partial)
    assert scene.client.body.startswith(b'data: 1\n\ndata: {"error":')
    assert b"[DONE]" not in scene.client.body
    assert scene.log[-2:] == ["settled", "finish"]


async def test_an_answer_in_one_piece_broken_after_the_head_does_not_look_whole() -> None:
    scene = Scene([head(), b'{"a', End(None, BROKEN, "broken")], stream=False)
    assert await scene.run() == ("upstream_broken", 200, "incomplete_answer", None)
    assert "finish" not in scene.log


@pytest.mark.parametrize("by", ["key", "body", "limit"])
async def test_refused(by: str) -> None:
    scene = Scene(answer(), job=bad_request("No JSON.") if by == "body" else None)
    if by == "key":
        scene.desk.who = NO_KEY
    if by == "limit":
        scene.desk.limit = refusal("rate_limit_exceeded")
    wanted = {"key": (401, "missing_api_key"), "body": (400, "invalid_request"), "limit": (429, "rate_limit_exceeded")}
    assert await scene.run() == ("refused", *wanted[by], None)
    assert scene.log[-2:] == ["settled", f"refuse {wanted[by][1]}"]
    assert scene.inference.begun == 0
    assert ("read" in scene.log) is (by != "key")  # who has no key does not make us read a body


@pytest.mark.parametrize(
    ("step", "outcome"),
    [
        ("read", ("client_gone", 499, "client_closed_request", None)),
        ("inference", ("client_gone", 499, "client_closed_request", Usage(12, 0, "estimate"))),
        ("start", ("client_gone", 200, "client_closed_request", USAGE)),
        ("write", ("client_gone", 200, "client_closed_request", USAGE)),
        ("finish", ("complete", 200, "", USAGE)),
    ],
)
async def test_a_client_that_leaves(step: str, outcome: tuple[Any, ...]) -> None:
    scene = Scene([60.0] if step == "inference" else streaming(End(USAGE)))
    assert await scene.run_until(step, leave=True) == outcome
    assert not any(entry.startswith("refuse") for entry in scene.log)


@pytest.mark.requirement("A103")
@pytest.mark.parametrize("leave", [True, False])
async def test_who_only_waited_for_a_backend_pays_nothing(leave: bool) -> None:
    job = make_job(body=b"x" * 40, waiting=True)
    scene = Scene([60.0], job=job)
    outcome = ("client_gone", 499, "client_closed_request") if leave else ("shutdown", 503, DRAINED.code)
    assert await scene.run_until("inference", leave=leave) == (*outcome, None)


@pytest.mark.requirement("A101", "A102")
async def test_what_is_behind_learns_who_calls() -> None:
    job = make_job()
    scene = Scene(answer(), job=job)
    scene.desk.who = Principal("k", user_id="ann", plan="gold", priority="low")
    await scene.run()
    assert job.priority == "low"
    assert job.sender is scene.desk.who


async def test_a_refused_client_that_leaves_stays_refused() -> None:
    scene = Scene(answer())
    scene.desk.who = NO_KEY
    assert await scene.run_until("refuse missing_api_key", leave=True) == ("refused", 401, "missing_api_key", None)


@pytest.mark.parametrize(
    ("step", "outcome"),
    [
        ("read", ("shutdown", 503, DRAINED.code, None)),
        ("inference", ("shutdown", 503, DRAINED.code, Usage(12, 0, "estimate"))),
        ("write", ("shutdown", 200, DRAINED.code, USAGE)),
        ("finish", ("complete", 200, "", USAGE)),
    ],
)
async def test_shutdown(step: str, outcome: tuple[Any, ...]) -> None:
    scene = Scene([60.0] if step == "inference" else streaming(End(USAGE)))
    assert await scene.run_until(step, leave=False) == outcome
    if step in ("read", "inference"):
        assert scene.log[-2:] == ["settled", f"refuse {DRAINED.code}"]
    elif step == "write":
        assert scene.client.body.startswith(b'data: 1\n\ndata: {"error":')
        assert scene.log[-2:] == ["settled", "finish"]
    else:
        assert scene.client.body == b"data: 1\n\n"


@pytest.mark.parametrize("leave", [False, True])
async def test_an_end_while_a_stream_is_kept_alive_that_has_no_events_yet(leave: bool) -> None:
    scene = Scene([60.0])
    scene.pipeline.keepalive_s = 0.005
    termination_reason, status, code, usage = await scene.run_until("write", leave=leave)
    told = CLIENT_LEFT if leave else DRAINED
    assert (termination_reason, status, code) == ("client_gone" if leave else "shutdown", 200, told.code)
    assert usage == Usage(12, 0, "estimate")
    assert scene.client.body.startswith(sse.COMMENT)
    assert (DRAINED.code.encode() in scene.client.body) is not leave
    written = len(scene.client.body)
    await asyncio.sleep(0.02)
    assert len(scene.client.body) == written


async def test_no_heartbeat_leaves_before_the_hold_is_on_disk() -> None:
    scene = Scene([0.05, *streaming(End(USAGE))])
    scene.pipeline.keepalive_s = 0.005
    scene.desk.hold = Pledge(scene.log)
    await scene.run()
    assert scene.log.index("hold on disk") < scene.log.index("start")
    assert sse.COMMENT not in scene.client.body


async def test_a_shutdown_cuts_an_answer_in_one_piece_visibly() -> None:
    scene = Scene([head(), b'{"a', End(USAGE)], stream=False)
    assert (await scene.run_until("write", leave=False))[0] == "shutdown"
    assert scene.client.body == b'{"a'
    assert "finish" not in scene.log


@pytest.mark.parametrize(
    ("script", "fails_at", "status", "told"),
    [
        ([RuntimeError("secret")], "", 500, True),
        (streaming(RuntimeError("secret")), "", 200, False),
        (answer(), "read", 500, True),
        (answer(), "write", 500, True),  # it was held back
        ([head(), b'{"a', b'":1}', End(USAGE)], "write 2", 200, False),
    ],
)
async def test_a_defect(script: list[Step], fails_at: str, status: int, told: bool) -> None:
    scene = Scene(script)
    scene.client.fails_at = fails_at
    with pytest.raises((RuntimeError, OSError)):
        await scene.run()
    assert scene.outcome()[:3] == ("failed", status, INTERNAL.code)
    assert (f"refuse {INTERNAL.code}" in scene.log) is told
    assert "secret" not in INTERNAL.message


async def test_a_defect_behind_the_end_changes_nothing_that_was_settled() -> None:
    scene = Scene(answer())
    scene.client.fails_at = "finish"
    with pytest.raises(OSError, match="a defect"):
        await scene.run()
    assert scene.outcome() == ("complete", 200, "", USAGE)


async def test_a_broken_key_source_is_a_defect() -> None:
    scene = Scene(answer())
    scene.desk.who = RuntimeError("no source")
    with pytest.raises(RuntimeError, match="no source"):
        await scene.run()
    assert scene.outcome() == ("failed", 500, INTERNAL.code, None)


# --- the short way ---


def pumped(*blocks: bytes, error: bool = False) -> list[Step]:
    """A stream whose events after the first are pushed."""

    async def pump(sink: Sink, keepalive: bytes) -> None:
        for block in (keepalive, *blocks):
            sink.write(block)
            await sink.drain()

    begun = head(200, list(STREAM))
    begun.pump = pump
    return [begun, b"data: 1\n\n", End(USAGE, BROKEN if error else None, "broken" if error else "none")]


@pytest.mark.requirement("A034", "A048")
@pytest.mark.parametrize("error", [False, True])
async def test_pushed_events_come_before_the_end(error: bool) -> None:
    scene = Scene([])
    scene.inference = scene.pipeline.inference = FakeInference(pumped(b"data: 2\n\n", error=error))
    assert (await scene.run())[0] == ("upstream_broken" if error else "complete")
    events = [event.removeprefix(sse.COMMENT) for event in scene.client.body.split(b"\n\n")]
    assert events[:2] == [b"data: 1", b"data: 2"]
    assert (b'"error"' in scene.client.body) is error
    assert scene.settlement.response_bytes >= len(b"data: 1\n\ndata: 2\n\n")
    assert scene.settlement.first_token_s >= 0


@pytest.mark.parametrize("leave", [True, False])
async def test_an_end_while_events_are_pushed(leave: bool) -> None:
    scene = Scene([])
    scene.inference = scene.pipeline.inference = FakeInference(pumped(b"data: 2\n\n"))
    assert (await scene.run_until("drain", leave=leave))[0] == ("client_gone" if leave else "shutdown")
    assert (b'"error"' in scene.client.body) is not leave
    assert scene.settlement.response_bytes > len(b"data: 1\n\n")


# --- what is no inference ---


async def test_known_callers_get_an_answer_and_others_do_not() -> None:
    async def give(_: Principal) -> tuple[int, bytes]:
        return 200, b"{}"

    scene = Scene([])
    await scene.pipeline.serve_known(CALLER, scene.client, scene.settlement, give)
    assert scene.outcome() == ("complete", 200, "", None)
    assert scene.log == ["settled", "answer"]
    scene = Scene([])
    scene.desk.who = NO_KEY
    await scene.pipeline.serve_known(CALLER, scene.client, scene.settlement, give)
    assert scene.outcome() == ("refused", 401, NO_KEY.code, None)
    assert scene.settlement.principal == ANONYMOUS


async def test_what_is_no_route_is_settled_too() -> None:
    scene = Scene([])
    await scene.pipeline.refuse(scene.client, scene.settlement, refusal("c"), [(b"allow", b"GET")])
    assert scene.outcome() == ("refused", 429, "c", None)
    assert scene.log == ["settled", "refuse c"]
    assert scene.client.headers == [(b"allow", b"GET")]


# --- holds ---


@pytest.mark.parametrize("stream", [True, False])
async def test_no_byte_leaves_before_the_hold_is_on_disk_and_no_end_before_the_settlement(stream: bool) -> None:
    scene = Scene(streaming(b"data: [DONE]\n\n", End(USAGE)) if stream else answer(), stream=stream)
    scene.desk.hold = Pledge(scene.log)
    assert await scene.run() == ("complete", 200, "", USAGE)
    if stream:
        assert scene.log.index("hold on disk") < scene.log.index("start")
        assert scene.log[-3:] == ["settled", "settlement committed", "finish"]
    else:
        assert scene.log[-4:] == ["hold on disk", "settled", "settlement committed", "finish"]


async def test_a_long_answer_waits_for_the_hold_with_its_second_piece() -> None:
    scene = Scene([head(), b'{"a', b'":1}', End(USAGE)], stream=False)
    scene.desk.hold = Pledge(scene.log)
    await scene.run()
    first, second = (index for index, step in enumerate(scene.log) if step == "write")
    assert first < scene.log.index("hold on disk") < second  # the first piece is held back by the client


async def test_an_answer_that_cannot_be_accounted_for_is_not_given_away() -> None:
    scene = Scene(streaming(End(USAGE)))
    scene.desk.hold = Pledge(scene.log, fails=True)
    assert (await scene.run())[:3] == ("refused", 503, "store_unavailable")
    assert scene.client.body == b""
    whole = Scene(answer(), stream=False)
    whole.desk.hold = Pledge(whole.log, fails=True)
    assert await whole.run() == ("refused", 503, "store_unavailable", None), "it is not charged either"
    assert whole.settlement.response_bytes == 0
    assert whole.log[-1] == "refuse store_unavailable"
    assert "finish" not in whole.log


async def test_a_running_stream_that_may_not_go_on_is_cut_and_told_why() -> None:
    scene = Scene(streaming(End(USAGE)))
    scene.client.gone_at = "write"
    task = scene.client.task = asyncio.ensure_future(scene.pipeline.serve(CALLER, scene.client, scene.settlement))
    await until(lambda: "write" in scene.log)
    await scene.pipeline.attend()
    assert not task.done()
    scene.desk.cut = KEY_REVOKED
    scene.client.gone_at = ""
    await scene.pipeline.attend()
    await task
    assert scene.outcome() == ("cut", 200, "key_revoked", USAGE)
    assert b"key_revoked" in scene.client.body


async def test_done_is_said_when_all_is_accounted_for() -> None:
    """Whoever reads `[DONE]` stops reading: by then the settlement survives this process."""
    scene = Scene(streaming(End(USAGE, last_words=b"data: [DONE]\n\n")))
    scene.desk.hold = Pledge(scene.log)
    await scene.run()
    assert scene.log[-3:] == ["settled", "settlement committed", "finish"]
    assert scene.client.body == b"data: 1\n\ndata: [DONE]\n\n"
    assert scene.settlement.response_bytes == len(scene.client.body)


# --- an answer that is all there ---


class AtOnce:
    """An inference whose answers are all there with their heads."""

    begun = closed = 0

    async def run(self, job: Job) -> Reply:
        return Head(200, [JSON], "a", lambda: USAGE, rest=(b"{}", End(USAGE))), None


def at_once(**hold: bool) -> Scene:
    scene = Scene([], stream=False)
    scene.inference = scene.pipeline.inference = AtOnce()  # type: ignore[assignment]
    scene.desk.hold = Pledge(scene.log, **hold)
    return scene


@pytest.mark.parametrize("joins", [True, False])
async def test_an_answer_is_given_when_hold_and_settlement_are_kept(joins: bool) -> None:
    scene = at_once(joins=joins)
    assert await scene.run() == ("complete", 200, "", USAGE)
    assert scene.log[-4:] == ["hold on disk", "settled", "settlement committed", "answer"]


async def test_an_answer_whose_hold_cannot_be_kept_is_refused_and_not_charged() -> None:
    scene = at_once(fails=True, joins=True)
    assert await scene.run() == ("refused", 503, "store_unavailable", None)
    assert scene.settlement.response_bytes == 0
    assert scene.client.body == b""


async def test_who_leaves_while_an_answer_is_kept_is_settled_as_it_was_kept() -> None:
    assert await at_once(joins=True, slow=True).run_until("hold on its way", leave=True) == (
        "complete", 200, "", USAGE,
    )  # fmt: skip
    assert await at_once(joins=False, slow=True).run_until("hold on its way", leave=True) == (
        "client_gone", 499, "client_closed_request", USAGE,
    )  # fmt: skip


async def test_an_answer_that_is_kept_is_given_also_by_a_gate_that_stops() -> None:
    scene = at_once(joins=True, slow=True)
    assert await scene.run_until("hold on its way", leave=False) == ("complete", 200, "", USAGE)
    assert (scene.client.status, scene.client.body) == (200, b"{}")
    scene = at_once(joins=False, slow=True)
    assert (await scene.run_until("hold on its way", leave=False))[:3] == ("shutdown", 503, "shutting_down")
    assert scene.log[-1] == "refuse shutting_down"
