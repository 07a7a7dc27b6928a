"""`zuebee accounts`: organizations, teams and users, their budgets, payments and invoices."""

import secrets
from pathlib import Path
from typing import Annotated, Any

import typer

from zuebee.accounts.invoice_page import invoice_page
from zuebee.accounts.schemas import AccountsError, read_amount
from zuebee.cli import options, show
from zuebee.cli.keys import options_budgets
from zuebee.cli.options import OPTION_OF, money, one_of, opened, said, saying_errors, time_s
from zuebee.cli.show import Form

app = typer.Typer(name="accounts", help="Organizations, teams, users and their budgets.", no_args_is_help=True)

Kind = Annotated[str, typer.Argument(**one_of("organization", "team", "user"))]
Scope = Annotated[str, typer.Argument(**one_of("organization", "team", "user", "key"))]
AccountId = Annotated[str, typer.Argument(help="Its id, such as acme; of a key key_...")]
OrganizationId = Annotated[str, typer.Argument(help="The organization's id.")]
Organization = Annotated[
    str | None, typer.Option(OPTION_OF["organization_id"], help="The organization that it belongs to.")
]
Team = Annotated[str | None, typer.Option(OPTION_OF["team_id"], help="The team of a user; '' for none.")]
Role = Annotated[str | None, typer.Option("--role", help="The role of a user: admin, member or viewer.")]
Unit = Annotated[str, typer.Option("--unit", help="Unit of the budget: tokens, or the currency (default).")]
Period = Annotated[str, typer.Option("--period", help="When the budget starts again: daily, weekly, monthly or never.")]


@app.command("add", hidden=True)
@app.command()
def create(
    kind: Kind,
    account: AccountId,
    name: options.Name = None,
    organization: Organization = None,
    team: Team = None,
    role: Role = None,
    plan: options.Plan = None,
    plan_ends: options.PlanEnds = None,
    model: options.Models = None,
    endpoint: options.Endpoints = None,
    limit: options.Limits = None,
    tag: options.Tags = None,
    config: options.Config = "config.yaml",
    store: options.Store = None,
    form: options.Output = "table",
) -> None:
    """Create an organization, a team or a user."""
    with opened(config, store, form) as administration:
        fields = said(
            id=account, name=name, organization_id=organization, team_id=team, role=role, plan=plan,
            plan_ends_at_s=time_s(plan_ends, "plan_ends_at_s"), models=model, endpoints=endpoint,
            limits=options.limits(limit), tags=tag,
        )  # fmt: skip
        _print(kind, administration.accounts.create(kind, fields), form)


@app.command()
def update(
    kind: Kind,
    account: AccountId,
    name: options.Name = None,
    team: Team = None,
    role: Role = None,
    plan: options.Plan = None,
    plan_ends: options.PlanEnds = None,
    model: options.Models = None,
    endpoint: options.Endpoints = None,
    limit: options.Limits = None,
    tag: options.Tags = None,
    config: options.Config = "config.yaml",
    store: options.Store = None,
    form: options.Output = "table",
) -> None:
    """Change what the options name, and nothing else. Running servers follow within 5 seconds."""
    with opened(config, store, form) as administration:
        fields = said(
            name=name, team_id=team, role=role, plan=plan, plan_ends_at_s=time_s(plan_ends, "plan_ends_at_s"),
            models=model, endpoints=endpoint, limits=options.limits(limit), tags=tag,
        )  # fmt: skip
        _print(kind, administration.accounts.change(kind, account, fields), form)


@app.command("list")
def list_accounts(
    kind: Kind,
    organization: Organization = None,
    count: options.Count = 50,
    after: options.After = "",
    config: options.Config = "config.yaml",
    store: options.Store = None,
    form: options.Output = "table",
) -> None:
    """List organizations, teams or users, oldest first, a page at a time."""
    with opened(config, store, form) as administration:
        found, following = administration.accounts.listing(
            kind, organization_id=organization or "", limit=count, after=after
        )
    if form == "json":
        show.as_json({"items": found, "next": following})
        return
    columns = ("id", "name", "organization_id", "team_id", "role", "status", "plan", "tags")
    kept = [name for name in columns if name in (found[0] if found else columns)]
    show.as_table(
        f"{kind.capitalize()}s", kept, [[view[name] for name in kept] for view in found], form=form,
        words=("name", "tags"), less=("tags", "plan", "role", "team_id"),
    )  # fmt: skip
    if following:
        show.note(f"More: --after {following}")


