"""The command line beside the server: which store it speaks to, what it prints where, how it ends."""

import json
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import Any

import pytest
import yaml

from tests.support.commands import Failed, here, on_terminal, zuebee
from tests.support.databases import postgres_database
from tests.support.processes import running, simulated
from tests.support.stores import made, made_for
from zuebee.schema import migrate

EVERY = [
    ("ledger", "verify"), ("ledger", "show", "key:k/tokens/daily"), ("ledger", "holds"), ("usage",),
    ("usage", "export"), ("usage", "outbox"), ("usage", "retry", "r"), ("usage", "discard", "r", "--yes"),
    ("keys", "create"),
    ("keys", "list"), ("keys", "show", "key_1"), ("keys", "update", "key_1", "--name", "n"),
    ("keys", "rotate", "key_1"),
    ("keys", "revoke", "key_1"), ("keys", "disable", "key_1"), ("keys", "enable", "key_1"),
    ("accounts", "create", "organization", "a"), ("accounts", "update", "organization", "a"),
    ("accounts", "list", "organization"), ("accounts", "show", "organization", "a"),
    ("accounts", "disable", "user", "a"), ("accounts", "enable", "user", "a"),
    ("accounts", "set-budget", "key", "k", "5"), ("accounts", "remove-budget", "key", "k"),
    ("accounts", "top-up", "key", "k", "5"), ("accounts", "payments", "a"),
    ("accounts", "invoice", "a", "--month", "2025-10"), ("accounts", "invoices"), ("plans", "create", "p"),
    ("plans", "update", "p"), ("plans", "list"), ("plans", "show", "p"), ("plans", "disable", "p"),
    ("plans", "enable", "p"),
]  # fmt: skip
"""Every command that speaks to a store; a test below holds it to the code."""


def failing(folder: Path, *command: str, run: Any = here) -> Failed:
    with pytest.raises(Failed) as caught:
        run(folder, *command)
    return caught.value


