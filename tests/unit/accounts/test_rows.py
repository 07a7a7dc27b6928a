from tests.support.accounts import Store
from zuebee.accounts.directory import page, set_limits, to_row, to_view
from zuebee.config.settings_base import LimitSettings
from zuebee.schema.tables import organizations


def test_lists_and_limits_stand_in_rows_as_json() -> None:
    row = to_row({"name": "n", "models": ["a"], "limits": LimitSettings(tokens_per_day=5)})
    assert row == {"name": "n", "models": '["a"]', "limits": '{"tokens_per_day":5}'}
    assert to_view(row) == {"name": "n", "models": ["a"], "limits": {"tokens_per_day": 5}}


def test_a_view_has_no_digest() -> None:
    assert to_view({"id": "k", "digest": "00"}) == {"id": "k"}


def test_limits_are_kept_as_far_as_they_were_set() -> None:
    assert set_limits(LimitSettings()) == {}
    off = LimitSettings(enabled=False, on_store_down="closed")
    assert set_limits(off) == {"enabled": False, "on_store_down": "closed"}


def test_pages_hold_each_row_once_in_the_order_of_making(store: Store) -> None:
    names = [f"o{n:02d}" for n in range(25)]
    for name in names:
        store.accounts.create("organization", {"id": name})
    seen: list[str] = []
    after, pages = "", 0
    while pages == 0 or after:
        rows, after = store.database.call(lambda c, a=after: page(c, organizations, [], limit=10, after=a))
        seen += [row["id"] for row in rows]
        pages += 1
    assert (seen, pages) == (names, 3)
