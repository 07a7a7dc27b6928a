import json
from typing import Any

import pytest

from tests.support.fakes import FakeInference, VirtualTime
from zuebee.config.settings import BackendSettings, HealthCheckSettings
from zuebee.dispatch.pool import FRESH_S, MAX_MODELS, BackendPool, ModelList, Reachable


class Server(FakeInference):
    """Lists its models."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__([])
        self.answer = status, body
        self.asked = 0

    async def get(self, path: str, method: str, timeout_s: float) -> tuple[int, bytes]:
        assert (method, path) == ("GET", "/v1/models")
        self.asked += 1
        if self.answer[0] == 0:
            raise OSError("gone")
        return self.answer

    def close(self) -> None:
        pass


def listing(*names: Any) -> bytes:
    return json.dumps({"object": "list", "data": [{"id": name, "root": "x"} for name in names]}).encode()


async def listed(*backends: tuple[Server, list[str]]) -> ModelList:
    servers = {f"http://{n}": server for n, (server, _) in enumerate(backends)}

    def make(settings: BackendSettings) -> tuple[str, Reachable]:
        return settings.url, servers[settings.url]

    pool = BackendPool(make, {})
    settings = [BackendSettings(url=url, models=models) for url, (_, models) in zip(servers, backends, strict=True)]
    pool.change(pool.plan(settings, HealthCheckSettings(enabled=False)))
    return ModelList(pool)


async def names(models: ModelList) -> list[str]:
    return [card["id"] for card in await models.cards()]


async def test_the_lists_of_all_backends_are_one() -> None:
    models = await listed((Server(200, listing("a", "b")), []), (Server(200, listing("b", "c")), []))
    assert await names(models) == ["a", "b", "c"]
    assert (await models.cards())[0] == {"id": "a", "root": "x"}


async def test_only_what_a_backend_is_declared_to_serve_counts() -> None:
    models = await listed((Server(200, listing("llama-1", "other")), ["llama*", "mine"]))
    assert await names(models) == ["llama-1", "mine"]


@pytest.mark.parametrize(
    "server",
    [
        Server(0, b""),
        Server(500, listing("x")),
        Server(200, b"<html>"),
        Server(200, b"[" * 100_000),
        Server(200, b'{"data":[{"id":7},{"name":"x"}]}'),
        Server(200, b'{"data":"x"}'),
    ],
)
async def test_a_backend_that_gives_no_list_spoils_nothing(server: Server) -> None:
    models = await listed((server, ["declared", "pattern*"]), (Server(200, listing("a")), []))
    assert sorted(await names(models)) == ["a", "declared"]


async def test_the_list_is_kept_for_a_moment(virtual_time: VirtualTime) -> None:
    server = Server(200, listing("a"))
    models = await listed((server, []))
    for _ in range(5):
        await models.cards()
    assert server.asked == 1
    server.answer = 200, listing("b")
    virtual_time.advance(FRESH_S)
    assert await names(models) == ["b"]


async def test_the_list_is_bounded() -> None:
    models = await listed((Server(200, listing(*map(str, range(MAX_MODELS + 5)))), []))
    assert len(await models.cards()) == MAX_MODELS


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (b'[{"id":"a"},{"id":1},7,null,{"id":"b"}]', ["a", "b"]), (b'{"data":[{"id":"a"},null]}', ["a"]),
        (b'"a"', []), (b"{}", []), (b"[", []),
    ],
)  # fmt: skip
async def test_a_bare_array_is_a_list_too(body: bytes, found: list[str]) -> None:
    assert await names(await listed((Server(200, body), []))) == found


async def test_a_model_is_unknown_only_where_all_who_could_have_it_say_what_they_have() -> None:
    models = await listed((Server(200, listing("a")), []), (Server(200, listing("llama-1")), ["llama*", "mine"]))
    assert [name for name in ("a", "b", "llama-1", "mine", "") if await models.serves(name)] == ["a", "llama-1", "mine"]
    for silent in (Server(0, b""), Server(404, listing("x")), Server(200, b"{}")):
        models = await listed((Server(200, listing("a")), []), (silent, ["llama*"]))
        assert await models.serves("llama-9")
        assert not await models.serves("b")
        assert await (await listed((silent, []))).serves("b")


async def test_of_a_list_that_is_cut_nobody_is_missed() -> None:
    models = await listed((Server(200, listing(*map(str, range(MAX_MODELS + 5)))), []))
    assert await models.serves(str(MAX_MODELS + 1))