@app.command("show")
def show_account(
    kind: Kind,
    account: AccountId,
    config: options.Config = "config.yaml",
    store: options.Store = None,
    form: options.Output = "table",
) -> None:
    """Show an organization, team or user with its budgets."""
    with opened(config, store, form) as administration:
        view = administration.accounts.show(kind, account)
        found = administration.accounts.budgets(kind, account)
    if form == "json":
        show.as_json({**view, "budgets": found})
        return
    _print(kind, view, form)
    options_budgets(found, form)


@app.command()
def disable(
    kind: Kind,
    account: AccountId,
    config: options.Config = "config.yaml",
    store: options.Store = None,
    form: options.Output = "table",
) -> None:
    """Disable it and all its keys, until it is enabled again."""
    with opened(config, store, form) as administration:
        _print(kind, administration.accounts.set_status(kind, account, "disabled"), form)


@app.command()
def enable(
    kind: Kind,
    account: AccountId,
    config: options.Config = "config.yaml",
    store: options.Store = None,
    form: options.Output = "table",
) -> None:
    """Enable it again."""
    with opened(config, store, form) as administration:
        _print(kind, administration.accounts.set_status(kind, account, "active"), form)


@app.command("set-budget")
def set_budget(
    scope: Scope,
    account: AccountId,
    amount: Annotated[
        str, typer.Argument(help="Such as 25.50, or a number of tokens; leave it out with --prepaid.")
    ] = "",
    unit: Unit = "",
    period: Period = "",
    prepaid: Annotated[bool, typer.Option("--prepaid", help="Only what is topped up may be spent.")] = False,
    config: options.Config = "config.yaml",
    store: options.Store = None,
    form: options.Output = "table",
) -> None:
    """Set a budget, or change its amount. What was spent in this period still counts."""
    with opened(config, store, form) as administration:
        unit = unit or administration.currency
        if prepaid == bool(amount):
            raise AccountsError("give an amount, or --prepaid", field="amount")
        fields = {
            "unit": unit,
            "period": period or ("never" if prepaid else "monthly"),
            "amount": None if prepaid else read_amount(amount, unit),
        }
        view = administration.accounts.set_budget(scope, account, fields)
    if form == "json":
        show.as_json(view)
    else:
        options_budgets([view], form)


@app.command("remove-budget")
def remove_budget(
    scope: Scope,
    account: AccountId,
    unit: Unit = "",
    period: Period = "monthly",
    config: options.Config = "config.yaml",
    store: options.Store = None,
    form: options.Output = "table",
) -> None:
    """Remove a budget: from then on it limits nothing."""
    with opened(config, store, form) as administration:
        unit = unit or administration.currency
        administration.accounts.remove_budget(scope, account, unit=unit, period=period)
        found = administration.accounts.budgets(scope, account)
    if form == "json":
        show.as_json({"budgets": found})
    else:
        typer.echo("Removed.")
        options_budgets(found, form)


@app.command("top-up")
def top_up(
    scope: Scope,
    account: AccountId,
    amount: Annotated[str, typer.Argument(help="Such as 25.50, or a number of tokens.")],
    unit: Unit = "",
    payment: Annotated[
        str,
        typer.Option(
            "--payment", help="The payment's id; the same id is credited only once. Default: a new id each time."
        ),
    ] = "",
    note: Annotated[str, typer.Option("--note", help="A note that is stored with the payment.")] = "",
    config: options.Config = "config.yaml",
    store: options.Store = None,
    form: options.Output = "table",
) -> None:
    """Add money or tokens to a prepaid budget. Running servers see it within a second or two."""
    with opened(config, store, form) as administration:
        unit = unit or administration.currency
        paid = administration.payments.top_up(
            scope, account, payment_id=payment or f"manual_{secrets.token_hex(8)}",
            amount=read_amount(amount, unit), unit=unit, note=note,
        )  # fmt: skip
        found = administration.accounts.budgets(scope, account)
    if form == "json":
        names = ("id", "account", "unit", "amount", "organization_id", "note", "at_s", "fresh")
        show.as_json({**{name: getattr(paid, name) for name in names}, "budgets": found})
        return
    verb = "Credited" if paid.fresh else "Already credited before, nothing changed"
    typer.echo(f"{verb}: {money(paid.amount, paid.unit)} for {paid.account}, payment {paid.id}")
    options_budgets(found, form)


