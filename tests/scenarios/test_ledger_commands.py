"""`zuebee ledger`: what an operator sees of a ledger, as the command line shows it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import commands
from tests.support.commands import Failed, here
from tests.support.ledger_history import change, write_history


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_history(tmp_path / "z.db", rounds=2)
    return tmp_path / "z.db"


def zuebee(*arguments: str, run: Callable[..., str] = here) -> tuple[int, str, str]:
    """Status and both outputs; within our process unless `run` is told to start one."""
    try:
        return 0, run(Path.cwd(), "ledger", *arguments), ""
    except Failed as failed:
        return failed.status, failed.stdout, failed.stderr


def test_a_right_ledger_is_said_to_be_right(path: Path) -> None:
    status, out, _ = zuebee("verify", "--store", str(path), run=commands.zuebee)
    assert (status, out) == (0, "the ledger is right: 32 entries, no violation\n")
    assert json.loads(zuebee("verify", "--store", str(path), "--json")[1]) == {"entries": 32, "violations": 0}


@pytest.mark.requirement("A098")
def test_the_first_violation_is_shown_and_all_on_demand(path: Path) -> None:
    change(path, "UPDATE ledger_balances SET used = used + 1", "DELETE FROM usage_records")
    status, out, _ = zuebee("verify", "--store", str(path), run=commands.zuebee)
    assert status == 1
    assert len(out.splitlines()) == 1
    assert out.startswith("I1 key:k/tokens/daily: granted, held, used, overdraft are ")
    status, out, _ = zuebee("verify", "--store", str(path), "--all", "--json")
    assert status == 1
    assert {json.loads(line)["invariant"] for line in out.splitlines()} == {"I1", "I8"}


def test_an_account_is_shown_with_its_last_entries(path: Path) -> None:
    status, out, _ = zuebee("show", "key:k/tokens/daily", "--store", str(path))
    assert status == 0
    assert "key:k/tokens/daily (tokens, daily from 2026-11-14)" in out
    assert "  granted 1000000000  used 450  held 20  available 999999530  overdraft 90" in out
    assert "open-1" in out
    shown = json.loads(zuebee("show", "key:k/tokens/daily", "--store", str(path), "--json")[1])
    assert shown["balances"][0]["available"] == 999999530


def test_open_holds_are_shown(path: Path) -> None:
    status, out, _ = zuebee("holds", "--store", str(path))
    assert status == 0
    assert out.endswith("2 open\n")
    assert out.startswith("open-0  10 tokens  20 nano-units  expires in ")
    lines = zuebee("holds", "--store", str(path), "--json", "--all")[1].splitlines()
    assert [json.loads(line)["hold"] for line in lines] == ["open-0", "open-1"]


def test_what_cannot_be_read_is_one_line_that_says_why(path: Path, tmp_path: Path) -> None:
    for arguments in (
        ("verify", "--store", str(tmp_path / "none.db")),
        ("verify", "--config", str(tmp_path / "none.yaml")),
        ("show", "nobody", "--store", str(path)),
        ("holds", "--store", "postgresql://nobody@127.0.0.1:9/none"),
    ):
        status, _, err = zuebee(*arguments, run=commands.zuebee)
        assert status == 2
        assert len(err.splitlines()) == 1, err
