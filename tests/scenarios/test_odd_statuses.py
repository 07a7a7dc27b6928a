"""Statuses that a backend should not send, and statuses that nobody named: each gets a readable answer."""

from pathlib import Path
from typing import Any

import pytest

from tests.support.loopback import Loopback, chunked, loopback, whole
from tests.support.processes import Gateway, running
from tests.support.raw_http import Answer, ask, chat, request

KNOWN = (299, 418, 451, 499, 520, 529, 599)
UNKNOWN = (0, 99, 600, 700, 999)
BODY = b'{"error":{"message":"odd","type":"odd","code":"odd"}}'


def config(backend: Loopback) -> dict[str, Any]:
    return {
        "backends": [{"url": backend.url}],
        "routing": {"retry": {"enabled": False}},
        "health_check": {"enabled": False},
    }


def script(status: int, kind: str) -> list[Any]:
    line = b"HTTP/1.1 %03d Odd\r\n" % status
    if kind == "whole":
        return [line + whole(BODY)[0].partition(b"\r\n")[2]]  # type: ignore[union-attr]
    first, *rest = chunked(b"data: {}\n\n" if kind == "stream" else b"y" * (2 << 20))
    return [line + first.partition(b"\r\n")[2], *rest]  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", ["whole", "stream", "long"])
async def test_every_status_gets_an_answer(tmp_path: Path, kind: str) -> None:
    scripts = [script(status, kind) for status in KNOWN + UNKNOWN]
    async with loopback(*scripts, *scripts) as backend:
        with running(tmp_path, config(backend)) as gateway:
            for stream in (False, True):
                answers = [await _one(gateway, stream=stream) for _ in KNOWN + UNKNOWN]
                for status, answer in zip(KNOWN, answers, strict=False):
                    assert answer.status in (status, 502), status  # 502: long ones that are no stream, 299 without JSON
                    if kind == "whole" and status >= 400:
                        assert (answer.status, answer.body) == (status, BODY)
                for status, answer in zip(UNKNOWN, answers[len(KNOWN) :], strict=True):
                    assert (answer.status, answer.error["code"]) == (502, "bad_answer"), status
                assert "Traceback" not in gateway.output


async def _one(gateway: Gateway, *, stream: bool) -> Answer:
    return await ask(gateway.port, request(chat(stream=stream)))
