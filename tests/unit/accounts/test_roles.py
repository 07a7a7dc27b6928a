"""The matrix of who may do what, generated: each role against each action against each relation to the target."""

from itertools import product

import pytest

from zuebee.accounts import roles, schemas
from zuebee.accounts.roles import Actor, RoleTarget, demand, may, withheld_fields
from zuebee.accounts.schemas import AccountsError

ACTORS = {
    "operator": Actor("operator"),
    "admin": Actor("admin", "ann", "acme"),
    "member": Actor("member", "ann", "acme"),
    "viewer": Actor("viewer", "ann", "acme"),
    "stray": Actor("admin"),  # a user who lost the organization
}
TARGETS = {
    "own": RoleTarget("acme", "ann"),
    "colleague": RoleTarget("acme", "bob"),
    "organization": RoleTarget("acme"),
    "other": RoleTarget("other", "ann"),
    "nobody": RoleTarget(),
}
ALL = set(TARGETS)
INSIDE = {"own", "colleague", "organization"}
# Where each role may, by kind of action. Written down a second time: a change of the table must be meant.
READS_FOR_ALL = {"admin": INSIDE, "member": INSIDE, "viewer": INSIDE, "stray": set()}
READS = {"admin": INSIDE, "member": {"own"}, "viewer": INSIDE, "stray": set()}
MANAGES = {"admin": INSIDE, "member": set(), "viewer": set(), "stray": set()}
MANAGES_OWN = {"admin": INSIDE, "member": {"own"}, "viewer": set(), "stray": set()}
SEES_MONEY = {"admin": INSIDE, "member": set(), "viewer": INSIDE, "stray": set()}
NOBODY: dict[str, set[str]] = {"admin": set(), "member": set(), "viewer": set(), "stray": set()}
EXPECTED = {
    **dict.fromkeys(["organization.read", "team.read"], READS_FOR_ALL),
    **dict.fromkeys(["user.read", "key.read", "budget.read", "usage.read"], READS),
    **dict.fromkeys(["team.create", "team.change", "user.create"], MANAGES),
    **dict.fromkeys(["team.set_budget", "user.set_budget", "key.set_budget"], MANAGES),
    **dict.fromkeys(["user.change", "key.create", "key.change", "key.rotate", "key.revoke"], MANAGES_OWN),
    **dict.fromkeys(["payment.read", "invoice.read"], SEES_MONEY),
    **dict.fromkeys(["organization.create", "organization.change", "organization.set_budget"], NOBODY),
    **dict.fromkeys(["plan.create", "plan.change", "payment.create", "invoice.create"], NOBODY),
    "plan.read": dict.fromkeys(NOBODY, ALL),
}


def test_every_action_is_expected() -> None:
    assert set(EXPECTED) == set(roles.REACH)


@pytest.mark.parametrize("action", roles.REACH)
def test_the_matrix(action: str) -> None:
    for who, whom in product(ACTORS, TARGETS):
        expected = who == "operator" or whom in EXPECTED[action][who]
        assert may(ACTORS[who], action, TARGETS[whom]) is expected, (who, whom)
        if expected:
            demand(ACTORS[who], action, TARGETS[whom])
        else:
            with pytest.raises(AccountsError) as caught:
                demand(ACTORS[who], action, TARGETS[whom])
            assert caught.value.kind == "forbidden", (who, whom)


@pytest.mark.parametrize("who", ACTORS)
def test_an_action_that_is_not_in_the_table_is_for_nobody(who: str) -> None:
    assert not may(ACTORS[who], "key.steal", TARGETS["own"])


def test_a_viewer_changes_nothing() -> None:
    reads = {action for action, reach in roles.REACH.items() if reach[2] != "none"}
    assert all(action.endswith(".read") for action in reads)


FIELDS = {
    "key.create": schemas.NewKey,
    "key.change": schemas.KeyChange,
    "user.create": schemas.NewUser,
    "user.change": schemas.UserChange,
    "team.create": schemas.NewTeam,
    "team.change": schemas.TeamChange,
}
RAISING = {"plan", "plan_ends_at_s", "priority"}
OF_MEMBERS = {
    "key.create": {
        "name", "tags", "models", "endpoints", "limits", "allowed_ips", "denied_ips", "starts_at_s", "expires_at_s",
        "organization_id", "team_id", "user_id",
    },
    "key.change": {"name", "tags"},
    "user.change": {"name"},
}  # fmt: skip


@pytest.mark.parametrize(
    ("action", "field"), [(action, field) for action, form in FIELDS.items() for field in form.__struct_fields__]
)
def test_no_field_raises_whoever_sets_it(action: str, field: str) -> None:
    assert withheld_fields(ACTORS["operator"], action, [field]) == []
    assert bool(withheld_fields(ACTORS["admin"], action, [field])) == (field in RAISING)
    assert bool(withheld_fields(ACTORS["member"], action, [field])) == (field not in OF_MEMBERS.get(action, set()))
    assert withheld_fields(ACTORS["viewer"], action, [field]) or field in OF_MEMBERS.get(action, set())


def test_a_member_cannot_make_itself_admin_or_raise_its_key() -> None:
    for action, field in [("user.change", "role"), ("key.change", "priority"), ("key.change", "models")]:
        with pytest.raises(AccountsError) as caught:
            demand(ACTORS["member"], action, TARGETS["own"], [field])
        assert caught.value.field == field