def configured(folder: Path, **settings: Any) -> Path:
    """A configuration that wants secrets which nobody has here."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "backends": [{"url": "http://127.0.0.1:9", "api_key": "os.environ/NOBODY_HAS_IT"}],
        "api_keys": [{"key": "os.environ/NOR_THIS"}],
        **settings,
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder / "config.yaml"


def test_every_command_is_among_them() -> None:
    from tests.support.surface import commands_and_flags

    leaves = {name for name in commands_and_flags() if name.startswith("zuebee ")}
    leaves -= {name for name in leaves if any(each.startswith(name + " ") for each in leaves)} - {"zuebee usage"}
    apart = {"zuebee run", "zuebee reload", "zuebee check-config", "zuebee sim", "zuebee completion"}
    said = {" ".join(("zuebee", *command[:2])).strip() for command in EVERY}
    assert {name for name in leaves if not any(each.startswith(name) for each in said)} == apart


@pytest.mark.parametrize("command", EVERY, ids=" ".join)
def test_no_command_but_run_makes_a_store(tmp_path: Path, command: tuple[str, ...]) -> None:
    config = configured(tmp_path / "conf")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    empty = tmp_path / "empty.db"
    empty.touch()
    sqlite3.connect(tmp_path / "other.db").execute("CREATE TABLE theirs (a)").connection.close()
    for where, named in (
        (("--config", str(config)), f"{tmp_path}/conf/data/zuebee.db (the default of `store.path`, beside {config})"),
        (("--config", "../conf/config.yaml"), "/conf/data/zuebee.db (the default"),
        (("--store", "none.db"), f"{elsewhere}/none.db (--store)"),
        (("--store", f"sqlite:///{tmp_path}/none/none.db"), f"{tmp_path}/none/none.db (--store)"),
        (("--store", str(empty)), f"{empty} (--store)"),
        (("--store", str(tmp_path / "other.db")), "other.db (--store)"),
    ):
        failed = failing(elsewhere, *command, *where)
        assert (failed.status, failed.stdout, failed.stderr.count("\n")) == (1, "", 1), failed.stderr
        assert failed.stderr.startswith("zuebee cannot use the store ")
        assert named in failed.stderr
    for name in ("mysql://u:s3cret@h/x", "sqlite:none.db", "host=h password=s3cret", ""):
        failed = failing(elsewhere, *command, "--store", name)
        assert (failed.status, failed.stderr.startswith("--store: expected")) == (2, True), failed.stderr
        assert "s3cret" not in failed.stderr
    assert not list(elsewhere.iterdir())
    assert not (tmp_path / "conf" / "data").exists()
    assert empty.stat().st_size == 0
    tables = sqlite3.connect(tmp_path / "other.db").execute("SELECT name FROM sqlite_master").fetchall()
    assert tables == [("theirs",)]


PERIODS = "expected daily, weekly, monthly or never; did you mean"
GROUPS = "key, user, team, organization, plan, model, endpoint, day, hour"
WRONG = {
    "keys list --format jsn": "--format' / '-o': `jsn` is none of table, wide, json; did you mean `json`?",
    "keys list --orgnisation a": "No such option: --orgnisation (Possible options: --organization)",
    "keys list --state activ": "--state: expected active, not_started, disabled, expired or revoked; did you mean",
    "keys create --priority hig": "--priority: expected low, normal or high; did you mean `high`?",
    "keys create --billing prepayd": "--billing: expected none, quota or prepaid; did you mean `prepaid`?",
    "keys create --limit request_per_minute=6": "--limit.request_per_minute: this cannot be set; did you mean",
    "keys create --budget 5/month": f"--budget[0].period: {PERIODS} `monthly`?",
    "accounts create organisaton a": "'kind': `organisaton` is none of organization, team, user; did you mean",
    "accounts create user a --organisation b --role admn": "--role: expected admin, member or viewer; did you mean",
    "accounts set-budget team a 5 --period dayly": f"--period: {PERIODS} `daily`?",
    "usage --by modl": f"--by: `modl` is none of {GROUPS}; did you mean `model`?",
    "usage --since yestrday": "Invalid value for --since: expected a date or an RFC 3339 time",
    "usage export --format cvs": "'--format' / '-o': `cvs` is none of csv, jsonl, json; did you mean `csv`?",
    "plans creat x": "No such command 'creat'. Did you mean 'create'?",
}


@pytest.mark.parametrize("command", WRONG)
def test_what_is_wrong_is_named_with_the_nearest_that_is_right(tmp_path: Path, command: str) -> None:
    store = () if command.startswith("plans") else ("--store", made(tmp_path / "z.db"))
    failed = failing(tmp_path, *command.split(), *store)
    assert failed.status == 2
    said = " ".join(failed.stderr.replace("│", " ").split())
    assert WRONG[command] in said
    assert "Value error" not in said


def test_accounts_are_still_made_with_add_which_no_help_names(tmp_path: Path) -> None:
    store = ("--store", made(tmp_path / "z.db"))
    here(tmp_path, "accounts", "add", "organization", "acme", *store)
    assert json.loads(here(tmp_path, "accounts", "show", "organization", "acme", "--json", *store))["id"] == "acme"
    assert " add " not in here(tmp_path, "accounts", "--help")


def test_an_organization_is_an_organisation(tmp_path: Path) -> None:
    store = ("--store", made(tmp_path / "z.db"))
    here(tmp_path, "accounts", "create", "organisation", "organization", *store)
    here(tmp_path, "accounts", "set-budget", "organisation", "organization", "5", *store)
    for option in (("--organisation", "organization"), ("--organisation=organization",)):
        made_key = json.loads(here(tmp_path, "keys", "create", *option, "--name", "organization", "--json", *store))
        assert (made_key["organization_id"], made_key["name"]) == ("organization", "organization")
    shown = json.loads(here(tmp_path, "accounts", "show", "organisations", "organization", "--json", *store))
    assert [budget["amount"] for budget in shown["budgets"]] == [5_000_000_000]
    assert "organisation" not in here(tmp_path, "accounts", "create", "--help")
    assert here(tmp_path, "usage", "--by", "organisation", *store).startswith("organization\t")


PASSWORD_URLS = (
    "postgresql://ann:s3cret@127.0.0.1:9/x",
    "postgres://ann:s3/cr?et@127.0.0.1:9/x",
    "postgresql://ann@127.0.0.1:9/x?password=s3cret",
)


@pytest.mark.parametrize("command", [("keys", "list"), ("ledger", "verify"), ("usage",)], ids=" ".join)
def test_a_password_is_not_taken_from_the_command_line(tmp_path: Path, command: tuple[str, ...]) -> None:
    """Everybody on the machine would see it in `ps`: the command ends, and says where to put it."""
    for url in PASSWORD_URLS:
        failed = failing(tmp_path, *command, "--store", url)
        assert (failed.status, failed.stdout, failed.stderr.count("\n")) == (2, "", 1)
        assert "PGPASSWORD" in failed.stderr
        assert "os.environ/NAME" in failed.stderr
        assert "s3" not in failed.stderr


def asked_for_a_password(found: list[bytes], port: "Queue[int]") -> None:
    """Takes one client of PostgreSQL, asks it for its password in the clear, and keeps it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(20)
        port.put(listener.getsockname()[1])
        client, _ = listener.accept()
        with client:
            while (begin := client.recv(4096))[4:8] != b"\0\x03\0\0":  # not yet: it asks for TLS first
                assert begin, "it left"
                client.sendall(b"N")
            client.sendall(b"R\0\0\0\x08\0\0\0\x03")
            found.append(client.recv(4096)[5:].rstrip(b"\0"))


