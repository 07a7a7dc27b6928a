"""PURE. Who may do what to whom: a table, for every way by which orders reach the accounts.

The command line acts as the operator. A user acts with the role that the store has of it, inside its organization.
"""

from collections.abc import Collection
from typing import Literal

import msgspec

from zuebee.accounts.schemas import AccountsError, Role

ActorRole = Literal["operator"] | Role
Reach = Literal["none", "own", "organization", "all"]

# Each action: how far an admin, a member and a viewer reach. An operator reaches all. What is not here is for nobody.
REACH: dict[str, tuple[Reach, Reach, Reach]] = {
    "organization.create": ("none", "none", "none"),
    "organization.read": ("organization", "organization", "organization"),
    "organization.change": ("none", "none", "none"),
    "organization.set_budget": ("none", "none", "none"),
    "plan.create": ("none", "none", "none"),
    "plan.read": ("all", "all", "all"),
    "plan.change": ("none", "none", "none"),
    "team.create": ("organization", "none", "none"),
    "team.read": ("organization", "organization", "organization"),
    "team.change": ("organization", "none", "none"),
    "team.set_budget": ("organization", "none", "none"),
    "user.create": ("organization", "none", "none"),
    "user.read": ("organization", "own", "organization"),
    "user.change": ("organization", "own", "none"),
    "user.set_budget": ("organization", "none", "none"),
    "key.create": ("organization", "own", "none"),
    "key.read": ("organization", "own", "organization"),
    "key.change": ("organization", "own", "none"),
    "key.rotate": ("organization", "own", "none"),
    "key.revoke": ("organization", "own", "none"),
    "key.set_budget": ("organization", "none", "none"),
    "budget.read": ("organization", "own", "organization"),
    "usage.read": ("organization", "own", "organization"),
    "payment.create": ("none", "none", "none"),
    "payment.read": ("organization", "none", "organization"),
    "invoice.create": ("none", "none", "none"),
    "invoice.read": ("organization", "none", "organization"),
}
_COLUMN = {"admin": 0, "member": 1, "viewer": 2}

# These could give more than the organization was given: an admin may not set them.
OPERATORS_FIELDS = frozenset({"plan", "plan_ends_at_s", "priority"})
# All that a member may say. When a key is made its bounds can only narrow what the user has; later they could widen
# what an admin narrowed.
MEMBERS_FIELDS: dict[str, frozenset[str]] = {
    "key.create": frozenset(
        {
            "name", "tags", "user_id", "team_id", "organization_id", "models", "endpoints", "limits",
            "allowed_ips", "denied_ips", "starts_at_s", "expires_at_s",
        }
    ),
    "key.change": frozenset({"name", "tags"}),
    "user.change": frozenset({"name"}),
}  # fmt: skip


class Actor(msgspec.Struct, frozen=True):
    """Who gives an order. An operator has neither user nor organization."""

    role: ActorRole
    user_id: str = ""
    organization_id: str = ""


class RoleTarget(msgspec.Struct, frozen=True):
    """Whom an order is about: the organization it belongs to, and the user, if it belongs to one."""

    organization_id: str = ""
    user_id: str = ""


def may(actor: Actor, action: str, target: RoleTarget) -> bool:
    """Whether the actor may do this to this target. An unknown action is for nobody."""
    if action not in REACH:
        return False
    if actor.role == "operator":
        return True
    reach = REACH[action][_COLUMN[actor.role]]
    if reach == "all":
        return True
    inside = bool(actor.organization_id) and target.organization_id == actor.organization_id
    if reach == "organization":
        return inside
    return reach == "own" and inside and bool(actor.user_id) and target.user_id == actor.user_id


def withheld_fields(actor: Actor, action: str, fields: Collection[str]) -> list[str]:
    """Those of the fields that the actor may not set in this action."""
    if actor.role == "operator":
        return []
    if actor.role == "admin":
        return sorted(OPERATORS_FIELDS.intersection(fields))
    return sorted(set(fields) - MEMBERS_FIELDS.get(action, frozenset()))


def demand(actor: Actor, action: str, target: RoleTarget, fields: Collection[str] = ()) -> None:
    """Raises AccountsError (kind `forbidden`) unless the actor may do this to the target and set these fields."""
    if not may(actor, action, target):
        raise AccountsError(f"your role does not allow {action} here", kind="forbidden")
    if withheld := withheld_fields(actor, action, fields):
        raise AccountsError(f"your role may not set this in {action}", field=withheld[0], kind="forbidden")
