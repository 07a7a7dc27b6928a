"""What the commands about accounts have in common: their options, and how an order is carried out."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from zuebee.accounts.schemas import TOKENS, AccountsError, read_amount, read_time_s, show_amount
from zuebee.cli.place import FAILED, MISUSED, ConfigOption, StoreOption, open_accounts
from zuebee.cli.show import Form, FormOption
from zuebee.lib import clock
from zuebee.lib.nearest import did_you_mean
from zuebee.lib.units import Duration

Config = ConfigOption
Store = StoreOption
Output = FormOption
Name = Annotated[str | None, typer.Option("--name", help="Its display name.")]
Plan = Annotated[str | None, typer.Option("--plan", help="Its plan; '' for none.")]
PlanEnds = Annotated[
    str | None, typer.Option("--plan-ends", help="When the plan ends: a time, a date, `30d` from now, or never.")
]
Models = Annotated[
    list[str] | None,
    typer.Option("--model", help="A model it may use; `*` at the end matches any rest; '' for all. Repeatable."),
]
Endpoints = Annotated[
    list[str] | None, typer.Option("--endpoint", help="A path it may use, like /v1/embeddings; '' for all. Repeatable.")
]
Limits = Annotated[
    list[str] | None, typer.Option("--limit", help="Such as requests_per_minute=60; '' for none. Repeatable.")
]
Tags = Annotated[list[str] | None, typer.Option("--tag", help="A tag; '' for none. Repeatable.")]
Budgets = Annotated[
    list[str] | None,
    typer.Option("--budget", help="25.50/monthly, 1000000:tokens/daily, prepaid or prepaid:tokens. Repeatable."),
]
Count = Annotated[int, typer.Option("--count", help="Number of rows on a page.", min=1, max=1000)]
After = Annotated[str, typer.Option("--after", help="Start the page after this id.")]

OPTION_OF = {
    "organization_id": "--organization",
    "team_id": "--team",
    "user_id": "--user",
    "plan": "--plan",
    "plan_ends_at_s": "--plan-ends",
    "models": "--model",
    "endpoints": "--endpoint",
    "limits": "--limit",
    "tags": "--tag",
    "name": "--name",
    "role": "--role",
    "state": "--state",
    "priority": "--priority",
    "billing": "--billing",
    "budgets": "--budget",
    "allowed_ips": "--allow-ip",
    "denied_ips": "--deny-ip",
    "starts_at_s": "--starts",
    "expires_at_s": "--expires",
    "unit": "--unit",
    "period": "--period",
    "payment": "--payment",
    "month": "--month",
    "overlap": "--overlap",
    "after": "--after",
    "by": "--by",
}


@contextmanager
def opened(config: str, store: str | None, form: Form) -> Iterator[Any]:
    """The store for one command. What goes wrong is one line on standard error that names the argument, and exit
    status 2 for a mistake in the order, 1 for all else: no such thing, or it stands against what is there.
    """
    with saying_errors(), open_accounts(config, store, form) as administration:
        yield administration


@contextmanager
def saying_errors() -> Iterator[None]:
    """AccountsError as a message and an exit status."""
    try:
        yield
    except AccountsError as error:
        first = error.field.partition("[")[0].partition(".")[0]
        argument = OPTION_OF.get(first, first)
        inside = error.field[len(first) :] if first in OPTION_OF else ""
        typer.echo(f"{argument}{inside}: {error.message}" if argument else error.message, err=True)
        raise typer.Exit(FAILED if error.kind in ("not_found", "conflict") else MISUSED) from None


def said(**fields: Any) -> dict[str, Any]:
    """The fields that were given on the command line. An empty text alone empties a list."""
    return {name: [] if value == [""] else value for name, value in fields.items() if value is not None}


def time_s(text: str | None, field: str) -> float | None:
    """A time, a date, a duration from now, or `never` (0)."""
    if text is None or text == "never":
        return None if text is None else 0.0
    try:
        return clock.wall_s() + Duration.parse(text)
    except ValueError:
        return read_time_s(text, field=field)


def limits(texts: list[str] | None) -> dict[str, Any] | None:
    """`requests_per_minute=60` as settings."""
    if texts is None:
        return None
    found: dict[str, Any] = {}
    for text in filter(None, texts):
        name, separator, value = text.partition("=")
        if not separator:
            raise AccountsError(f"expected NAME=NUMBER, not `{text}`", field="limits")
        found[name] = int(value) if value.isascii() and value.isdigit() else value
    return found


def budgets(texts: list[str] | None, currency: str) -> list[dict[str, Any]] | None:
    """`25.50/monthly` as a budget."""
    if texts is None:
        return None
    return [budget(text, currency) for text in texts if text]


def budget(text: str, currency: str) -> dict[str, Any]:
    """One of them."""
    front, _, period = text.partition("/")
    amount, _, unit = front.partition(":")
    unit = unit or currency
    if amount == "prepaid":
        return {"unit": unit, "period": period or "never", "amount": None}
    if not period:
        raise AccountsError(f"expected AMOUNT/PERIOD such as 25.50/monthly, not `{text}`", field="budgets")
    return {"unit": unit, "period": period, "amount": read_amount(amount, unit, field="budgets")}


def money(amount: int, unit: str) -> str:
    """An amount with its unit, for people."""
    return f"{amount:,} tokens" if unit == TOKENS else f"{show_amount(amount, unit)} {unit}"


# Words that people write in more than one way, and the word that is meant by one that is nearly right. PURE.

_SPELLED = re.compile(r"^(--)?organi[sz]ation(s?)(?=$|=)")
_CHOICE = re.compile(r"^(?:Value error, )?(['\"])(?P<given>.*)\1 is not one of (?P<known>'.*')\.?$", re.DOTALL)


def option(argument: str) -> str:
    """An argument with the name of its option as it is documented."""
    return _SPELLED.sub(r"--organization\2", argument) if argument.startswith("--") else argument


def spelled(given: str, known: Sequence[str]) -> str:
    """One of these words, as it is documented: `organisation` and plurals are other ways to write them. Raises
    BadParameter.
    """
    word = _SPELLED.sub(r"organization\2", given.lower())
    for each in (word, word.removesuffix("s")):
        if each in known:
            return each
    raise typer.BadParameter(none_of(given, known))


def one_of(*known: str) -> dict[str, Any]:
    """What makes an argument one of these words."""

    def read(given: str) -> str:
        return spelled(given, known)

    def complete(begun: str) -> list[str]:
        return [word for word in known if word.startswith(begun)]

    parser: Callable[[str], str] = read
    return {"parser": parser, "autocompletion": complete, "help": f"{', '.join(known[:-1])} or {known[-1]}."}


def none_of(given: str, known: Sequence[str]) -> str:
    """The message for a word that is none of these, with the nearest."""
    return f"`{given}` is none of {', '.join(known)}{did_you_mean(given, known)}"


def mended(message: str) -> str:
    """The message of a choice that was not met, in the same words."""
    found = _CHOICE.match(message)
    return none_of(found["given"], re.findall(r"'([^']*)'", found["known"])) if found else message
