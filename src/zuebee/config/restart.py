"""What a change of each setting needs, as the settings themselves say it: a reload, or a restart of the process."""

from collections.abc import Iterator
from typing import Any, NamedTuple, get_args, get_origin

import msgspec

from zuebee.config.settings import Settings
from zuebee.config.settings_base import RESTART
from zuebee.config.yaml import strip


class Setting(NamedTuple):
    """One setting, or a section of them: its name in a file, and what a change of it needs; empty: nobody says."""

    name: str
    field: msgspec.structs.FieldInfo
    change: str


def settings_of(kind: type[msgspec.Struct], inherited: str = "") -> Iterator[Setting]:
    """The settings of one section. Those that do not say it themselves inherit what their section says."""
    for each in msgspec.structs.fields(kind):
        _, metas = strip(each.type)
        said = next((meta.extra["change"] for meta in metas if meta.extra), inherited)
        yield Setting(each.encode_name, each, said)


def section_in(field: msgspec.structs.FieldInfo) -> tuple[type[msgspec.Struct] | None, bool]:
    """The kind of section that a field holds, and whether it holds a list of them; None: it holds a value."""
    bare, _ = strip(field.type)
    in_list = get_origin(bare) is list
    kind = strip(get_args(bare)[0])[0] if in_list else bare
    return (kind, in_list) if isinstance(kind, type) and issubclass(kind, msgspec.Struct) else (None, in_list)


def fixed_changes(old: Settings, new: Settings) -> list[str]:
    """The names of the settings that differ and need a restart, as files have them (`store.path`)."""
    return list(_differences("", old, new, ""))


def _differences(path: str, old: msgspec.Struct, new: msgspec.Struct, inherited: str) -> Iterator[str]:
    for setting in settings_of(type(old), inherited):
        ours, theirs = getattr(old, setting.field.name), getattr(new, setting.field.name)
        if ours == theirs:
            continue
        if _same_section(ours, theirs):
            yield from _differences(f"{path}{setting.name}.", ours, theirs, setting.change)
        elif setting.change == RESTART["change"]:
            yield f"{path}{setting.name}"


def _same_section(ours: Any, theirs: Any) -> bool:
    return isinstance(ours, msgspec.Struct) and type(ours) is type(theirs)