@pytest.mark.parametrize("way", ["PGPASSWORD", "reference"])
def test_a_password_of_the_environment_reaches_the_store_and_nobody_sees_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    found: list[bytes] = []
    port: Queue[int] = Queue()
    server = Thread(target=asked_for_a_password, args=(found, port), daemon=True)
    server.start()
    place = f"127.0.0.1:{port.get(timeout=10)}/x"
    if way == "PGPASSWORD":
        monkeypatch.setenv("PGPASSWORD", "s3cret")
        named = f"postgresql://ann@{place}"
    else:
        monkeypatch.setenv("THE_STORE", f"postgresql://ann:s3cret@{place}")
        named = "os.environ/THE_STORE"
    failed = failing(tmp_path, "ledger", "verify", "--store", named)
    server.join(10)
    assert found == [b"s3cret"]
    assert failed.stderr.startswith(f"zuebee cannot use the store PostgreSQL at {place} (--store")
    assert "s3cret" not in failed.stderr
    failed = failing(tmp_path, "ledger", "verify", "--store", "os.environ/NOT_THERE")
    assert (failed.status, failed.stderr) == (2, "--store: the variable NOT_THERE is not set\n")


def test_a_database_without_a_store_stays_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with postgres_database() as url:
        monkeypatch.setenv("THE_STORE", url)
        named = "os.environ/THE_STORE"
        for command in (("keys", "list"), ("ledger", "verify"), ("usage",)):
            failed = failing(Path.cwd(), *command, "--store", named)
            assert (failed.status, "no store" in failed.stderr) == (1, True), failed.stderr
        made(url)
        assert here(Path.cwd(), "ledger", "verify", "--store", named).startswith("the ledger is right")


def test_a_command_in_another_folder_speaks_to_the_same_store_and_says_so(tmp_path: Path) -> None:
    config = configured(tmp_path / "conf", billing={"currency": "EUR"})
    made_for(config)
    made_id = json.loads(here(tmp_path / "conf", "keys", "create", "--json"))["id"]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shown = on_terminal(elsewhere, "keys", "revoke", made_id, "--config", "../conf/config.yaml")
    assert "/conf/data/zuebee.db (the default of `store.path`, beside ../conf/config.yaml)" in shown
    failed = failing(elsewhere, "keys", "revoke", "key_1", "--config", str(config))
    assert failed.stderr.splitlines()[0].startswith(f"store: {tmp_path}/conf/data/zuebee.db (")
    assert "there is no key `key_1`" in failed.stderr.splitlines()[1]
    failed = failing(elsewhere, "usage", "--store", "a.db", "export", "--config", str(config))
    assert (failed.status, failed.stderr) == (2, "--store stands behind `export`, not before it\n")


def test_a_store_where_it_was_before_is_not_followed_by_a_second(tmp_path: Path) -> None:
    old = tmp_path / "data" / "zuebee.db"
    made(old)
    config = configured(tmp_path / "conf", backends=[{"url": "http://127.0.0.1:9"}], api_keys=[], listen="127.0.0.1:0")
    failed = failing(tmp_path, "run", "--config", "conf/config.yaml", run=zuebee)
    assert failed.status == 1
    assert f"write `store.path: {old}`" in failed.stderr
    assert not (tmp_path / "conf" / "data").exists()
    assert f"There is a store at {old}" in failing(tmp_path, "keys", "list", "--config", "conf/config.yaml").stderr
    shutil.copytree(tmp_path / "data", tmp_path / "conf" / "data")
    here(tmp_path, "keys", "list", "--config", str(config))


