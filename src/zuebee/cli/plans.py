"""`zuebee plans`: what can be given to organizations, teams, users and keys under one name."""

from typing import Annotated, Any

import typer

from zuebee.cli import options, show
from zuebee.cli.options import opened, said
from zuebee.cli.show import Form

app = typer.Typer(
    name="plans", help="Plans: a name for rights, limits and budgets that many accounts share.", no_args_is_help=True
)

PlanId = Annotated[str, typer.Argument(help="The plan's id.")]
Priority = Annotated[str | None, typer.Option("--priority", help="low, normal or high.")]


@app.command()
def create(
    plan: PlanId,
    name: options.Name = None,
    priority: Priority = None,
    model: options.Models = None,
    endpoint: options.Endpoints = None,
    limit: options.Limits = None,
    budget: options.Budgets = None,
    config: options.Config = "config.yaml",
    store: options.Store = None,
    form: options.Output = "table",
) -> None:
    """Create a plan. Each of its holders gets the limits and budgets of the plan separately."""
    with opened(config, store, form) as administration:
        fields = _fields(administration, name, priority, model, endpoint, limit, budget)
        _print(administration.accounts.create("plan", {"id": plan, **fields}), administration.currency, form)


@app.command()
def update(
    plan: PlanId,
    name: options.Name = None,
    priority: Priority = None,
    model: options.Models = None,
    endpoint: options.Endpoints = None,
    limit: options.Limits = None,
    budget: options.Budgets = None,
    config: options.Config = "config.yaml",
    store: options.Store = None,
    form: options.Output = "table",
) -> None:
    """Change what the options name, and nothing else. It applies to all holders within 5 seconds."""
    with opened(config, store, form) as administration:
        fields = _fields(administration, name, priority, model, endpoint, limit, budget)
        _print(administration.accounts.change("plan", plan, fields), administration.currency, form)


def _fields(administration: Any, name: Any, priority: Any, model: Any, endpoint: Any, limit: Any, budget: Any) -> Any:
    budgets = options.budgets(budget, administration.currency)
    return said(
        name=name, priority=priority, models=model, endpoints=endpoint, limits=options.limits(limit), budgets=budgets
    )


@app.command("list")
def list_plans(
    count: options.Count = 50,
    after: options.After = "",
    config: options.Config = "config.yaml",
    store: options.Store = None,
    form: options.Output = "table",
) -> None:
    """List plans, oldest first."""
    with opened(config, store, form) as administration:
        found, following = administration.accounts.listing("plan", limit=count, after=after)
        currency = administration.currency
    if form == "json":
        show.as_json({"items": found, "next": following})
        return
    columns = ("id", "name", "status", "priority", "models", "endpoints", "limits", "budgets")
    show.as_table(
        "Plans", columns, [list(_shown(view, currency).values()) for view in found], form=form,
        words=("name", "models", "endpoints", "limits", "budgets"), less=("endpoints", "priority", "limits", "models"),
    )  # fmt: skip
    if following:
        show.note(f"More: --after {following}")


@app.command("show")
def show_plan(
    plan: PlanId,
    config: options.Config = "config.yaml",
    store: options.Store = None,
    form: options.Output = "table",
) -> None:
    """Show one plan."""
    with opened(config, store, form) as administration:
        _print(administration.accounts.show("plan", plan), administration.currency, form)


@app.command()
def disable(
    plan: PlanId,
    config: options.Config = "config.yaml",
    store: options.Store = None,
    form: options.Output = "table",
) -> None:
    """Disable a plan: the keys of all its holders are refused with `subscription_lapsed`."""
    with opened(config, store, form) as administration:
        _print(administration.accounts.set_status("plan", plan, "disabled"), administration.currency, form)


@app.command()
def enable(
    plan: PlanId,
    config: options.Config = "config.yaml",
    store: options.Store = None,
    form: options.Output = "table",
) -> None:
    """Enable a disabled plan again."""
    with opened(config, store, form) as administration:
        _print(administration.accounts.set_status("plan", plan, "active"), administration.currency, form)


def _print(view: dict[str, Any], currency: str, form: Form) -> None:
    if form == "json":
        show.as_json(view)
    else:
        show.as_record(f"Plan {view['id']}", _shown(view, currency))


def _shown(view: dict[str, Any], currency: str) -> dict[str, Any]:
    budgets = [
        "prepaid" + ("" if each["unit"] == currency else f" {each['unit']}")
        if each["amount"] is None
        else f"{options.money(each['amount'], each['unit'])} {each['period']}"
        for each in view["budgets"]
    ]
    names = ("id", "name", "status", "priority", "models", "endpoints", "limits")
    return {**{name: view[name] for name in names}, "budgets": budgets}
