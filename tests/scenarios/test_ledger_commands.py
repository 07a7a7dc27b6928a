"""`zuebee ledger`: what an operator sees of a ledger, as the command line shows it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import commands
from tests.support.commands import Failed, here
from tests.support.ledger_history import change, write_history
from tests.support.stores import made


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made(tmp_path / "z.db")
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
    assert json.loads(zuebee("verify", "--store", str(path), "--json")[1]) == {
        "right": True,
        "entries": 32,
        "items": [],
    }


@pytest.mark.requirement("A098")
def test_the_first_violation_is_shown_and_all_on_demand(path: Path) -> None:
    change(path, "UPDATE ledger_balances SET used = used + 1", "DELETE FROM usage_records")
    status, out, _ = zuebee("verify", "--store", str(path), run=commands.zuebee)
    assert status == 1
    assert len(out.splitlines()) == 1
    assert out.startswith("I1 key:k/tokens/daily: granted, held, used, overdraft are ")
    status, out, _ = zuebee("verify", "--store", str(path), "--all", "--json")
    assert status == 1
    said = json.loads(out)
    assert said["right"] is False
    assert {each["invariant"] for each in said["items"]} == {"I1", "I8"}


def test_an_account_is_shown_with_its_last_entries(path: Path) -> None:
    status, out, _ = zuebee("show", "key:k/tokens/daily", "--store", str(path))
    assert status == 0
    assert "unit\tperiod\tfrom\tgranted\tused\theld\tavailable\toverdraft\n" in out
    assert "tokens\tdaily\t2026-11-14\t1000000000\t450\t20\t999999530\t90\n" in out
    assert "open-1" in out
    shown = json.loads(zuebee("show", "key:k/tokens/daily", "--store", str(path), "--json")[1])
    assert shown["balances"][0]["available"] == 999999530


def test_open_holds_are_shown(path: Path) -> None:
    status, out, _ = zuebee("holds", "--store", str(path))
    assert status == 0
    header, first, second = out.splitlines()
    assert header.startswith("request\ttokens\tnano-")
    assert first.startswith("open-0\t10\t20\t")
    assert second.startswith("open-1\t")
    said = json.loads(zuebee("holds", "--store", str(path), "--json", "--all")[1])
    assert (said["open"], [each["hold"] for each in said["items"]]) == (2, ["open-0", "open-1"])
    assert said["items"][0]["expires_at"].endswith("Z")


def test_what_cannot_be_read_is_one_line_that_says_why(path: Path, tmp_path: Path) -> None:
    for run, expected, *arguments in (
        (commands.zuebee, 1, "verify", "--store", str(tmp_path / "none.db")),
        (here, 2, "verify", "--config", str(tmp_path / "none.yaml")),
        (here, 1, "show", "nobody", "--store", str(path), "--json"),
        (here, 1, "holds", "--store", "postgresql://nobody@127.0.0.1:9/none"),
    ):
        status, _, err = zuebee(*map(str, arguments), run=run)
        assert status == expected
        assert len(err.splitlines()) == 1, err
    assert not (tmp_path / "none.db").exists()


def test_the_ends_of_the_chains_are_kept_and_looked_for(path: Path, tmp_path: Path) -> None:
    kept = tmp_path / "heads"
    assert zuebee("verify", "--store", str(path), "--heads", str(kept))[0] == 0
    [head] = map(json.loads, kept.read_text().splitlines())
    assert (head["owner"], head["sequence"], len(head["hash"])) == (1, 2, 64)
    assert zuebee("verify", "--store", str(path), "--heads", "-")[1].startswith(kept.read_text())
    assert zuebee("verify", "--store", str(path), "--since", str(kept))[0] == 0
    kept.write_text(kept.read_text().replace(head["hash"], "f" * 64))
    status, out, _ = zuebee("verify", "--store", str(path), "--since", str(kept), "--heads", str(tmp_path / "more"))
    assert (status, out) == (1, "I5 -: owner 1: batch 2 once had another hash\n")
    assert not (tmp_path / "more").exists(), "a ledger that is not right has no ends worth keeping"
    for broken in ("nonsense", ""):
        kept.write_text(broken)
        assert zuebee("verify", "--store", str(path), "--since", str(kept))[0] == (2 if broken else 0)
    assert zuebee("verify", "--store", str(path), "--since", str(tmp_path / "nowhere"))[0] == 2
    assert zuebee("verify", "--store", str(path), "--heads", str(tmp_path / "nowhere" / "heads"))[0] == 1
