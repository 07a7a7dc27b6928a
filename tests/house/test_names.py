"""No two classes of one name: a reader who meets a name need not ask which one is meant."""

import ast
from collections import defaultdict
from collections.abc import Iterable

from tests.support.source import Source, package_files


def twice(sources: Iterable[Source]) -> dict[str, list[str]]:
    """Names of classes that more than one place defines, with these places."""
    places: dict[str, list[str]] = defaultdict(list)
    for source in sources:
        for node in ast.walk(source.tree):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(f"{source.inside}:{node.lineno}")
    return {name: found for name, found in places.items() if len(found) > 1}


def test_no_class_name_is_used_twice() -> None:
    found = twice(each for each in package_files() if not each.inside.startswith("protos/"))
    assert not found, f"Give the less central one a name that says what it is: {found}"


def test_one_that_is_used_twice_is_found() -> None:
    one, other = (Source(f"src/zuebee/{room}/names.py", "class Table: ...\n") for room in ("http", "cli"))
    assert twice([one, other]) == {"Table": ["http/names.py:1", "cli/names.py:1"]}
