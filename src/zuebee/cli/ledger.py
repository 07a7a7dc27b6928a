"""`zuebee ledger`: is it right, what does an account have, what is held?"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn

import msgspec
import typer

from zuebee import config
from zuebee.config import Settings
from zuebee.config.file import ConfigError, load
from zuebee.kit import clock
from zuebee.kit.timestamps import rfc3339

DAY_S = 86_400.0
SHOWN = 20

app = typer.Typer(help="The ledger: verify it, look into it.", no_args_is_help=True)

ConfigOption = Annotated[str, typer.Option("--config", "-c", help="The configuration file.")]
StoreOption = Annotated[
    str, typer.Option("--store", help="A SQLite file or a postgresql:// URL, instead of the configuration's.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]


@app.command("verify")
def verify(
    path: ConfigOption = "config.yaml",
    store: StoreOption = "",
    as_json: JsonOption = False,
    every: Annotated[bool, typer.Option("--all", help="Every violation, not only the first.")] = False,
) -> None:
    """Check that the ledger adds up (docs/billing.md). Exit status: 0 it does, 1 it does not, 2 it cannot be read."""
    from zuebee.billing import look
    from zuebee.billing.verify import SWEEP_S

    where, settings = _where(path, store)
    since_s = 0.0
    if settings is not None and settings.usage.retention_days:
        since_s = clock.wall_s() - (settings.usage.retention_days - 1) * DAY_S
    count = 0
    with _reading(where) as connection:
        for violation in look.violations(connection, sweep_s=SWEEP_S, records_since_s=since_s):
            count += 1
            if as_json:
                _line(violation._asdict())
            else:
                typer.echo(f"{violation.invariant} {violation.account or '-'}: {violation.text}")
            if not every:
                break
        entries = look.count_entries(connection) if not count else 0
    if count:
        raise typer.Exit(1)
    if as_json:
        _line({"entries": entries, "violations": 0})
    else:
        typer.echo(f"the ledger is right: {entries} entries, no violation")


@app.command("show")
def show(
    account: Annotated[str, typer.Argument(help="Its name, such as `key:ID/tokens/monthly`.")],
    path: ConfigOption = "config.yaml",
    store: StoreOption = "",
    as_json: JsonOption = False,
) -> None:
    """Show the balances of an account, newest period first, and its last entries."""
    from zuebee.billing import look

    with _reading(_where(path, store)[0]) as connection:
        balances, entries = look.account(connection, account, SHOWN)
    if not balances:
        _fail(f"there is no account {account} in the ledger")
    if as_json:
        _line({"balances": balances, "entries": entries})
        return
    for balance in balances:
        starts = "" if balance["period"] == "never" else f" from {rfc3339(balance['starts_at_s'])[:10]}"
        typer.echo(f"{account} ({balance['unit']}, {balance['period']}{starts})")
        names = ("granted", "used", "held", "available", "overdraft")
        typer.echo("  " + "  ".join(f"{name} {balance[name]}" for name in names))
    typer.echo("last entries, newest first: when, what, tokens, nano-units, for which request")
    for entry in entries:
        when = rfc3339(entry["at_s"])
        typer.echo(f"  {when}  {entry['kind']:<9} {entry['tokens']:>12} {entry['cost_nano']:>16}  {entry['hold']}")


@app.command("holds")
def holds(
    path: ConfigOption = "config.yaml",
    store: StoreOption = "",
    as_json: JsonOption = False,
    every: Annotated[bool, typer.Option("--all", help=f"All of them, not only the {SHOWN} that end first.")] = False,
) -> None:
    """Show what is held for requests that run, the first to expire first."""
    from zuebee.billing import look

    with _reading(_where(path, store)[0]) as connection:
        found, total = look.open_holds(connection, 1 << 62 if every else SHOWN)
    for hold in found:
        if as_json:
            _line(hold)
        else:
            left = f"expires in {hold['expires_in_s']:.0f} s"
            typer.echo(f"{hold['hold']}  {hold['tokens']} tokens  {hold['cost_nano']} nano-units  {left}")
    if not as_json:
        typer.echo(f"{total} open")


def _where(path: str, store: str) -> tuple[str, Settings | None]:
    settings = None
    if not store:
        if not Path(path).exists():
            _fail(f"There is no {path}. Name one with --config, or a database with --store.")
        try:
            settings = load(path, config.environment()).settings
        except ConfigError as error:
            _fail("\n".join(error.problems))
        store = settings.store.url or settings.store.path
    if "://" not in store and not Path(store).is_file():
        _fail(f"There is no database {store} yet; the gateway makes it at its start.")
    return store, settings


@contextmanager
def _reading(store: str) -> Iterator[Any]:
    from zuebee.billing import look
    from zuebee.kit.database import DatabaseError

    try:
        with look.reading(store) as connection:
            yield connection
    except (DatabaseError, ValueError) as error:
        _fail(f"The store cannot be read: {error}")


def _line(value: dict[str, Any]) -> None:
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")


def _fail(message: str) -> NoReturn:
    typer.echo(message, err=True)
    raise typer.Exit(2)