def test_a_server_says_which_store_it_has(tmp_path: Path) -> None:
    with (
        simulated(tmp_path / "sim") as sim,
        running(tmp_path / "gateway", {"backends": [{"url": sim.url}], "store": {"path": "below/z.db"}, "usage": None}),
    ):
        log = (tmp_path / "gateway" / "gateway.log").read_text()
    assert f"store: {tmp_path}/gateway/below/z.db" in log


def test_tables_fit_the_terminal_and_pipes_get_plain_rows(tmp_path: Path) -> None:
    store = ("--store", made(tmp_path / "z.db"))
    here(tmp_path, "accounts", "create", "organization", "an-organization-with-a-long-name", *store)
    ids = []
    for name in ("a key with a name that goes on and on and on", "x"):
        command = ("keys", "create", "--organization", "an-organization-with-a-long-name", "--name", name, "--json")
        ids.append(json.loads(here(tmp_path, *command, *store))["id"])
    for columns in (80, 60, 132):
        seen = on_terminal(tmp_path, "keys", "list", *store, columns=columns)
        lines = re.sub(r"\x1b\[[0-9;]*m", "", seen).splitlines()[1:]
        assert max(map(len, lines)) <= max(columns, 60), seen
        assert all(any(each in line for line in lines) for each in ids)
        assert "team" not in seen.partition("No room")[0]
    wide = on_terminal(tmp_path, "keys", "list", "-o", "wide", *store)
    assert "sk-zuebee-..." in wide
    header, *rows = here(tmp_path, "keys", "list", *store).splitlines()
    assert header.split("\t")[:3] == ["id", "key", "name"]
    assert [row.split("\t")[0] for row in rows] == ids
    assert all(row.count("\t") == header.count("\t") and "\x1b" not in row for row in rows)


def test_json_is_of_one_shape_with_times(tmp_path: Path) -> None:
    store = ("--store", made(tmp_path / "z.db"))
    organization = json.loads(here(tmp_path, "accounts", "create", "organization", "acme", "-o", "json", *store))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", organization["created_at"])
    assert organization["plan_ends_at"] is None
    for command in (("keys", "list"), ("accounts", "list", "user"), ("plans", "list"), ("accounts", "invoices"),
                    ("accounts", "payments", "acme"), ("usage",), ("usage", "outbox"), ("usage", "export"),
                    ("ledger", "holds"), ("ledger", "verify")):  # fmt: skip
        for flag in (("--json",), ("-o", "json"), ("--format", "json")):
            said = json.loads(here(tmp_path, *command, *flag, *store))
            assert said["items"] == [], command
    assert not re.search(r'_at_s"', here(tmp_path, "accounts", "show", "organization", "acme", "--json", *store))


def test_long_work_says_how_far_it_is_on_a_terminal_only(tmp_path: Path) -> None:
    old = tmp_path / "old.db"
    migrate.upgrade(str(old), "0004")
    copy = shutil.copy(old, tmp_path / "copy.db")
    zuebee(tmp_path, "keys", "list", "--store", str(copy))
    assert "the ledger is right" in on_terminal(tmp_path, "ledger", "verify", "--store", str(copy))
    script = "from zuebee.cli.show import Progress; p = Progress('verifying'); p._due_s = 0; p('7 entries'); p.end()"
    piped = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert piped.stderr == b""


def test_short_flags_and_completion(tmp_path: Path) -> None:
    assert here(tmp_path, "-V") == here(tmp_path, "--version")
    for command in ((), ("usage",), ("keys", "list"), ("ledger", "verify")):
        assert "Usage: " in here(tmp_path, *command, "-h")
    for shell in ("bash", "zsh", "fish"):
        assert "_ZUEBEE_COMPLETE" in here(tmp_path, "completion", shell)
    assert failing(tmp_path, "completion", "tcsh").status == 2
    script = tmp_path / "completion.bash"
    script.write_text(here(tmp_path, "completion", "bash"))
    program = Path(sys.executable).parent / "zuebee"
    ask = f"source {script}; COMP_WORDS=({program} ledger ver); COMP_CWORD=2; _zuebee_completion {program}"
    done = subprocess.run(["bash", "-c", f"{ask}; echo ${{COMPREPLY[@]}}"], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["verify"], done
