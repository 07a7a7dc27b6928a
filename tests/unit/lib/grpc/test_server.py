"""The gRPC listener: who is served, what becomes of calls whose client leaves, and how it ends."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest

from tests.support.scripted_server import until
from zuebee.lib.grpc.server import Call, GrpcLimits, GrpcServer, Method

LIMITS = GrpcLimits(1 << 20, 8192, 100, 5.0, 0.5)


@asynccontextmanager
async def serving(
    handler: Callable[[Call], Any], *, limits: GrpcLimits = LIMITS, ready: Callable[[], bool] = lambda: True
) -> AsyncIterator[tuple[GrpcServer, grpc.aio.Channel]]:
    methods = {"Whole": Method(handler, streams=False), "Stream": Method(handler, streams=True)}
    server = GrpcServer({"t.Test": methods}, limits=limits, ready=ready)
    port = await server.start("127.0.0.1", 0)
    options = (("grpc.use_local_subchannel_pool", 1), ("grpc.http2.bdp_probe", 0))
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
            yield server, channel
    finally:
        await server.close()


async def failure(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return error.value


async def test_a_request_is_bytes_and_so_is_its_answer() -> None:
    async def handler(call: Call) -> None:
        await call.start([("x-first", "1")])
        await call.send(call.request + dict(call.fields)["x-mine"].encode())

    async with serving(handler) as (server, channel):
        call = channel.unary_unary("/t.Test/Whole")(b"abc", metadata=(("x-mine", "def"),))
        assert await call == b"abcdef"
        assert dict(await call.initial_metadata())["x-first"] == "1"
        stream = channel.unary_stream("/t.Test/Stream")(b"abc", metadata=(("x-mine", "def"),))
        assert [message async for message in stream] == [b"abcdef"]
        assert server.running_count == 0


@pytest.mark.parametrize("method", ["Whole", "Stream"])
async def test_a_failure_has_its_status_and_its_metadata(method: str) -> None:
    async def handler(call: Call) -> None:
        call.fail(8, "enough", [("x-last", "2"), ("x-last-bin", b"\x00\xff")])

    async with serving(handler) as (_, channel):
        make = channel.unary_unary if method == "Whole" else channel.unary_stream
        call = make(f"/t.Test/{method}")(b"")
        error = await failure(call if method == "Whole" else call.read())
        assert (error.code(), error.details()) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "enough")
        last = dict(await call.trailing_metadata())
        assert (last["x-last"], last["x-last-bin"]) == ("2", b"\x00\xff")


@pytest.mark.parametrize("method", ["Whole", "Stream"])
async def test_a_defect_is_internal_and_says_nothing_of_itself(method: str) -> None:
    async def handler(call: Call) -> None:
        raise RuntimeError("canary")

    async with serving(handler) as (server, channel):
        make = channel.unary_unary if method == "Whole" else channel.unary_stream
        call = make(f"/t.Test/{method}")(b"")
        error = await failure(call if method == "Whole" else call.read())
        assert error.code() == grpc.StatusCode.INTERNAL
        assert "canary" not in f"{error.details()}{error}"
        assert server.running_count == 0


@pytest.mark.parametrize("goes_on", [False, True])
async def test_when_the_client_leaves_the_handler_is_cancelled_unless_it_goes_on(goes_on: bool) -> None:
    said: list[str] = []
    leave = asyncio.Event()

    async def handler(call: Call) -> None:
        call.goes_on = lambda: goes_on
        try:
            await call.send(b"first")
            await asyncio.wait_for(leave.wait(), 5)
            await call.send(b"second")
            said.append("ended")
        except asyncio.CancelledError:
            said.append("cancelled")
            raise

    async with serving(handler) as (server, channel):
        call = channel.unary_stream("/t.Test/Stream")(b"")
        assert await call.read() == b"first"
        call.cancel()
        await (until(lambda: bool(said)) if not goes_on else asyncio.sleep(0.1))
        assert server.running_count == (1 if goes_on else 0)
        leave.set()
        await until(lambda: said == ["ended" if goes_on else "cancelled"])
        await until(lambda: server.running_count == 0)


async def test_who_cancels_its_own_task_may_still_say_why() -> None:
    async def handler(call: Call) -> None:
        await call.send(b"first")
        call.cancel()
        try:
            await asyncio.sleep(5)
        except asyncio.CancelledError:
            call.fail(14, "cut", ())

    async with serving(handler) as (_, channel):
        call = channel.unary_stream("/t.Test/Stream")(b"")
        assert await call.read() == b"first"
        assert (await failure(call.read())).details() == "cut"


@pytest.mark.slow
async def test_a_client_that_takes_nothing_is_cut_off() -> None:
    ended: list[int] = []

    async def handler(call: Call) -> None:
        sent = 0
        try:
            for _ in range(1000):
                await call.send(b"x" * 10_000)
                sent += 1
        finally:
            ended.append(sent)

    async with serving(handler) as (server, channel):
        call = channel.unary_stream("/t.Test/Stream")(b"")
        await call.read()
        await until(lambda: bool(ended))
        assert ended[0] < 100, "it did not send what nobody took"
        await until(lambda: server.running_count == 0)
        other = channel.unary_unary("/t.Test/Whole")(b"")
        assert await other == b"x" * 10_000
        call.cancel()


@pytest.mark.slow
async def test_what_clients_may_send_is_bounded() -> None:
    async def handler(call: Call) -> None:
        await call.send(b"ok")

    async with serving(handler, limits=LIMITS._replace(max_message_bytes=1000)) as (_, channel):
        whole = channel.unary_unary("/t.Test/Whole")
        assert await whole(b"x" * 900) == b"ok"
        assert (await failure(whole(b"x" * 1100))).code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        long = (("x-long", "y" * 20_000),)
        assert (await failure(whole(b"", metadata=long))).code() == grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_more_calls_than_the_limit_are_refused() -> None:
    let_go = asyncio.Event()

    async def handler(call: Call) -> None:
        await let_go.wait()
        await call.send(b"ok")

    async with serving(handler, limits=LIMITS._replace(max_calls=2)) as (server, channel):
        whole = channel.unary_unary("/t.Test/Whole")
        running = [whole(b"") for _ in range(2)]
        await until(lambda: server.running_count == 2)
        assert (await failure(whole(b""))).code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        let_go.set()
        assert [await call for call in running] == [b"ok", b"ok"]


async def test_a_stop_waits_for_what_runs_and_takes_no_more() -> None:
    let_go = asyncio.Event()

    async def handler(call: Call) -> None:
        await let_go.wait()
        await call.send(b"ok")

    async with serving(handler) as (server, channel):
        running = channel.unary_unary("/t.Test/Whole")(b"")
        await until(lambda: server.running_count == 1)
        server.begin_drain()
        server.stop_accepting()
        assert not await server.wait_idle(0.05, asyncio.Event())
        assert (await failure(channel.unary_unary("/t.Test/Whole")(b""))).code() == grpc.StatusCode.UNAVAILABLE
        let_go.set()
        assert await running == b"ok"
        assert await server.wait_idle(5, asyncio.Event())


async def test_a_port_that_is_taken_is_an_error() -> None:
    async def handler(call: Call) -> None:
        await call.send(b"ok")

    async with serving(handler) as (server, _):
        other = GrpcServer({}, limits=LIMITS, ready=lambda: True)
        port = server.port
        with pytest.raises(OSError, match="taken"):
            await other.start("127.0.0.1", port)
        await other.close()
