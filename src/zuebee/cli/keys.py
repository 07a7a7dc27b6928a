"""`zuebee keys`: create, show, rotate and revoke keys."""

from typing import Annotated, Any

import typer

from zuebee.accounts.schemas import TOKENS
from zuebee.cli import options, show
from zuebee.cli.options import OPTION_OF, opened, said, time_s
from zuebee.cli.place import MISUSED, give_up
from zuebee.cli.show import Form
from zuebee.contracts.errors import Refusal
from zuebee.lib.units import Duration

app = typer.Typer(name="keys", help="Keys of the store: create, list, rotate, revoke.", no_args_is_help=True)

KeyId = Annotated[str, typer.Argument(help="The key's id, like key_0123456789abcdef.")]
Organization = Annotated[str | None, typer.Option(OPTION_OF["organization_id"], help="Its organization.")]
Team = Annotated[str | None, typer.Option(OPTION_OF["team_id"], help="Its team.")]
User = Annotated[
    str | None, typer.Option(OPTION_OF["user_id"], help="Its user; this also sets its team and organization.")
]
Priority = Annotated[str | None, typer.Option("--priority", help="low, normal or high; '' for that of the plan.")]
Billing = Annotated[str | None, typer.Option("--billing", help="none, quota or prepaid; default: by its budgets.")]
AllowIp = Annotated[list[str] | None, typer.Option("--allow-ip", help="Address or CIDR range; '' for any. Repeatable.")]
DenyIp = Annotated[list[str] | None, typer.Option("--deny-ip", help="Address or CIDR range. Repeatable.")]
Starts = Annotated[
    str | None, typer.Option("--starts", help="When it becomes valid: a time, a date, or `1h` from now.")
]
Expires = Annotated[
    str | None, typer.Option("--expires", help="When it expires: a time, a date, `90d` from now, or never.")
]


@app.command()
def create(
    name: options.Name = None,
    organization: Organization = None,
    team: Team = None,
    user: User = None,
    plan: options.Plan = None,
    plan_ends: options.PlanEnds = None,
    priority: Priority = None,
    billing: Billing = None,
    model: options.Models = None,
    endpoint: options.Endpoints = None,
    limit: options.Limits = None,
    budget: options.Budgets = None,
    allow_ip: AllowIp = None,
    deny_ip: DenyIp = None,
    starts: Starts = None,
    expires: Expires = None,
    tag: options.Tags = None,
    config: options.Config = "config.yaml",
    store: options.Store = None,
    form: options.Output = "table",
) -> None:
    """Create a key and print it. ZueBee cannot show it again later."""
    with opened(config, store, form) as administration:
        fields = said(
            name=name, organization_id=organization, team_id=team, user_id=user, plan=plan,
            plan_ends_at_s=time_s(plan_ends, "plan_ends_at_s"), priority=priority, billing=billing, models=model,
            endpoints=endpoint, limits=options.limits(limit), budgets=options.budgets(budget, administration.currency),
            allowed_ips=allow_ip, denied_ips=deny_ip, starts_at_s=time_s(starts, "starts_at_s"),
            expires_at_s=time_s(expires, "expires_at_s"), tags=tag,
        )  # fmt: skip
        _print_made(administration.accounts.create_key(fields), form)


@app.command("list")
def list_keys(
    organization: Organization = None,
    team: Team = None,
    user: User = None,
    plan: options.Plan = None,
    state: Annotated[str, typer.Option("--state", help="active, not_started, disabled, expired or revoked.")] = "",
    count: options.Count = 50,
    after: options.After = "",
    config: options.Config = "config.yaml",
    store: options.Store = None,
    form: options.Output = "table",
) -> None:
    """List keys with their usage of the last 30 days, oldest first, a page at a time."""
    wanted = said(organization_id=organization, team_id=team, user_id=user, plan=plan, state=state)
    with opened(config, store, form) as administration:
        found, following = administration.accounts.list_keys(wanted, limit=count, after=after)
        currency = administration.currency
    if form == "json":
        show.as_json({"items": found, "next": following, "currency": currency})
        return
    rows = [_row(view, currency) for view in found]
    columns = ("id", "key", "name", "organization", "team", "user", "state", "expires", "requests", "tokens", "cost")
    show.as_table(
        "Keys (usage: last 30 days)", columns, rows, form=form, numbers=columns[-3:], words=("name",),
        less=("key", "requests", "tokens", "expires", "team", "organization", "user", "cost"),
    )  # fmt: skip
    if following:
        show.note(f"More: --after {following}")


