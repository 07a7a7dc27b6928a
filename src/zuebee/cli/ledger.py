"""`zuebee ledger`: is it right, what does an account have, what is held?"""

import sys
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import typer
from msgspec.structs import asdict

from zuebee.cli import show as shown
from zuebee.cli.place import FAILED, MISUSED, ConfigOption, StoreOption, chosen, give_up, open_ledger
from zuebee.cli.show import FormOption
from zuebee.lib import clock
from zuebee.lib.timestamps import rfc3339

DAY_S = 86_400.0
SHOWN = 20

app = typer.Typer(help="The ledger: verify it, show accounts and holds.", no_args_is_help=True)


@app.command("verify")
def verify(
    path: ConfigOption = "config.yaml",
    store: StoreOption = None,
    form: FormOption = "table",
    every: Annotated[bool, typer.Option("--all", help="Show every violation, not only the first.")] = False,
    heads: Annotated[
        str,
        typer.Option(
            "--heads", help="If the ledger is right, write the ends of its hash chains to this file (-: print them)."
        ),
    ] = "",
    since: Annotated[
        str, typer.Option("--since", help="Check that the ends in this file, written by --heads, are still there.")
    ] = "",
) -> None:
    """Check that the ledger adds up (docs/billing.md). Exit status: 0 it does, 1 it does not or cannot be read."""
    from zuebee.ledger import audit
    from zuebee.ledger.audit import SWEEP_S

    try:
        kept = audit.heads_from(Path(since).read_text()) if since else []
    except (OSError, ValueError) as error:
        give_up(f"--since: {since} cannot be read: {error}", MISUSED)

    here = chosen(path, store)
    since_s = 0.0
    if here.usage.retention_days:
        since_s = clock.wall_s() - (here.usage.retention_days - 1) * DAY_S
    wrong: list[dict[str, Any]] = []
    progress = shown.Progress("verifying")
    with open_ledger(here, form) as connection:
        found = audit.violations(connection, sweep_s=SWEEP_S, records_since_s=since_s, said=progress)
        for violation in chain(found, audit.missing(connection, kept)):
            progress.end()
            wrong.append(violation._asdict())
            if form != "json":
                typer.echo(f"{violation.invariant} {violation.account or '-'}: {violation.text}")
            if not every:
                break
        progress.end()
        entries = audit.count_entries(connection)
        ends = audit.heads_of(connection) if heads and not wrong else []
    if not wrong and heads not in ("", "-"):
        _keep(heads, audit.heads_text(ends))
    if form == "json":
        printed = {"heads": [asdict(each) for each in ends]} if heads == "-" else {}
        shown.as_json({"right": not wrong, "entries": entries, "items": wrong, **printed})
    elif not wrong:
        sys.stdout.write(audit.heads_text(ends) if heads == "-" else "")
        typer.echo(f"the ledger is right: {entries} entries, no violation")
    if wrong:
        raise typer.Exit(FAILED)


@app.command("show")
def show(
    account: Annotated[str, typer.Argument(help="Its name, such as `key:ID/tokens/monthly`.")],
    path: ConfigOption = "config.yaml",
    store: StoreOption = None,
    form: FormOption = "table",
) -> None:
    """Show the balances of an account, newest period first, and its last entries."""
    from zuebee.ledger import audit

    with open_ledger(chosen(path, store), form) as connection:
        balances, entries = audit.account(connection, account, SHOWN)
        currency = audit.currency(connection)
    if not balances:
        give_up(f"there is no account {account} in the ledger")
    if form == "json":
        shown.as_json({"account": account, "balances": balances, "entries": entries})
        return
    names = ("granted", "used", "held", "available", "overdraft")
    rows = [(each["unit"], each["period"], _date(each), *(str(each[name]) for name in names)) for each in balances]
    columns = ("unit", "period", "from", *names)
    shown.as_table(f"Balances of {account}", columns, rows, form=form, numbers=names, less=("unit", "overdraft"))
    unit = f"nano-{currency}" if currency else "nano-units"
    lines = [
        (rfc3339(each["at_s"]), each["kind"], str(each["tokens"]), str(each["cost_nano"]), each["hold"])
        for each in entries
    ]
    names = ("time", "what", "tokens", unit, "request")
    shown.as_table("Last entries, newest first", names, lines, form=form, numbers=names[2:4], less=("time",))


def _date(balance: dict[str, Any]) -> str:
    return "" if balance["period"] == "never" else rfc3339(balance["starts_at_s"])[:10]


@app.command("holds")
def holds(
    path: ConfigOption = "config.yaml",
    store: StoreOption = None,
    form: FormOption = "table",
    every: Annotated[
        bool, typer.Option("--all", help=f"Show all holds, not only the {SHOWN} that expire first.")
    ] = False,
) -> None:
    """Show what is held in budgets for running requests; those that expire first come first."""
    from zuebee.ledger import audit

    with open_ledger(chosen(path, store), form) as connection:
        found, total = audit.open_holds(connection, 1 << 62 if every else SHOWN)
        currency = audit.currency(connection)
    if form == "json":
        shown.as_json({"items": found, "open": total})
        return
    unit = f"nano-{currency}" if currency else "nano-units"
    columns = ("request", "tokens", unit, "expires in s")
    rows = [
        (hold["hold"], str(hold["tokens"]), str(hold["cost_nano"]), f"{hold['expires_in_s']:.0f}") for hold in found
    ]
    shown.as_table(f"{total} open holds", columns, rows, form=form, numbers=columns[1:], less=("tokens",))
    if total > len(found):
        shown.note(f"{total} holds are open. To see all of them: --all")


def _keep(path: str, text: str) -> None:
    """As a whole or not at all: it takes the place of the one before."""
    new = Path(f"{path}.new")
    try:
        new.write_text(text)
        new.replace(path)
    except OSError as error:
        give_up(f"{path} cannot be written: {error}")
