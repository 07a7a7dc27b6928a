import pytest
import typer

from zuebee.cli.options import mended, one_of, option, spelled

KINDS = ("organization", "team", "user")


@pytest.mark.parametrize("given", ["organisation", "organization", "Organisation", "organizations", "organisations"])
def test_an_organization_may_be_spelled_in_every_way(given: str) -> None:
    assert spelled(given, KINDS) == one_of(*KINDS)["parser"](given) == "organization"


def test_other_words_are_themselves() -> None:
    assert [spelled(each, KINDS) for each in ("team", "teams", "user", "users")] == ["team", "team", "user", "user"]
    assert spelled("day", ("day", "days")) == "day"
    assert spelled("days", ("day", "days")) == "days"


@pytest.mark.parametrize(
    ("argument", "read"),
    [
        ("--organisation", "--organization"),
        ("--organisation=organisation", "--organization=organisation"),
        ("organisation", "organisation"),
        ("--organisational", "--organisational"),
        ("-organisation", "-organisation"),
    ],
)
def test_of_options_only_the_name_is_spelled_anew(argument: str, read: str) -> None:
    assert option(argument) == read


def test_what_is_none_is_told_with_the_nearest() -> None:
    with pytest.raises(typer.BadParameter) as caught:
        spelled("organisaton", KINDS)
    assert caught.value.message == "`organisaton` is none of organization, team, user; did you mean `organization`?"


def test_choices_of_the_library_are_told_in_the_same_words() -> None:
    said = "Value error, 'jsn' is not one of 'table', 'wide', 'json'."
    assert mended(said) == "`jsn` is none of table, wide, json; did you mean `json`?"
    assert mended("anything else") == "anything else"
