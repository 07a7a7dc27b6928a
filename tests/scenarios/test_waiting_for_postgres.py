"""PostgreSQL is not there when ZueBee starts: it waits, says so, and goes on by itself. A mistake ends the start."""

import json
import re
import signal
import socket
import struct
import threading
import time
import urllib.error
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest

from tests.support.client import HELLO, ask
from tests.support.databases import postgres_database
from tests.support.processes import KEY, READY, Gateway, Sim, simulated, until
from tests.support.promises import within
from tests.support.shared_ledger import query
from tests.support.tcp_proxy import TcpProxy
from zuebee.schema.reach import reach
from zuebee.schema.version import StoreRefused, StoreUnreachable

ASK: dict[str, Any] = {**HELLO, "max_tokens": 20}
PASSWORD = "sesame-opens"  # which must be seen nowhere


@pytest.fixture
def url() -> Iterator[str]:
    with postgres_database() as address:
        yield address


@pytest.fixture(scope="module")
def sim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sim]:
    with simulated(tmp_path_factory.mktemp("sim")) as process:
        yield process


@pytest.fixture
def ends() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def by(url: str, port: int, name: str | None = None) -> str:
    """The same database by another way, and with a password."""
    parts = urlsplit(url)
    place = f"{parts.username}:{PASSWORD}@127.0.0.1:{port}"
    return urlunsplit(parts._replace(netloc=place, path=parts.path if name is None else f"/{name}"))


