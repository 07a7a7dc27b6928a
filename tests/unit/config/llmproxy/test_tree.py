"""The small operations on which the translation of dialects stands."""

import pytest

from zuebee.config.llmproxy.tree import Notes, drop_zeros, move, script, seconds, switched_off
from zuebee.config.yaml import Mapping, parse


def tree(text: str) -> Mapping:
    root, problems = parse(text, "f")
    assert not problems
    assert isinstance(root, Mapping)
    return root


@pytest.mark.parametrize(
    ("written", "off"),
    [
        ("{enabled: false}", True),
        ("{enabled: false, token: x}", True),
        ("{enabled: no}", True),
        ("{enabled: true}", False),
        ("{enabled: 'false'}", False),
        ("{enabled: }", False),
        ("{token: x}", False),
        ("{}", True),
        ("{a: {enabled: false}, b: {enabled: false}}", True),
        ("{a: {enabled: false}, b: {enabled: true}}", False),
        ("{a: [1]}", False),
        ("", True),
        ("false", True),
        ("x", False),
        ("[]", False),
    ],
)
def test_switched_off(written: str, off: bool) -> None:
    assert switched_off(tree(f"part: {written}").items["part"]) is off


def test_move_keeps_the_place_and_refuses_two_spellings() -> None:
    root, notes = tree("a: 1\nb: 2\nc: 3\n"), Notes()
    move(root, "a", root, "new", notes)
    move(root, "gone", root, "new", notes)
    assert (root.items["new"].place.line, list(root.items)) == (1, ["b", "c", "new"])
    move(root, "b", root, "c", notes)
    assert [str(problem) for problem in notes.problems] == ["f:2: b: given twice: also as `c`"]


@pytest.mark.parametrize(
    ("written", "refused"),
    [
        ("{enabled: true, path: x.lua}", True),
        ("{path: x.lua}", True),
        ("return true", True),
        ("{enabled: false, path: x.lua}", False),
        ("''", False),
        ("", False),
    ],
)
def test_scripts_that_would_run_are_refused(written: str, refused: bool) -> None:
    for key in ("script", "lua_script", "lua_script_file"):
        root, notes = tree(f"{key}: {written}\nother: 1\n"), Notes()
        script(root, notes)
        assert list(root.items) == ["other"]
        assert bool(notes.problems) is refused


def test_durations_of_zero_become_defaults() -> None:
    root, notes = tree("a: 0\nb: 0s\nc: -1\nd: 1s\ne: soon\nf: [0]\n"), Notes()
    drop_zeros(root, ("a", "b", "c", "d", "e", "f", "g"), notes)
    assert list(root.items) == ["d", "e", "f"]
    assert [problem.place.line for problem in notes.warnings] == [1, 2, 3]
    assert [seconds(node) for node in root.items.values()] == [1, None, None]
