"""PURE. What may be said about organizations, teams, users, keys, plans and budgets. Anything else is an error.

A `New...` form makes something, a `...Change` form changes what it names and leaves the rest. What a form does not
have (an id that is already given, who created it, a status) cannot be set through it.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import UNSET, Meta, UnsetType

from zuebee.config.settings_auth import mistake_in_pattern
from zuebee.config.settings_base import LimitSettings
from zuebee.contracts.admission import MAX_BALANCE, MAX_TAGS, Period, Priority
from zuebee.lib.nearest import did_you_mean
from zuebee.lib.networks import parse_network

# What went wrong with an order to the accounts: said so that whoever gave it can mend it.

Kind = Literal["invalid", "not_found", "conflict", "forbidden"]


class AccountsError(Exception):
    """An order that was not carried out; nothing has changed. `field` names what to mend, if it is one thing."""

    def __init__(self, message: str, *, field: str = "", kind: Kind = "invalid") -> None:
        super().__init__(f"{field}: {message}" if field else message)
        self.message = message
        self.field = field
        self.kind: Kind = kind


def unknown(scope: str, name: str, *, field: str = "") -> AccountsError:
    """There is no such thing in the store."""
    return AccountsError(f"there is no {scope} `{name}`", field=field, kind="not_found")


# Amounts as people write them, and as they are counted: whole tokens, or nano-units of a currency.

TOKENS = "tokens"
NANO = 1_000_000_000
_DECIMAL = re.compile(r"([0-9]{1,12})(?:\.([0-9]{1,9}))?", re.ASCII)
_WHOLE = re.compile(r"[0-9]{1,19}", re.ASCII)


def read_amount(text: str, unit: str, *, field: str = "amount") -> int:
    """`25.50` of a currency as nano-units, `1000000` tokens as such. At most 2**62. Raises AccountsError."""
    text = text.strip().replace("_", "")
    if unit == TOKENS:
        if not _WHOLE.fullmatch(text):
            raise AccountsError("expected a whole number of tokens, such as 1000000", field=field)
        amount = int(text)
    else:
        found = _DECIMAL.fullmatch(text)
        if found is None:
            raise AccountsError("expected a decimal amount with at most 9 places, such as 25.50", field=field)
        amount = int(found[1]) * NANO + int((found[2] or "").ljust(9, "0"))
    if amount > MAX_BALANCE:
        raise AccountsError(f"more than {show_amount(MAX_BALANCE, unit)}", field=field)
    return amount


def show_amount(amount: int, unit: str) -> str:
    """As `read_amount` reads it; money with at least two places."""
    if unit == TOKENS:
        return str(amount)
    whole, rest = divmod(abs(amount), NANO)
    places = f"{rest:09d}".rstrip("0").ljust(2, "0")
    return f"{'-' if amount < 0 else ''}{whole}.{places}"


Role = Literal["admin", "member", "viewer"]
BillingMode = Literal["none", "quota", "prepaid"]
Scope = Literal["organization", "team", "user", "key"]

Id = Annotated[str, Meta(pattern=r"\A[A-Za-z0-9][A-Za-z0-9._@+-]{0,127}\Z")]
Reference = Annotated[str, Meta(max_length=128)]
Name = Annotated[str, Meta(max_length=200)]
Tags = Annotated[list[Annotated[str, Meta(min_length=1, max_length=200)]], Meta(max_length=MAX_TAGS)]
Texts = Annotated[list[Annotated[str, Meta(min_length=1, max_length=200)]], Meta(max_length=1000)]
Seconds = Annotated[float, Meta(ge=0, le=253402300799)]  # up to the year 9999
F = TypeVar("F", bound="Form")


class Form(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all forms."""

    def given(self) -> dict[str, Any]:
        """What was said, by field."""
        return {name: value for name in self.__struct_fields__ if (value := getattr(self, name)) is not UNSET}


