"""`zuebee plans`: what can be given to organisations, teams, users and keys under one name."""

from typing import Annotated, Any

import typer

from zuebee.cli import options, show
from zuebee.cli.options import opened, said

app = typer.Typer(name="plans", help="Plans: rights under one name, for many holders.", no_args_is_help=True)

PlanId = Annotated[str, typer.Argument(help="The plan's id.")]
Priority = Annotated[str | None, typer.Option("--priority", help="low, normal or high.")]


@app.command()
def create(
    context: typer.Context,
    plan: PlanId,
    name: options.Name = None,
    priority: Priority = None,
    model: options.Models = None,
    endpoint: options.Endpoints = None,
    limit: options.Limits = None,
    budget: options.Budgets = None,
    config: options.Config = "config.yaml",
    store: options.Store = "",
    json: options.Json = False,
) -> None:
    """Make a plan. Its limits and budgets count for each of its holders by itself."""
    with opened(context, config, store) as administration:
        fields = _fields(administration, name, priority, model, endpoint, limit, budget)
        _print(administration.accounts.create("plan", {"id": plan, **fields}), administration.currency, json)


@app.command()
def update(
    context: typer.Context,
    plan: PlanId,
    name: options.Name = None,
    priority: Priority = None,
    model: options.Models = None,
    endpoint: options.Endpoints = None,
    limit: options.Limits = None,
    budget: options.Budgets = None,
    config: options.Config = "config.yaml",
    store: options.Store = "",
    json: options.Json = False,
) -> None:
    """Change what is named and leave the rest; it holds for all holders within 5 seconds."""
    with opened(context, config, store) as administration:
        fields = _fields(administration, name, priority, model, endpoint, limit, budget)
        _print(administration.accounts.change("plan", plan, fields), administration.currency, json)


def _fields(administration: Any, name: Any, priority: Any, model: Any, endpoint: Any, limit: Any, budget: Any) -> Any:
    budgets = options.budgets(budget, administration.currency)
    return said(
        name=name, priority=priority, models=model, endpoints=endpoint, limits=options.limits(limit), budgets=budgets
    )


@app.command("list")
def list_plans(
    context: typer.Context,
    count: options.Count = 50,
    after: options.After = "",
    config: options.Config = "config.yaml",
    store: options.Store = "",
    json: options.Json = False,
) -> None:
    """List plans, oldest first."""
    with opened(context, config, store) as administration:
        found, following = administration.accounts.listing("plan", limit=count, after=after)
        currency = administration.currency
    if json:
        show.as_json({"items": found, "next": following})
        return
    columns = ("id", "name", "status", "priority", "models", "endpoints", "limits", "budgets")
    show.as_table("Plans", columns, [list(_shown(view, currency).values()) for view in found])
    if following:
        show.note(f"More: --after {following}")


@app.command("show")
def show_plan(
    context: typer.Context,
    plan: PlanId,
    config: options.Config = "config.yaml",
    store: options.Store = "",
    json: options.Json = False,
) -> None:
    """Show one plan."""
    with opened(context, config, store) as administration:
        _print(administration.accounts.show("plan", plan), administration.currency, json)


@app.command()
def disable(
    context: typer.Context,
    plan: PlanId,
    config: options.Config = "config.yaml",
    store: options.Store = "",
    json: options.Json = False,
) -> None:
    """End a plan: the keys of all its holders are refused with `subscription_lapsed`."""
    with opened(context, config, store) as administration:
        _print(administration.accounts.set_status("plan", plan, "disabled"), administration.currency, json)


@app.command()
def enable(
    context: typer.Context,
    plan: PlanId,
    config: options.Config = "config.yaml",
    store: options.Store = "",
    json: options.Json = False,
) -> None:
    """Offer a disabled plan again."""
    with opened(context, config, store) as administration:
        _print(administration.accounts.set_status("plan", plan, "active"), administration.currency, json)


def _print(view: dict[str, Any], currency: str, json: bool) -> None:
    if json:
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
