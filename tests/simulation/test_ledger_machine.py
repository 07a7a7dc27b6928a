"""The ledger under its state machine: in memory, on SQLite, on PostgreSQL; and the machine under broken ledgers.

`PROOF_STEPS` says how many steps `make proof` takes in all (2,000,000 unless set); 5 of 6 in memory, the rest in files.
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from tests.support.databases import postgres_database
from tests.support.ledger_machine import run
from tests.support.ledger_postgres import OnPostgres
from tests.support.ledger_targets import InMemory, OnSqlite
from tests.support.source import ROOT
from zuebee.schema.prepare import prepare

pytestmark = pytest.mark.slow

# Ten times as many as the mutant takes that is hardest to see; the stores write what the same ledger decides.
IN_MEMORY_STEPS = 75_000
SQLITE_STEPS = 10_000
POSTGRES_STEPS = 2_000
PROOF_STEPS = int(os.environ.get("PROOF_STEPS", "2000000"))
FRESH_SEED = 1_000_000

LEDGER = ROOT / "src/zuebee/ledger/ledger.py"

# Each takes one guard out of the ledger.
MUTANTS = {
    "no look at what is available": ("if asked > left:", "if False:"),
    "one more than available": ("if asked > left:", "if asked > left + 1:"),
    "one less than available": ("if asked > left:", "if asked >= left and asked:"),
    "only the first level is asked": (
        "        for balance in path.balances:\n            asked",
        "        for balance in path.balances[:1]:\n            asked",
    ),
    "levels before the short one keep the hold": (
        "            if asked > left:\n",
        "            if asked <= left:\n                balance.held += asked\n            if asked > left:\n",
    ),
    "the hold counts in the first level only": (
        '        for balance in path.balances:\n            balance.add("reserve"',
        '        for balance in path.balances[:1]:\n            balance.add("reserve"',
    ),
    "a reserve is not known again": (
        "        if known is not None:\n            return known\n        tokens",
        "        tokens",
    ),
    "a resolution happens again": (
        'if hold.state == "open":\n            return self._resolve',
        "if True:\n            return self._resolve",
    ),
    "a void after a resolution": (
        'if hold.state == "open" else hold\n\n    def expire',
        'if True else hold\n\n    def expire',
    ),
    "a late settlement is lost": ('if hold.state == "expired":', "if False:"),
    "a late settlement counts again": ('        hold.state = "adjusted"\n', ""),
    "a late settlement forgets what was charged": (
        "max(0, _checked(amount.tokens) - hold.charged.tokens)",
        "_checked(amount.tokens)",
    ),
    "an extension adds instead of reaching": ("max(0, amount.tokens - hold.tokens)", "amount.tokens"),
    "an extension of what is resolved": (
        'if hold.state != "open" or not (tokens or cost_nano):',
        "if not (tokens or cost_nano):",
    ),
    "an extension is not part of the hold": ("        hold.cost_nano += cost_nano\n", ""),
    "too little is released": (
        "held, used = hold.tokens, amount.tokens", "held, used = min(hold.tokens, amount.tokens), amount.tokens",
    ),
    "what exceeds the hold is not charged": ("if tokens > posted_tokens or cost_nano > posted_cost:", "if False:"),
    "an overdraft is not declared": (
        'balance.add("adjust", tokens if balance.unit == TOKENS else cost_nano, 0)',
        "balance.used += tokens if balance.unit == TOKENS else cost_nano",
    ),
    "an expiry charges nothing": ('"expire", "expired", hold.progress', '"expire", "expired", NOTHING'),
    "what is owed to one is given to others": ("balance.held - balance.owed", "balance.held"),
    "what is owed stays so": ("            self._owe(hold, -owed.tokens, -owed.cost_nano)\n", "            pass\n"),
    "what is owed is not given to whom it is owed": ("self._owe(hold, -owed_tokens, -owed_nano)", "pass"),
    "what is left is given to less than the least": ("if asked > left or left <= 0:", "if left <= 0:"),
    "more than is left is held": ("tokens = min(tokens, left)", "pass"),
    "units are mixed up": ("asked = tokens if balance.unit == TOKENS else cost_nano", "asked = tokens"),
    "a limit falls below what is used": ("max(0, balance.available + balance.overdraft))", "balance.limited)"),
    "a raised limit is granted whole": ("more = min(limit - balance.limited,", "more = min(limit,"),
    "a period never ends": ("starts_at_s = period_start_s(budget.period, now_s)", "starts_at_s = 0.0"),
    "a path outlives its period": ("if path.starts_at_s <= now_s < path.ends_at_s else None", ""),
    "ids of limits come again": (
        "                balance.changes += 1\n        if first",
        "            balance.changes += 1\n        if first",
    ),
    "an entry is not written": ('self.changes.entries.append(Entry("extend"', '(lambda entry: None)(Entry("extend"'),
}  # fmt: skip


@pytest.fixture(scope="module")
def postgres_url() -> Iterator[str]:
    with postgres_database() as url:
        prepare(url)
        yield url


@pytest.mark.requirement("A098", "A099")
def test_no_order_of_calls_breaks_the_ledger() -> None:
    assert run(InMemory, IN_MEMORY_STEPS) >= IN_MEMORY_STEPS


@pytest.mark.requirement("A098", "A099")
def test_no_order_of_calls_and_crashes_breaks_the_ledger_on_sqlite(tmp_path: Path) -> None:
    assert run(lambda: OnSqlite(tmp_path / "z.db"), SQLITE_STEPS) >= SQLITE_STEPS


@pytest.mark.requirement("A098", "A099", "A106")
def test_no_order_of_calls_and_crashes_breaks_the_ledger_on_postgres(postgres_url: str) -> None:
    assert run(lambda: OnPostgres(postgres_url), POSTGRES_STEPS, steps_each=100) >= POSTGRES_STEPS


def test_what_is_freed_meanwhile_is_taken_back_for_a_limit_that_was_lowered_in_part(postgres_url: str) -> None:
    """This seed found it: what a process remembered of a balance hid what another's top-up had freed."""
    assert run(lambda: OnPostgres(postgres_url), 100, first_seed=FRESH_SEED + 265, steps_each=100) == 100


@pytest.mark.proof
def test_two_million_steps(tmp_path: Path, postgres_url: str) -> None:
    in_memory = run(InMemory, PROOF_STEPS * 5 // 6, first_seed=FRESH_SEED)
    sqlite = run(lambda: OnSqlite(tmp_path / "z.db"), PROOF_STEPS * 9 // 60, first_seed=FRESH_SEED)
    postgres = run(lambda: OnPostgres(postgres_url), PROOF_STEPS // 60, first_seed=FRESH_SEED, steps_each=100)
    print(f"{in_memory} steps in memory, {sqlite} on SQLite, {postgres} on PostgreSQL")
    assert in_memory + sqlite + postgres >= PROOF_STEPS


@pytest.mark.parametrize("name", MUTANTS)
@pytest.mark.plain
def test_a_ledger_without_one_of_its_guards_is_seen(name: str) -> None:
    module = _mutant(*MUTANTS[name])
    with pytest.raises((AssertionError, KeyError)):
        run(lambda: InMemory(module), IN_MEMORY_STEPS, shorten=False)


def _mutant(old: str, new: str) -> ModuleType:
    text = LEDGER.read_text()
    assert text.count(old) == 1, f"{text.count(old)} times in the source of the ledger: {old}"
    module = ModuleType("zuebee_mutant_ledger")
    sys.modules[module.__name__] = module  # msgspec looks up the names of types there
    exec(compile(text.replace(old, new), str(LEDGER), "exec"), module.__dict__)
    return module