class BudgetForm(Form, frozen=True, kw_only=True):
    """What may be spent in a period. `unit`: `tokens`, or a currency (then nano-units). `amount` None: prepaid."""

    unit: Annotated[str, Meta(pattern=r"\A(tokens|[A-Z]{3})\Z")]
    period: Period
    amount: Annotated[int, Meta(ge=0, le=MAX_BALANCE)] | None


class Rights(Form, frozen=True, kw_only=True):
    """What every holder may be given: a plan, and bounds of its own within the plan's and its parents'."""

    name: Name | UnsetType = UNSET
    plan: Reference | UnsetType = UNSET
    plan_ends_at_s: Seconds | UnsetType = UNSET
    models: Texts | UnsetType = UNSET
    endpoints: Texts | UnsetType = UNSET
    limits: LimitSettings | UnsetType = UNSET
    tags: Tags | UnsetType = UNSET


class NewOrganization(Rights, frozen=True, kw_only=True):
    """An organization."""

    id: Id


class OrganizationChange(Rights, frozen=True, kw_only=True):
    """A change of an organization."""


class NewTeam(Rights, frozen=True, kw_only=True):
    """A team of an organization."""

    id: Id
    organization_id: Reference


class TeamChange(Rights, frozen=True, kw_only=True):
    """A change of a team; it stays in its organization."""


class NewUser(Rights, frozen=True, kw_only=True):
    """A user of an organization, maybe in one of its teams."""

    id: Id
    organization_id: Reference
    team_id: Reference = ""
    role: Role = "member"


class UserChange(Rights, frozen=True, kw_only=True):
    """A change of a user; it stays in its organization."""

    team_id: Reference | UnsetType = UNSET
    role: Role | UnsetType = UNSET


class KeyTerms(Rights, frozen=True, kw_only=True):
    """What only keys have. `priority` empty: the plan's."""

    priority: Priority | Literal[""] | UnsetType = UNSET
    billing: BillingMode | UnsetType = UNSET
    allowed_ips: Texts | UnsetType = UNSET
    denied_ips: Texts | UnsetType = UNSET
    starts_at_s: Seconds | UnsetType = UNSET
    expires_at_s: Seconds | UnsetType = UNSET


class NewKey(KeyTerms, frozen=True, kw_only=True):
    """A key of a user, a team or an organization, or of nobody."""

    organization_id: Reference = ""
    team_id: Reference = ""
    user_id: Reference = ""
    budgets: Annotated[list[BudgetForm], Meta(max_length=10)] = []


class KeyChange(KeyTerms, frozen=True, kw_only=True):
    """A change of a key; whose it is stays."""


class PlanChange(Form, frozen=True, kw_only=True):
    """A change of a plan; it holds at once for all who have it."""

    name: Name | UnsetType = UNSET
    priority: Priority | UnsetType = UNSET
    models: Texts | UnsetType = UNSET
    endpoints: Texts | UnsetType = UNSET
    limits: LimitSettings | UnsetType = UNSET
    budgets: Annotated[list[BudgetForm], Meta(max_length=10)] | UnsetType = UNSET


class NewPlan(PlanChange, frozen=True, kw_only=True):
    """A plan."""

    id: Id


_AT = re.compile(r" - at `\$\.?([^`]*)`")
_UNKNOWN = re.compile(r"unknown field `([^`]+)`")
_EXPECTED = {
    "id": "1 to 128 letters, digits or . _ @ + -, and first a letter or digit",
    "role": "admin, member or viewer",
    "priority": "low, normal or high",
    "billing": "none, quota or prepaid",
    "period": "daily, weekly, monthly or never",
    "unit": "tokens, or a currency such as USD",
}
_CHOICES = [_EXPECTED[name] for name in ("role", "priority", "billing", "period")]


def read(form: type[F], fields: Mapping[str, Any]) -> F:
    """The form filled in. Raises AccountsError, which names the field."""
    try:
        filled = msgspec.convert(dict(fields), form)
    except msgspec.ValidationError as error:
        raise _as_accounts_error(str(error), fields) from None
    _check(filled)
    return filled


