"""Answers that HTTP may pass on and gRPC has no message for: what callers see, what they pay, and the record agree."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.grpc_peers import calling, chunks, failed, hello
from tests.support.loopback import chunked, loopback, whole
from tests.support.processes import KEY, running

USAGE = {"prompt_tokens": 7, "completion_tokens": 50, "total_tokens": 57}
ODD = {"message": 7, "index": 0, "finish_reason": "stop"}


def completion(**fields: Any) -> bytes:
    return json.dumps({"id": "c", "object": "chat.completion", "model": "m", "usage": USAGE, **fields}).encode()


ANSWERS: dict[str, list[Any]] = {
    "odd": whole(completion(choices=[ODD])),
    "long": whole(completion(choices=[ODD], padding="x" * (3 << 20))),
    "error": whole(completion(choices=[], error={"message": "no", "type": "server_error", "code": "broken"})),
    "good": whole(completion(choices=[{**ODD, "message": {"role": "assistant", "content": "yes"}}])),
}


def config(backend: str) -> dict[str, Any]:
    return {
        "backends": [{"url": backend}],
        "routing": {"retry": {"enabled": False}},
        "health_check": {"enabled": False},
        "api_keys": [{"key": KEY, "name": "test", "total_quota": 100_000}],
        "grpc": {"listen": "127.0.0.1:0", "default_model": "sim-small"},
    }


@pytest.mark.parametrize("named", [False, True])
async def test_an_answer_that_cannot_be_told_is_recorded_as_none(tmp_path: Path, named: bool) -> None:
    async with loopback(*ANSWERS.values()) as backend:
        with running(tmp_path, config(backend.url)) as gateway, calling(gateway) as caller:
            for number, kind in enumerate(ANSWERS):
                more = (("idempotency-key", kind.replace(" ", "-")),) if named else ()
                found, _ = await asyncio.to_thread(caller.ask_whole, hello(max_tokens=60), *more)
                [*others, row] = await asyncio.to_thread(gateway.wait_for_rows, number + 1)
                assert len(others) == number
                is_recorded_as_none(kind, found, row)


def is_recorded_as_none(kind: str, found: Any, row: dict[str, Any]) -> None:
    told = row["status"], row["termination_reason"], row["code"]
    if kind == "good":
        assert found.output_text == "yes"
        assert told == (200, "complete", "")
        assert (row["prompt_tokens"], row["completion_tokens"]) == (7, 50)
        return
    assert failed(found).status == ("UNAVAILABLE" if kind == "error" else "INTERNAL")
    assert told == (502, "upstream_broken", "backend_error" if kind == "error" else "bad_answer")
    assert row["usage_source"] == "estimate"
    assert row["completion_tokens"] == 0, "nothing of it was seen"


async def test_a_stream_that_cannot_be_told_to_its_end_is_not_complete(tmp_path: Path) -> None:
    def event(delta: object) -> bytes:
        return b"data: " + completion(choices=[{"delta": delta, "index": 0}], usage=None) + b"\n\n"

    stream = chunked(event({"content": "a"}) + event({"content": "b"}) + event(7) + b"data: [DONE]\n\n")
    async with loopback(stream) as backend:
        with running(tmp_path, config(backend.url)) as gateway, calling(gateway) as caller:
            found, failure = await asyncio.to_thread(lambda: chunks(caller.stream(hello(max_tokens=60))))
            [row] = await asyncio.to_thread(gateway.wait_for_rows, 1)
    assert [chunk.delta_text for chunk in found] == ["a", "b"]
    assert failed(failure).status == "INTERNAL"
    assert (row["termination_reason"], row["code"]) == ("upstream_broken", "bad_answer")
    assert row["completion_tokens"] > 0, "what was delivered is paid for"
