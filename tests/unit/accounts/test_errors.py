from zuebee.accounts.schemas import AccountsError, unknown


def test_an_error_names_its_field() -> None:
    error = unknown("team", "a", field="team_id")
    assert (error.field, error.kind, str(error)) == ("team_id", "not_found", "team_id: there is no team `a`")
    assert str(AccountsError("no")) == "no"