def _row(view: dict[str, Any], currency: str) -> tuple[Any, ...]:
    used = view["last_30_days"]
    owners = (view["organization_id"], view["team_id"], view["user_id"])
    cost = options.money(used["cost_nano"], currency)
    expires = show.when(view["expires_at_s"])
    return view["id"], view["hint"], view["name"], *owners, view["state"], expires, used["requests"], used[TOKENS], cost


@app.command("show")
def show_key(
    key: KeyId,
    config: options.Config = "config.yaml",
    store: options.Store = None,
    form: options.Output = "table",
) -> None:
    """Show a key, its budgets, and the rights and limits that result from its owners and plans."""
    with opened(config, store, form) as administration:
        view = administration.accounts.show_key(key)
        record = administration.accounts.key_record(key)
        own_budgets = administration.accounts.budgets("key", key)
        currency = administration.currency
    effective = _effective(record)
    if form == "json":
        show.as_json({**view, "currency": currency, "effective": effective, "budgets": own_budgets})
        return
    _print_view(view, currency)
    show.as_record("What applies to its requests", effective)
    options_budgets(own_budgets, form)


def _effective(record: Any) -> dict[str, Any]:
    if record is None or isinstance(record, Refusal):
        return {"refused": record.code if record is not None else "invalid_api_key"}
    principal = record.principal
    limits = [
        f"{limit.subject}: {limit.amount} {limit.kind} {f'in {limit.window_s} s' if limit.window_s else 'at once'}"
        for limit in principal.limits
    ]
    return {
        "active": record.active and not record.revoked,
        "plan": principal.plan,
        "priority": principal.priority,
        "models": list(principal.models) or ["*"],
        "endpoints": list(principal.endpoints) or ["*"],
        "limits": limits,
        "budgets": [budget.account for budget in principal.budgets],
        "tags": list(principal.tags),
    }


@app.command()
def update(
    key: KeyId,
    name: options.Name = None,
    plan: options.Plan = None,
    plan_ends: options.PlanEnds = None,
    priority: Priority = None,
    billing: Billing = None,
    model: options.Models = None,
    endpoint: options.Endpoints = None,
    limit: options.Limits = None,
    allow_ip: AllowIp = None,
    deny_ip: DenyIp = None,
    starts: Starts = None,
    expires: Expires = None,
    tag: options.Tags = None,
    config: options.Config = "config.yaml",
    store: options.Store = None,
    form: options.Output = "table",
) -> None:
    """Change what the options name, and nothing else. Running servers follow within 5 seconds."""
    with opened(config, store, form) as administration:
        fields = said(
            name=name, plan=plan, plan_ends_at_s=time_s(plan_ends, "plan_ends_at_s"), priority=priority,
            billing=billing, models=model, endpoints=endpoint, limits=options.limits(limit), allowed_ips=allow_ip,
            denied_ips=deny_ip, starts_at_s=time_s(starts, "starts_at_s"),
            expires_at_s=time_s(expires, "expires_at_s"), tags=tag,
        )  # fmt: skip
        _print_view(administration.accounts.change_key(key, fields), administration.currency, form)


