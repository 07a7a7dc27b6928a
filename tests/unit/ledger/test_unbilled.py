from datetime import UTC, datetime

from zuebee.ledger.usage_rows import COLUMNS, MAX_NAME, MAX_NAMES, OTHER, Row, Totals, Unbilled

OCTOBER_S = datetime(2025, 10, 1, tzinfo=UTC).timestamp()
NOVEMBER_S = datetime(2025, 11, 1, tzinfo=UTC).timestamp()


def nothing(organization_id: str, month: int) -> list[str]:
    return []


def record_row(**values: object) -> Row:
    return tuple(values.get(name) for name in COLUMNS)


def used(
    organization_id: str, at_s: float, user_id: str, model: str, prompt: int, cached: int, completion: int, cost: int
) -> Row:
    return record_row(
        organization_id=organization_id, at_s=at_s, user_id=user_id, model=model, prompt_tokens=prompt,
        cached_tokens=cached, completion_tokens=completion, cost_nano=cost,
    )  # fmt: skip


def test_what_was_used_is_summed_up_by_month_user_and_model() -> None:
    totals = Totals(Unbilled(nothing))
    for at_s, user, model in ((OCTOBER_S, "ann", "m"), (NOVEMBER_S - 0.1, "ann", "m"), (NOVEMBER_S, "ann", "m")):
        totals.add(used("acme", at_s, user, model, 7, 2, 5, 11))
    totals.add(used("acme", OCTOBER_S, "ann", "refused", 0, 0, 0, 0))
    totals.add(used("", OCTOBER_S, "ann", "m", 7, 2, 5, 11))
    assert totals.rows() == [
        ("acme", int(OCTOBER_S), "ann", "m", 2, 14, 4, 10, 22),
        ("acme", int(NOVEMBER_S), "ann", "m", 1, 7, 2, 5, 11),
    ]


def test_callers_cannot_make_more_names_than_so_many() -> None:
    names = Unbilled(lambda organization_id, month: ["known"] if organization_id == "acme" else [])
    given = {names.name("acme", 0, f"m{number}") for number in range(10 * MAX_NAMES)}
    assert len(given) == MAX_NAMES
    assert OTHER in given
    assert names.name("acme", 0, "known") == "known"
    assert names.name("acme", 0, "m0") == "m0"
    assert names.name("acme", 1, "new") == names.name("other", 0, "new") == "new"


def test_a_long_name_is_cut() -> None:
    assert len(Unbilled(nothing).name("acme", 0, "m" * 4_000_000)) == MAX_NAME


def test_what_is_remembered_has_a_bound() -> None:
    read: list[str] = []

    def stored(organization_id: str, month: int) -> list[str]:
        read.append(organization_id)
        return []

    names = Unbilled(stored, max_known=10)
    for number in range(100):
        names.name(f"o{number}", 0, "m")
    for number in range(99, 88, -1):
        names.name(f"o{number}", 0, "m")
    assert read == [*(f"o{number}" for number in range(100)), "o89"], "the store is asked about the eleventh again"