def do(url: str, *statements: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def connections(database: str, limit: int) -> str:
    return f"ALTER DATABASE {database} CONNECTION LIMIT {limit}"


class Early(Gateway):
    """A gateway that is started before its database."""

    def __init__(self, folder: Path, url: str, backend: str = "http://127.0.0.1:9", quota: int = 1000) -> None:
        port = free_port()
        config = {
            "listen": f"127.0.0.1:{port}",
            "backends": [{"url": backend}],
            "api_keys": [{"key": KEY, "name": "test", "total_quota": quota}],
            "store": {"url": url, "spool_path": str(folder / "spool.jsonl")},
        }
        super().__init__(folder, config, ready=re.compile("(waiting) for PostgreSQL at"))
        self.url = f"http://127.0.0.1:{port}"

    def readiness(self) -> tuple[int, str]:
        """Status and reason; 0 while nobody listens."""
        try:
            status, body = self.get("/health/readiness")
        except (urllib.error.URLError, ConnectionError):
            return 0, ""
        return status, json.loads(body).get("reason", "")


@pytest.mark.requirement("A106")
def test_it_waits_for_the_database_and_then_serves(tmp_path: Path, sim: Sim, url: str, ends: ExitStack) -> None:
    port = free_port()
    gateway = Early(tmp_path / "a", by(url, port), sim.url)
    ends.callback(gateway.stop)
    assert gateway.readiness() == (503, "waiting for PostgreSQL: it does not answer")
    assert gateway.get("/health/live")[0] == 200
    refused = ask(gateway.url, ASK)
    assert (refused.status, refused.code) == (503, "store_unavailable")
    assert refused.header("x-should-retry") == "true"
    parts = urlsplit(url)
    proxy = TcpProxy(parts.hostname or "127.0.0.1", parts.port or 5432, listen_on=port)
    ends.callback(proxy.close)
    until(lambda: gateway.readiness() == (200, ""), "it is ready", 20)
    assert ask(gateway.url, ASK).status == 200
    assert query(url, "SELECT count(*) FROM ledger_entries WHERE kind = 'post'") == [(1,)]
    assert READY.search(gateway.output)
    assert f"waiting for PostgreSQL at 127.0.0.1:{port}{parts.path}: it does not answer" in gateway.output
    assert gateway.output.count("waiting for PostgreSQL") == 1, "not one line for each try"
    assert gateway.stop() == 0
    assert PASSWORD not in gateway.output


def test_a_server_that_is_full_is_waited_for(tmp_path: Path, url: str, ends: ExitStack) -> None:
    parts = urlsplit(url)
    name, role = parts.path[1:], f"{parts.path[1:]}_role"  # connections of a superuser have no limit
    do(url, f"CREATE ROLE {role} LOGIN", f"ALTER DATABASE {name} OWNER TO {role}", connections(name, 0))
    ends.callback(do, url, f"ALTER DATABASE {name} OWNER TO CURRENT_USER", f"DROP OWNED BY {role}", f"DROP ROLE {role}")
    place = f"{role}@{parts.hostname}:{parts.port or 5432}"
    gateway = Early(tmp_path / "a", urlunsplit(parts._replace(netloc=place)))
    ends.callback(gateway.stop)
    assert gateway.readiness() == (503, "waiting for PostgreSQL: it has too many connections")
    do(url, connections(name, -1))
    until(lambda: READY.search(gateway.output), "it has started", 20)
    assert gateway.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("silent", [False, True])
def test_who_waits_can_be_stopped(tmp_path: Path, ends: ExitStack, number: signal.Signals, silent: bool) -> None:
    """Also in the middle of a try that nobody answers."""
    listener = socket.create_server(("127.0.0.1", 0))
    ends.callback(listener.close)
    port = listener.getsockname()[1] if silent else free_port()
    gateway = Early(tmp_path / "a", f"postgresql://postgres:{PASSWORD}@127.0.0.1:{port}/zuebee")
    gateway.send_signal(signal.SIGHUP)
    until(lambda: "configuration not read again" in gateway.output, "it has heard us")
    time.sleep(0.5)
    with within(3, "stopping"):
        gateway.send_signal(number)
        assert gateway.wait() == 0
    assert PASSWORD not in gateway.output
    assert "Traceback" not in gateway.output


class Doorman:
    """A PostgreSQL that has one answer for everybody who connects."""

    def __init__(self, code: str, words: str) -> None:
        fields = b"".join(kind + text.encode() + b"\0" for kind, text in ((b"S", "FATAL"), (b"C", code), (b"M", words)))
        self._answer = b"E" + struct.pack("!I", len(fields) + 5) + fields + b"\0"
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"postgresql://someone:{PASSWORD}@127.0.0.1:{self._listener.getsockname()[1]}/zuebee"
        threading.Thread(target=self._answer_all, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _answer_all(self) -> None:
        with suppress(OSError):
            while True:
                with self._listener.accept()[0] as connection, suppress(OSError):
                    while connection.recv(1024)[4:6] == b"\x04\xd2":  # asks for TLS or GSSAPI
                        connection.sendall(b"N")
                    connection.sendall(self._answer)


@pytest.mark.parametrize(
    ("code", "words", "kind", "said"),
    [
        ("57P03", "the database system is starting up", StoreUnreachable, "it takes no connections yet"),
        ("57P03", "le système de bases de données se lance", StoreUnreachable, "it does not answer (le système"),
        ("53300", "sorry, too many clients already", StoreUnreachable, "it has too many connections"),
        ("53300", "remaining connection slots are reserved for roles", StoreUnreachable, "it has too many connections"),
        ("28P01", 'password authentication failed for user "someone"', StoreRefused, 'failed for user "someone"'),
        ("28000", f'no pg_hba.conf entry for "{PASSWORD}"', StoreRefused, 'entry for "***"'),
    ],
)
def test_what_servers_say_that_do_not_let_us_in(code: str, words: str, kind: type[Exception], said: str) -> None:
    doorman = Doorman(code, words)
    with pytest.raises(kind, match=re.escape(said)) as failure:
        reach(doorman.url, 2)
    assert PASSWORD not in str(failure.value)
    assert "127.0.0.1" not in str(failure.value)
    doorman.close()


MISTAKES = {
    "no such database": (lambda url: by(url, urlsplit(url).port or 5432, "nowhere"), '"nowhere" does not exist'),
    "no such user": (lambda url: url.replace("postgres@", "nobody_of_ours@"), '"nobody_of_ours" does not exist'),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_ends_the_start_with_one_clear_line(tmp_path: Path, url: str, name: str) -> None:
    wrong, said = MISTAKES[name]
    with pytest.raises(AssertionError, match="it ended with 1") as failure:
        Early(tmp_path / "a", wrong(url))
    output = str(failure.value)
    assert said in output
    assert "does not let us in" in output
    assert "waiting" not in output
    assert "Traceback" not in output
    assert PASSWORD not in output


def test_a_database_that_is_gone_again_is_waited_for_again(tmp_path: Path, url: str, ends: ExitStack) -> None:
    """It answers once, and not when the store is opened: as while a container is set up."""
    parts = urlsplit(url)
    proxy = TcpProxy(parts.hostname or "127.0.0.1", parts.port or 5432)
    ends.callback(proxy.close)
    proxy.refuse_after(1)
    gateway = Early(tmp_path / "a", by(url, proxy.port))
    ends.callback(gateway.stop)
    assert gateway.readiness()[0] == 503
    proxy.heal()
    until(lambda: READY.search(gateway.output), "it has started", 20)
    assert gateway.stop() == 0
