"""Malformed and smuggling requests: refused before the application hears of them, and never heard twice."""

import re
from typing import Any

import pytest

from tests.support.asgi_server import serving
from tests.support.scripted_server import until
from tests.unit.http.request_corpus import CORPUS, HIDDEN, Fate

PROBE = b"GET /probe HTTP/1.1\r\nHost: a\r\n\r\n"


def statuses(answers: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", answers)]


def test_the_corpus_is_large_and_names_each_vector_once() -> None:
    assert len(CORPUS) >= 100
    assert len({name for name, _, _ in CORPUS}) == len(CORPUS)


@pytest.mark.parametrize("pieces", ["whole", "by byte"])
@pytest.mark.parametrize(("request_bytes", "fate"), [pytest.param(data, fate, id=name) for name, data, fate in CORPUS])
async def test_a_request_meets_its_fate(request_bytes: bytes, fate: Fate, pieces: str) -> None:
    async with serving(header_timeout_s=0.1, body_timeout_s=0.1, keep_alive_s=0.1) as site:
        wire = await site.connect()
        if pieces == "whole":
            wire.say(request_bytes)
        else:
            # As the parser sees it: one call a byte, without waiting for the network.
            await until(lambda: site.server.connection_count == 1)
            protocol: Any = next(iter(site.server.table.guests))
            for byte in request_bytes:
                protocol.data_received(bytes([byte]))
        answers = statuses(await wire.rest())
        dispatched = site.app.dispatched
        assert not [request for request in dispatched if "hidden" in request]
        if fate == "once":
            assert len(dispatched) == 1
            assert answers == [200]
        else:
            # Never an answer of success, never two answers, and nothing that the application took for whole.
            assert len(answers) <= 1
            assert all(status >= 400 for status in answers)
            assert site.app.bodies == []
            assert len(dispatched) <= (fate == "broken")
        assert site.server.running_count == 0


async def test_a_hidden_request_is_heard_where_nothing_hides_it() -> None:
    """The positive control of the whole corpus: two honest requests in one packet are two dispatches."""
    async with serving(keep_alive_s=0.1) as site:
        wire = await site.connect()
        wire.say(PROBE + HIDDEN)
        assert statuses(await wire.rest()) == [200, 200]
        assert site.app.dispatched == ["GET /probe", "GET /hidden"]
