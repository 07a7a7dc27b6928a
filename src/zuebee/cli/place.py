"""Which store a command speaks to: found, opened, and said."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from zuebee.cli import show
from zuebee.cli.show import Form
from zuebee.config.load import ConfigError
from zuebee.config.paths import named_store, password_in
from zuebee.config.settings_base import environment
from zuebee.config.settings_billing import BillingSettings, StoreSettings, UsageSettings

FAILED, MISUSED = 1, 2
"""Exit statuses: what was asked for is not so or could not be done; the command or the configuration is wrong."""

ConfigOption = Annotated[str, typer.Option("--config", "-c", help="The configuration file; its `store` is used.")]
StoreOption = Annotated[
    str | None,
    typer.Option(
        "--store",
        help="SQLite file, postgresql:// URL without a password, or os.environ/NAME; the configuration is not read.",
    ),
]
REFERENCE = "os.environ/"
SEEN = (
    "everybody on this machine can see a password on the command line, with `ps`. Leave it out and set "
    "PGPASSWORD, or write it to ~/.pgpass; or put the whole URL into a variable and say `--store os.environ/NAME`. "
    "Change this password: others may have seen it"
)


@dataclass(frozen=True)
class Chosen:
    """A store, and what the configuration says about it. `currency` is empty where there is no configuration."""

    store: StoreSettings
    source: str
    currency: str = ""
    usage: UsageSettings = field(default_factory=UsageSettings)
    before: Path | None = None
    """Where versions before this one looked for it, if that is another place and something is there."""

    @property
    def place(self) -> str:
        """Where it is, for people. Ends the command if nobody can tell."""
        from zuebee.app.connect import store_place

        try:
            return store_place(self.store)
        except OSError as error:
            give_up(f"{self.source}: {error}", MISUSED)

    def fails(self, reason: object) -> NoReturn:
        """End the command: the store cannot be used. All commands say it in this form."""
        hint = f". There is a store at {self.before}, where earlier versions looked for it" if self.before else ""
        give_up(
            f"zuebee cannot use the store {self.place} ({self.source}): {_without(str(reason), self.store.path)}{hint}"
        )

    def say(self, form: Form) -> None:
        """Say which store it is, on standard error; not beside JSON."""
        if form != "json":
            show.note(f"store: {self.place} ({self.source})")


def chosen(path: str, store: str | None, *, spool: bool = False) -> Chosen:
    """The store that the command line names, else that of the configuration. Ends the command if there is none.

    `spool`: `store.spool_path` must be right as well, which only the server uses else.
    """
    if store is not None:
        return _named(store)
    if not Path(path).exists():
        give_up(f"There is no {path}. Name a configuration file with --config, or a store with --store.", MISUSED)
    from zuebee.app.connect import left_behind
    from zuebee.config.load import load_part

    try:
        part = load_part(path, environment(), spool=spool)
    except ConfigError as error:
        give_up("\n".join(error.problems), MISUSED)
    before = None
    try:
        left_behind(part.as_written, part.store)
    except OSError:
        before = Path(part.as_written.path).absolute()
    return Chosen(
        part.store, part.source, part.billing.currency, part.usage, before if part.store.url is None else None
    )


def _named(store: str) -> Chosen:
    """The store that stands on the command line, or in the variable that is named there."""
    source, name = "--store", store
    if store.startswith(REFERENCE):
        variable = store.removeprefix(REFERENCE)
        source, name = f"--store {store}", environment().get(variable, "")
        if not name:
            give_up(f"--store: the variable {variable} is not set", MISUSED)
    try:
        settings = named_store(name)
    except ValueError as error:
        give_up(f"{source}: {error}", MISUSED)
    if settings.url is not None and name is store and password_in(store):
        give_up(f"--store: {SEEN}", MISUSED)
    return Chosen(settings, source)


@contextmanager
def open_accounts(path: str, store: str | None, form: Form) -> Iterator[Any]:
    """The store as `Administration`."""
    from zuebee.app.operations import CannotOpen, administration

    here = chosen(path, store)
    progress = show.Progress("migrating")
    try:
        with administration(here.store, here.currency, progress) as opened:
            progress.end()
            here.say(form)
            yield opened
    except CannotOpen as error:
        progress.end()
        here.fails(error)


@contextmanager
def open_usage(path: str, store: str | None, form: Form) -> Iterator[Any]:
    """The store as `UsageDesk`."""
    from zuebee.app.operations import CannotRead, usage_desk

    here = chosen(path, store)
    progress = show.Progress("migrating")
    try:
        with usage_desk(here.store, here.usage, here.currency or BillingSettings().currency, progress) as desk:
            progress.end()
            here.say(form)
            yield desk
    except CannotRead as error:
        progress.end()
        here.fails(error)


@contextmanager
def open_ledger(here: Chosen, form: Form) -> Iterator[Any]:
    """A connection to the store, for reading only; it is left as it is."""
    from zuebee.ledger import audit
    from zuebee.lib.sql.database import DatabaseError
    from zuebee.schema.version import SchemaError, current_version

    place = here.store.url or here.store.path
    try:
        if not current_version(place):
            missing = here.store.url is None and not Path(here.store.path).is_file()
            here.fails(
                "the file does not exist; `zuebee run` creates it"
                if missing
                else "there is no store of this version yet; `zuebee run` creates it"
            )
        with audit.reading(place) as connection:
            here.say(form)
            yield connection
    except (DatabaseError, SchemaError, ValueError, OSError) as error:
        here.fails(error)


def give_up(message: str, status: int = FAILED) -> NoReturn:
    """One message on standard error, and the end of the command."""
    typer.echo(message, err=True)
    raise typer.Exit(status)


def _without(reason: str, place: str) -> str:
    """The reason, without the place at its beginning: it is said before."""
    rest = reason.removeprefix(place)
    return rest.lstrip(": ") if rest != reason else reason
