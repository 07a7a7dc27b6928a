from typing import Any

import msgspec
import pytest

from zuebee.accounts import schemas
from zuebee.accounts.schemas import AccountsError, read

FORMS = [value for value in vars(schemas).values() if isinstance(value, type) and issubclass(value, schemas.Form)]
NEVER_SET = ("status", "digest", "hint", "lineage", "created_at_s", "revoked_at_s", "rotated_from", "key", "account")


def minimal(form: type[schemas.Form]) -> dict[str, Any]:
    values = {"id": "x", "organization_id": "o", "unit": "tokens", "period": "never", "amount": 1}
    return {f.name: values[f.name] for f in msgspec.structs.fields(form) if f.required}


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_fields_that_a_form_does_not_have_are_refused(form: type[schemas.Form]) -> None:
    assert read(form, minimal(form))
    for field in (*NEVER_SET, "is_admin", "__class__"):
        with pytest.raises(AccountsError) as caught:
            read(form, {**minimal(form), field: "x"})
        assert (caught.value.field, caught.value.kind) == (field, "forbidden")


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_no_change_names_whose_it_is(form: type[schemas.Form]) -> None:
    if form.__name__.endswith("Change"):
        assert not {"id", "organization_id", "user_id"} & set(form.__struct_fields__)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"models": "gpt"}, "models"),
        ({"models": ["a*b"]}, "models"),
        ({"models": [""]}, "models[0]"),
        ({"endpoints": [7]}, "endpoints[0]"),
        ({"endpoints": ["/embeddings"]}, "endpoints"),  # the name of this endpoint is /v1/embeddings
        ({"endpoints": ["/v2/*"]}, "endpoints"),
        ({"allowed_ips": ["10.0.0.0/40"]}, "allowed_ips"),
        ({"denied_ips": ["here"]}, "denied_ips"),
        ({"limits": {"requests_per_minute": -1}}, "limits.requests_per_minute"),
        ({"limits": {"requests_per_fortnight": 1}}, "limits.requests_per_fortnight"),
        ({"priority": "urgent"}, "priority"),
        ({"billing": "free"}, "billing"),
        ({"expires_at_s": -1}, "expires_at_s"),
        ({"expires_at_s": float("nan")}, "expires_at_s"),
        ({"starts_at_s": 10, "expires_at_s": 9}, "expires_at_s"),
        ({"budgets": [{"unit": "tokens", "period": "daily", "amount": None}]}, "period"),
        ({"budgets": [{"unit": "tokens", "period": "daily", "amount": 1}] * 2}, "budgets"),
        ({"budgets": [{"unit": "dollars", "period": "daily", "amount": 1}]}, "budgets[0].unit"),
        ({"budgets": [{"unit": "USD", "period": "daily", "amount": 2**62 + 1}]}, "budgets[0].amount"),
    ],
)
def test_bad_values_are_refused_by_name(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(AccountsError) as caught:
        read(schemas.NewKey, fields)
    assert caught.value.field == field


@pytest.mark.parametrize("name", ["", "a b", "a/b", "a:b", "-a", "a\n", "ä", "a" * 129])
def test_ids_fit_into_account_names(name: str) -> None:
    with pytest.raises(AccountsError, match="id: expected 1 to 128"):
        read(schemas.NewOrganization, {"id": name})


def test_given_is_what_was_said() -> None:
    assert read(schemas.OrganizationChange, {"plan": ""}).given() == {"plan": ""}
    assert read(schemas.OrganizationChange, {}).given() == {}


def test_all_money_is_in_one_currency() -> None:
    budget = read(schemas.BudgetForm, {"unit": "EUR", "period": "daily", "amount": 1})
    schemas.check_budget(budget, "EUR")
    with pytest.raises(AccountsError, match="unit"):
        schemas.check_budget(budget, "USD")