def _as_accounts_error(text: str, fields: Mapping[str, Any]) -> AccountsError:
    if unknown := _UNKNOWN.search(text):
        place = _AT.search(text)
        inside = f"{place[1]}." if place and place[1] else ""
        hint = did_you_mean(unknown[1], LimitSettings.__struct_fields__) if inside == "limits." else ""
        return AccountsError(f"this cannot be set{hint}", field=inside + unknown[1], kind="forbidden")
    place = _AT.search(text)
    field = place[1] if place else ""
    expected = _EXPECTED.get(field.rpartition(".")[2])
    if expected is not None and place is not None:
        hint = did_you_mean(_given(fields, field), re.split(r", | or ", expected)) if expected in _CHOICES else ""
        return AccountsError(f"expected {expected}{hint}", field=field)
    said = _AT.sub("", text)
    return AccountsError(said[:1].lower() + said[1:], field=field)


def _given(fields: Any, place: str) -> str:
    """What stands at a place such as `budgets[0].period`; empty if that is no text."""
    found = fields
    for name, index in re.findall(r"(\w+)|\[(\d+)\]", place):
        try:
            found = found[name or int(index)]
        except (LookupError, TypeError):
            return ""
    return found if isinstance(found, str) else ""


def _check(form: Form) -> None:
    given = form.given()
    for field in ("models", "endpoints"):
        for pattern in given.get(field, ()):
            if (mistake := mistake_in_pattern(field, pattern)) is not None:
                raise AccountsError(mistake, field=field)
    for field in ("allowed_ips", "denied_ips"):
        for text in given.get(field, ()):
            try:
                parse_network(text)
            except ValueError:
                raise AccountsError(f"expected an address or a CIDR range, not `{text}`", field=field) from None
    check_life(given.get("starts_at_s", 0), given.get("expires_at_s", 0))
    seen = set()
    for budget in given.get("budgets", ()):
        check_budget(budget)
        if (budget.unit, budget.period) in seen:
            raise AccountsError(f"two for {budget.unit}/{budget.period}", field="budgets")
        seen.add((budget.unit, budget.period))


def check_life(starts_at_s: float, expires_at_s: float) -> None:
    """A key ends after it begins; 0 is never and always. Raises AccountsError."""
    if starts_at_s and expires_at_s and expires_at_s <= starts_at_s:
        raise AccountsError("expires before it starts", field="expires_at_s")


def check_budget(budget: BudgetForm, currency: str | None = None) -> None:
    """Prepaid accounts have no period, and all money is in one currency. Raises AccountsError."""
    if budget.amount is None and budget.period != "never":
        raise AccountsError("a prepaid budget never starts again: its period is `never`", field="period")
    if currency is not None and budget.unit not in (TOKENS, currency):
        raise AccountsError(f"expected tokens or {currency}, the currency of `billing`", field="unit")


# Months and times as people write them. All in UTC unless they say otherwise.

_MONTH = re.compile(r"([0-9]{4})-(0[1-9]|1[0-2])", re.ASCII)


def month_bounds_s(month: str) -> tuple[int, int]:
    """First second of a month written `2026-10`, and of the next one. Raises AccountsError."""
    found = _MONTH.fullmatch(month)
    if found is None or not 1970 <= int(found[1]) < 9999:
        raise AccountsError("expected a month such as 2026-10", field="month")
    start = datetime(int(found[1]), int(found[2]), 1, tzinfo=UTC)
    end = (start + timedelta(days=32)).replace(day=1)
    return int(start.timestamp()), int(end.timestamp())


def read_time_s(text: str, *, field: str) -> float:
    """An RFC 3339 time, or a date (its midnight); without an offset it is UTC. Raises AccountsError."""
    try:
        at = datetime.fromisoformat(text.strip())
    except ValueError:
        raise AccountsError("expected a time such as 2026-12-31T12:00:00Z, or a date", field=field) from None
    return (at if at.tzinfo is not None else at.replace(tzinfo=UTC)).timestamp()