@app.command()
def rotate(
    key: KeyId,
    overlap: Annotated[str, typer.Option("--overlap", help="How long the old key still works; 0: not at all.")] = "24h",
    config: options.Config = "config.yaml",
    store: options.Store = None,
    form: options.Output = "table",
) -> None:
    """Replace this key by a new one with the same rights, limits and budgets, and print the new key."""
    try:
        overlap_s = float(Duration.parse(0 if overlap == "0" else overlap))
    except ValueError as error:
        give_up(f"--overlap: {error}", MISUSED)
    with opened(config, store, form) as administration:
        _print_made(administration.accounts.rotate_key(key, overlap_s=overlap_s), form)


@app.command()
def revoke(
    key: KeyId,
    config: options.Config = "config.yaml",
    store: options.Store = None,
    form: options.Output = "table",
) -> None:
    """Revoke a key for ever. Running servers refuse it within 5 seconds."""
    with opened(config, store, form) as administration:
        _print_view(administration.accounts.revoke_key(key), administration.currency, form)


@app.command()
def disable(
    key: KeyId,
    config: options.Config = "config.yaml",
    store: options.Store = None,
    form: options.Output = "table",
) -> None:
    """Disable a key until it is enabled again."""
    with opened(config, store, form) as administration:
        administration.accounts.set_status("key", key, "disabled")
        _print_view(administration.accounts.show_key(key), administration.currency, form)


@app.command()
def enable(
    key: KeyId,
    config: options.Config = "config.yaml",
    store: options.Store = None,
    form: options.Output = "table",
) -> None:
    """Enable a disabled key again."""
    with opened(config, store, form) as administration:
        administration.accounts.set_status("key", key, "active")
        _print_view(administration.accounts.show_key(key), administration.currency, form)


def _print_made(made: Any, form: Form) -> None:
    if form == "json":
        show.as_json({**made.view, "key": made.secret})
        return
    view = made.view
    show.as_record(f"Key {view['id']}", {"id": view["id"], "name": view["name"], "owner": _owner(view)})
    typer.echo(made.secret)
    typer.echo("Save this key now: ZueBee stores only its hash and cannot show it again.", err=True)


def _owner(view: dict[str, Any]) -> str:
    named = (f"{kind} {view[f'{kind}_id']}" for kind in ("user", "team", "organization") if view[f"{kind}_id"])
    return ", ".join(named)


def _print_view(view: dict[str, Any], currency: str, form: Form = "table") -> None:
    if form == "json":
        show.as_json({**view, "currency": currency})
        return
    used = view["last_30_days"]
    fields: dict[str, Any] = {
        "id": view["id"],
        "key": view["hint"],
        "name": view["name"],
        "owner": _owner(view),
        "state": view["state"],
        "plan": view["plan"],
        "plan ends": show.when(view["plan_ends_at_s"]),
        "priority": view["priority"],
        "billing": view["billing"],
        "models": view["models"],
        "endpoints": view["endpoints"],
        "limits": view["limits"],
        "allowed addresses": view["allowed_ips"],
        "denied addresses": view["denied_ips"],
        "tags": view["tags"],
        "made": show.when(view["created_at_s"]),
        "starts": show.when(view["starts_at_s"]),
        "expires": show.when(view["expires_at_s"]),
        "revoked": show.when(view["revoked_at_s"]),
        "replaces": view["rotated_from"],
        "last 30 days": f"{used['requests']} requests, {used[TOKENS]} tokens, "
        + options.money(used["cost_nano"], currency),
    }
    show.as_record(f"Key {view['id']}", fields)


def options_budgets(found: list[dict[str, Any]], form: Form) -> None:
    """A table of budgets with the figures of their running period."""
    rows = []
    for view in found:
        unit, running = view["unit"], view["running"]
        amount = "prepaid" if view["amount"] is None else options.money(view["amount"], unit)
        figures = (options.money(running[name], unit) for name in ("granted", "used", "held", "available"))
        rows.append((view["account"], amount, *figures))
    columns = ("account", "amount", "granted", "used", "held", "available")
    if rows:
        show.as_table(
            "Budgets (running period)", columns, rows, form=form, numbers=columns[1:], less=("granted", "held", "used")
        )
