"""What processes that are killed leave behind in the shared ledger: settlements are done, holds expire."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.databases import postgres_database
from tests.support.raw_http import eventually
from tests.support.shared_ledger import balances, check_books, check_usage, post, query, store_on
from tests.support.source import ROOT
from tests.support.starts import SOURCES
from tests.support.tcp_proxy import DOWN, TcpProxy, proxy_before
from zuebee.contracts.admission import Budget
from zuebee.ledger.postgres.commit import SharedCommitter
from zuebee.ledger.postgres.spool import Spool, replay
from zuebee.schema.prepare import prepare

BUDGET = Budget("key:1/tokens/never", "tokens", "never", 10**9)
CHILD = {**os.environ, "PYTHONPATH": f"{SOURCES}{os.pathsep}{ROOT}"}


@pytest.fixture
def url() -> Iterator[str]:
    with postgres_database() as address:
        prepare(address)
        yield address


@pytest.fixture
def way(url: str) -> Iterator[tuple[TcpProxy, str]]:
    with proxy_before(url) as proxy_and_url:
        yield proxy_and_url


# A process that has 50 holds, and settles them (and 50 requests without) when it is told that the database is gone.
SETTLES = """
import asyncio, sys
from tests.support.shared_ledger import post, record, reserve, store_on
from zuebee.ledger.operations import Settle
from zuebee.ledger.postgres.commit import SharedCommitter
from zuebee.ledger.postgres.spool import Spool
from zuebee.contracts.admission import Budget

async def main():
    budget = Budget("key:1/tokens/never", "tokens", "never", 10**9)
    committer = SharedCommitter(store_on(sys.argv[1], timeout_s=1), Spool(sys.argv[2]), timeout_s=1)
    for number in range(50):
        await committer.ask(reserve(f"r_{number}", (budget,), 10))
    print("ready", flush=True)
    sys.stdin.readline()
    waiting = []
    for number in range(50):
        waiting.append(committer.settle(post(f"r_{number}", 6)))
        waiting.append(committer.settle(Settle("", None, record(f"free_{number}", 1))))
        await asyncio.sleep(0.005)
    for each in waiting:
        await each
    print("settled", flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


def kill_while_settling(way: tuple[TcpProxy, str], spool: Path, outage: str, code: str = SETTLES) -> None:
    """Kill a process that settles, when it says that all is kept."""
    proxy, address = way
    child = subprocess.Popen(
        [sys.executable, "-c", code, address, str(spool)],
        env=CHILD, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        assert child.stdout.readline() == "ready\n"
        if outage == "gone":
            proxy.refuse()
        elif outage == "flickers":  # some commits come through, and their answers do not
            proxy.cut_after(9_000, DOWN)
        child.stdin.write("\n")
        child.stdin.flush()
        assert child.stdout.readline() == "settled\n"
    finally:
        child.send_signal(signal.SIGKILL)
        child.communicate()
        proxy.heal()
        proxy.pass_all()


@pytest.mark.requirement("A098")
@pytest.mark.parametrize("outage", ["gone", "flickers"])
def test_kill_9_during_an_outage_loses_no_settlement(
    url: str, way: tuple[TcpProxy, str], tmp_path: Path, outage: str
) -> None:
    spool = tmp_path / "spool.jsonl"
    kill_while_settling(way, spool, outage)
    before = query(url, "SELECT count(*) FROM ledger_holds")[0][0]
    assert before == 50 if outage == "gone" else before <= 50
    store = store_on(url)
    kept = Spool(str(spool))
    copy = spool.read_bytes()
    replay(store, kept)
    assert spool.read_bytes() == b""
    for _ in range(2):  # and once more, as if it had been killed before it could empty the file
        assert balances(url)[BUDGET.account][1:4] == (0, 300, 0)
        assert query(url, "SELECT count(*), count(DISTINCT request_id) FROM usage_records") == [(100, 100)]
        spool.write_bytes(copy)
        replay(store, kept)
    check_books(url)
    check_usage(url)


def test_without_the_spool_file_they_would_be_lost(url: str, way: tuple[TcpProxy, str], tmp_path: Path) -> None:
    spool = tmp_path / "spool.jsonl"
    forgetful = SETTLES.replace("async def main", "Spool.append = lambda self, lines: None\nasync def main")
    kill_while_settling(way, spool, "gone", forgetful)
    replay(store_on(url), Spool(str(spool)))
    assert balances(url)[BUDGET.account][1:3] == (500, 0)


# A process whose streams run for long, renewed each 0.3 s, with holds that live for two seconds.
STREAMS = """
import asyncio, sys
from tests.support.shared_ledger import reserve, store_on
from zuebee.ledger.postgres.commit import SharedCommitter
from zuebee.ledger.postgres.spool import Spool
from zuebee.contracts.admission import Budget

async def main():
    url, spool, name = sys.argv[1:]
    budget = Budget("key:1/tokens/never", "tokens", "never", 10**9)
    committer = SharedCommitter(store_on(url, hold_s=2), Spool(spool), timeout_s=2)
    holds = [f"{name}_{number}" for number in range(5)]
    for hold in holds:
        operation = reserve(hold, (budget,), 100, hold_s=2)
        operation.record = '["key_1","mine","me","","","","normal","m","/v1/x",true,1800000000.0]'
        await committer.ask(operation)
    print("ready", flush=True)
    for second in range(200):
        committer.renew([(hold, 40, 0) for hold in holds], 2.0)
        await asyncio.sleep(0.3)

asyncio.run(main())
"""


@pytest.mark.requirement("A098")
async def test_holds_of_a_killed_process_expire_and_those_of_a_living_one_do_not(url: str, tmp_path: Path) -> None:
    survivor = SharedCommitter(store_on(url, hold_s=2), Spool(str(tmp_path / "own.jsonl")), timeout_s=2)
    children = [
        subprocess.Popen(
            [sys.executable, "-c", STREAMS, url, str(tmp_path / f"{name}.jsonl"), name],
            env=CHILD, stdout=subprocess.PIPE, text=True,
        )
        for name in ("dying", "living")
    ]  # fmt: skip
    try:
        for child in children:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
        await asyncio.sleep(0.5)
        children[0].send_signal(signal.SIGKILL)
        await asyncio.sleep(2.5)
        left = "SELECT count(*) FROM ledger_holds WHERE hold LIKE 'dying%'"
        assert query(url, left) == [(5,)], "they do not go by themselves"

        def swept() -> bool:
            survivor.sweep()
            return query(url, left) == [(0,)]

        await eventually(swept, "they go when somebody looks")
        for _ in range(50):  # more than two times the life of a hold
            survivor.sweep()
            await asyncio.sleep(0.1)
        assert query(url, "SELECT count(*) FROM ledger_holds WHERE hold LIKE 'living%'") == [(5,)]
        assert await survivor.ask(post("living_0", 90)) is None
    finally:
        for child in children:
            with suppress(ProcessLookupError):
                child.send_signal(signal.SIGKILL)
            child.communicate()
    await survivor.aclose()
    kinds = query(
        url, "SELECT kind, count(*), sum(tokens)::int8 FROM ledger_entries WHERE step = 1 GROUP BY kind ORDER BY kind"
    )
    assert kinds == [("expire", 5, 200), ("post", 1, 90)]
    recorded = query(url, "SELECT count(*), sum(total_tokens)::int8 FROM usage_records WHERE usage_source = 'partial'")
    assert recorded == [(5, 200)]
    check_books(url)
