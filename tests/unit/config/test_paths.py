"""Relative paths are below the folder of the configuration file; what names no store is seen."""

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from tests.support.surface import setting_paths
from zuebee.config.load import loads
from zuebee.config.paths import named_store, password_in, rooted

WHOLE = """
backends: [{url: "http://a:1", ca_file: c/ca.pem}]
server: {tls: {enabled: true, cert_file: cert.pem, key_file: /etc/key.pem, client_ca_file: ca.pem}}
store: {path: data/z.db, spool_path: data/s.jsonl}
log: {output: z.log, access: "off"}
auth:
  pipeline:
    - {name: d, type: database, database: {driver: sqlite, dsn: "sqlite:///keys.db", table: keys}}
usage: {reporters: [{name: r, type: database, database: {driver: sqlite, dsn: r.db}}]}
"""


def strings(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for each in value.values():
            yield from strings(each)
    elif isinstance(value, list):
        for each in value:
            yield from strings(each)
    elif isinstance(value, str):
        yield value


def test_all_files_are_below_the_folder() -> None:
    settings = loads(WHOLE, "c.yaml", {}, lambda _: True, "/etc/zuebee").settings
    said = set(strings(msgspec.to_builtins(settings, enc_hook=str)))
    assert {f"/etc/zuebee/{name}" for name in (
        "c/ca.pem", "cert.pem", "ca.pem", "data/z.db", "data/s.jsonl", "z.log", "keys.db", "r.db")} <= said  # fmt: skip
    assert {"/etc/key.pem", "off", "/metrics"} <= said
    for folder in ("", "."):
        assert loads(WHOLE, "c.yaml", {}, lambda _: True, folder).settings.store.path == "data/z.db"


def test_no_setting_that_names_a_file_is_forgotten() -> None:
    names = {path.rpartition(".")[2] for path in setting_paths()}
    known = {"path", "spool_path", "health_path", "per_path", "output"}
    assert {name for name in names if name.endswith("path")} <= known, "Teach config/paths.py whether it names a file."


@pytest.mark.parametrize(
    ("name", "path"),
    [("z.db", "z.db"), ("/a/z.db", "/a/z.db"), ("sqlite:///z.db", "z.db"), ("sqlite:////a/z.db", "/a/z.db"),
     ("./odd:name.db", "./odd:name.db"), ("a/b:c.db", "a/b:c.db")],
)  # fmt: skip
def test_a_file_is_named(name: str, path: str) -> None:
    assert named_store(name).path == path


@pytest.mark.parametrize(
    "name",
    ["", " ", "mysql://u:s3cret@h/x", "sqlite:z.db", "sqlite://z.db", "file:z.db", "POSTGRESQL://u:s3cret@h/x",
     "postgresql+psycopg://u:s3cret@h/x", "postgres:u:s3cret@h/x", "host=h password=s3cret", "redis://h", "c:z.db"],
)  # fmt: skip
def test_what_names_no_store_is_refused_and_not_repeated(name: str) -> None:
    with pytest.raises(ValueError, match="expected") as refused:
        named_store(name)
    assert "s3cret" not in str(refused.value)
    for key in ("path", "url"):
        if name.strip():
            text = f"backends: [{{url: 'http://a:1'}}]\nstore: {{{key}: {msgspec.json.encode(name).decode()}}}\n"
            with pytest.raises(Exception, match=f"store.{key}") as wrong:
                loads(text, "c.yaml", {}, lambda _: True, "/etc")
            assert "s3cret" not in str(wrong.value)


def test_a_url_stays_one() -> None:
    assert named_store("postgres://h/x").url == "postgres://h/x"
    assert rooted(named_store("postgres://h/x"), "/etc").url == "postgres://h/x"


@pytest.mark.parametrize(
    ("url", "has"),
    [
        ("postgresql://u:pw@h/db", True),
        ("postgres://:pw@h/db", True),
        ("postgresql://u:p@ss/wo?rd@h/db", True),
        ("postgresql://u:p%40ss@h1,h2:5433/db", True),
        ("postgresql://u@h/db?password=pw", True),
        ("postgresql://u@h/db?sslmode=require&Pass%77ord=pw", True),
        ("postgresql:///db?host=h&sslpassword=pw", True),
        ("postgresql://u@h/db", False),
        ("postgresql://u:@h/db", False),
        ("postgresql://u@[::1]:5432/db?options=-c%20a%3Db", False),
        ("postgresql://h:5432/db", False),
        ("postgresql:///db?host=/run/postgresql&passfile=/etc/pgpass", False),
        ("data/z.db", False),
    ],
)
def test_a_password_in_a_url_is_seen(url: str, has: bool) -> None:
    assert password_in(url) is has