@app.command()
def payments(
    organization: OrganizationId,
    config: options.Config = "config.yaml",
    store: options.Store = None,
    form: options.Output = "table",
) -> None:
    """List the latest payments of an organization with its teams, users and keys."""
    with opened(config, store, form) as administration:
        found = administration.payments.listing(organization)
    if form == "json":
        show.as_json({"items": found})
        return
    rows = [
        (
            show.when(each["at_s"]),
            each["id"],
            each["account"],
            money(each["amount_nano"], each["currency"]),
            each["note"],
        )
        for each in found
    ]
    show.as_table("Payments", ("time", "id", "account", "amount", "note"), rows, form=form,
                  numbers=("amount",), words=("note",), less=("note",))  # fmt: skip


@app.command()
def invoice(
    organization: OrganizationId,
    month: Annotated[str, typer.Option("--month", help="Such as 2026-10.")],
    html: Annotated[str, typer.Option("--html", help="Also write the invoice as an HTML page to this file.")] = "",
    preview: Annotated[
        bool, typer.Option("--preview", help="Show the invoice without a number, and store nothing.")
    ] = False,
    config: options.Config = "config.yaml",
    store: options.Store = None,
    form: options.Output = "table",
) -> None:
    """Create the invoice of a past month. If it exists already, show that one."""
    with opened(config, store, form) as administration:
        invoices = administration.invoices
        made = invoices.preview(organization, month) if preview else invoices.make(organization, month)
    if html:
        _write(html, invoice_page(made))
    if form == "json":
        show.as_json(made)
        return
    currency = made["currency"]
    columns = ("user_id", "model", "requests", "prompt_tokens", "completion_tokens")
    rows = [[*(line[name] for name in columns), money(line["cost_nano"], currency)] for line in made["lines"]]
    title = f"Invoice {made['number'] or '(preview)'} for {made['organization_name']}, {month}"
    rows.append(["total", *[""] * (len(columns) - 1), money(made["total_nano"], currency)])
    show.as_table(
        title, (*columns, "amount"), rows, form=form, numbers=(*columns[2:], "amount"), words=("model",),
        less=("prompt_tokens", "completion_tokens", "requests"),
    )  # fmt: skip


def _write(path: str, text: str) -> None:
    with saying_errors():
        try:
            Path(path).write_text(text, encoding="utf-8")
        except OSError as error:
            raise AccountsError(error.strerror or "cannot be written", field="--html") from None


@app.command("invoices")
def list_invoices(
    organization: Annotated[str, typer.Argument(help="Only of this organization.")] = "",
    config: options.Config = "config.yaml",
    store: options.Store = None,
    form: options.Output = "table",
) -> None:
    """List invoices, newest first."""
    with opened(config, store, form) as administration:
        found = administration.invoices.listing(organization)
    if form == "json":
        show.as_json({"items": found})
        return
    rows = [
        (each["number"], each["organization_id"], show.when(each["starts_at_s"])[:7],
         money(each["total_nano"], each["currency"]))
        for each in found
    ]  # fmt: skip
    show.as_table("Invoices", ("number", "organization", "month", "total"), rows, form=form, numbers=("total",))


def _print(kind: str, view: dict[str, Any], form: Form) -> None:
    if form == "json":
        show.as_json(view)
        return
    times = {"plan_ends_at_s": "plan ends", "created_at_s": "made"}
    shown = {times.get(name, name): show.when(value) if name in times else value for name, value in view.items()}
    show.as_record(f"{kind.capitalize()} {view['id']}", shown)
