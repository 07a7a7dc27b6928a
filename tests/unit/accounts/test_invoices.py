from datetime import UTC, datetime
from typing import Any

import pytest

from tests.support.accounts import Store
from zuebee.accounts.invoice_page import invoice_page
from zuebee.accounts.invoices import Invoices
from zuebee.accounts.schemas import AccountsError
from zuebee.lib import clock

OCTOBER_S = datetime(2025, 10, 1, tzinfo=UTC).timestamp()
NOVEMBER_S = datetime(2025, 11, 1, tzinfo=UTC).timestamp()


def fill(store: Store) -> None:
    store.acme()
    store.accounts.change("organization", "acme", {"name": "Acme <Ltd>"})
    store.used(at_s=OCTOBER_S, organization_id="acme", user_id="ann", cost_nano=3)
    store.used(at_s=NOVEMBER_S - 1, organization_id="acme", user_id="ann", cost_nano=4)
    store.used(at_s=OCTOBER_S + 9, organization_id="acme", user_id="bob", cost_nano=1, model="n")
    store.used(at_s=NOVEMBER_S, organization_id="acme", user_id="ann", cost_nano=1000)
    store.used(at_s=OCTOBER_S + 9, organization_id="other", user_id="eve", cost_nano=1000)
    nothing = {"prompt_tokens": None, "completion_tokens": None}
    store.used(at_s=OCTOBER_S + 9, organization_id="acme", user_id="refused", **nothing)


@pytest.mark.requirement("A108")
def test_an_invoice_has_the_lines_of_its_month_and_their_exact_sum(store: Store) -> None:
    fill(store)
    invoice = store.invoices.make("acme", "2025-10")
    lines = [(x["user_id"], x["model"], x["requests"], x["prompt_tokens"], x["cost_nano"]) for x in invoice["lines"]]
    assert lines == [("ann", "m", 2, 20, 7), ("bob", "n", 1, 10, 1)]
    assert (invoice["total_nano"], invoice["currency"], invoice["number"]) == (8, "USD", "00000001")
    assert (invoice["starts_at_s"], invoice["ends_at_s"]) == (OCTOBER_S, NOVEMBER_S)


@pytest.mark.requirement("A108")
def test_a_made_invoice_stays_as_it_is_and_numbers_have_no_gap(store: Store) -> None:
    fill(store)
    first = store.invoices.make("acme", "2025-10")
    store.used(at_s=OCTOBER_S + 1, organization_id="acme", user_id="ann", cost_nano=50)
    assert store.invoices.make("acme", "2025-10") == first
    with pytest.raises(AccountsError, match="there is no organization"):
        store.invoices.make("nobody", "2025-10")
    assert store.invoices.preview("other", "2025-10")["number"] == ""
    numbers = [store.invoices.make(*each)["number"] for each in [("other", "2025-10"), ("acme", "2025-11")]]
    assert numbers == ["00000002", "00000003"]
    assert [each["number"] for each in store.invoices.listing("acme")] == ["00000003", "00000001"]


def test_a_month_that_is_not_over_is_only_previewed(store: Store) -> None:
    fill(store)
    month = datetime.fromtimestamp(clock.wall_s(), UTC).strftime("%Y-%m")
    with pytest.raises(AccountsError, match="month: is not over"):
        store.invoices.make("acme", month)
    assert store.invoices.preview("acme", month)["total_nano"] == 0
    assert store.rows("SELECT count(*) FROM invoices") == [(0,)]


def totals(*made: dict[str, Any]) -> list[tuple[int, list[tuple[str, int]]]]:
    return [(each["total_nano"], [(x.get("late_of", ""), x["cost_nano"]) for x in each["lines"]]) for each in made]


def test_what_came_late_is_on_the_next_invoice_and_on_no_other(store: Store) -> None:
    fill(store)
    october = store.invoices.make("acme", "2025-10")
    store.used(at_s=OCTOBER_S + 1, organization_id="acme", user_id="ann", cost_nano=50)
    assert store.invoices.preview("acme", "2025-11")["total_nano"] == 1050
    november = store.invoices.make("acme", "2025-11")
    assert totals(october, november) == [(8, [("", 7), ("", 1)]), (1050, [("", 1000), ("2025-10", 50)])]
    assert store.invoices.make("acme", "2025-12")["total_nano"] == 0
    assert "m (2025-10)" in invoice_page(november)


def test_a_month_that_has_no_invoice_yet_is_on_no_later_one(store: Store) -> None:
    fill(store)
    november, october = (store.invoices.make("acme", month) for month in ("2025-11", "2025-10"))
    assert (november["total_nano"], october["total_nano"]) == (1000, 8)


def test_records_need_not_be_there_any_more(store: Store) -> None:
    fill(store)
    store.database.call(lambda connection: connection.exec_driver_sql("DELETE FROM usage_records"))
    assert store.invoices.make("acme", "2025-10")["total_nano"] == 8


def test_a_month_whose_records_were_removed_before_there_were_totals_is_refused(store: Store) -> None:
    fill(store)
    since = f"INSERT INTO counters (name, value) VALUES ('unbilled_since', {int(NOVEMBER_S)})"
    store.database.call(lambda connection: connection.exec_driver_sql(since))
    with pytest.raises(AccountsError, match="month: is not known whole"):
        store.invoices.make("acme", "2025-10")
    assert store.invoices.make("acme", "2025-11")["total_nano"] == 1000
    assert store.rows("SELECT count(*) FROM invoices") == [(1,)]


def test_too_many_lines_are_one(store: Store) -> None:
    short = Invoices(store.database, currency="USD", max_lines=3)
    store.acme()
    for number in range(10):
        store.used(at_s=OCTOBER_S, organization_id="acme", user_id=f"u{number}", cost_nano=10 + number)
    invoice = short.make("acme", "2025-10")
    shown = [(x["user_id"], x["model"], x["requests"], x["cost_nano"]) for x in invoice["lines"]]
    assert shown == [("u9", "m", 1, 19), ("u8", "m", 1, 18), ("", "other", 8, 108)]
    assert invoice["total_nano"] == 145
