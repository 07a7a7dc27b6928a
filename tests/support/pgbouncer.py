"""PgBouncer before the PostgreSQL of the tests, as Debian has it: older than prepared statements through poolers."""

import os
import pwd
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import pytest

from tests.support.databases import postgres_database
from tests.support.processes import until
from tests.support.servers import need_program

SERVERS = 4
"""Fewer than clients: whoever comes next gets a server that another has just used."""


BOTH_WAYS = pytest.mark.parametrize("url", ["direct", "pooler"], indirect=True)
"""For tests whose fixture `url` is `database_by(request)`."""


@contextmanager
def database_by(request: Any) -> Iterator[str]:
    """The URL of a new database, directly or through a pooler."""
    with postgres_database() as url:
        if getattr(request, "param", "direct") == "direct":
            yield url
        else:
            with pgbouncer_before(url) as pooled:
                yield pooled


@contextmanager
def pgbouncer_before(url: str, mode: str = "transaction", **settings: str | int) -> Iterator[str]:
    """The URL that leads through a PgBouncer of its own in this mode; `settings` are lines of its ini."""
    program = need_program("pgbouncer", "pgbouncer")
    parts = urlsplit(url)
    server = f"host={parts.hostname} port={parts.port or 5432}" + (
        f" password={parts.password}" if parts.password else ""
    )
    with tempfile.TemporaryDirectory(prefix="pgbouncer") as name, socket.create_server(("127.0.0.1", 0)) as free:
        folder, port = Path(name), free.getsockname()[1]
        free.close()
        lines = {
            "listen_addr": "127.0.0.1", "listen_port": port, "unix_socket_dir": "", "auth_type": "any",
            "pool_mode": mode, "default_pool_size": SERVERS, "max_client_conn": 500, "server_round_robin": 1,
            "log_connections": 0, "log_disconnections": 0, **settings,
        }  # fmt: skip
        databases = f"* = {server} user={parts.username}"
        text = "\n".join(f"{key} = {value}" for key, value in lines.items())
        (folder / "pgbouncer.ini").write_text(f"[databases]\n{databases}\n[pgbouncer]\n{text}\n")
        os.chmod(folder, 0o755)
        # It refuses to be root.
        who = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [program, str(folder / "pgbouncer.ini")], stdout=log, stderr=log,
                user=None if who is None else who.pw_uid, group=None if who is None else who.pw_gid,
            )  # fmt: skip
        try:
            until(lambda: _answers(port), "PgBouncer listens")
            login = f"{parts.username}@" if parts.username else ""
            yield urlunsplit(parts._replace(netloc=f"{login}127.0.0.1:{port}"))
        finally:
            process.terminate()
            process.wait(10)


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
