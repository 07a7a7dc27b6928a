from typing import Annotated, Any, Literal

import msgspec
import pytest
from msgspec import UNSET, Meta, UnsetType

from zuebee.config.yaml import Problem, Scalar, build, number, parse, path_text, place_of, truth
from zuebee.lib.units import Duration, Size, Timeout


class Inner(msgspec.Struct, frozen=True):
    name: str
    share: Annotated[int, Meta(ge=1)] = 1


class Outer(msgspec.Struct, frozen=True):
    on: bool = False
    maybe: bool | UnsetType = UNSET
    ratio: float = 1.0
    text: str = ""
    wait_s: Duration = msgspec.field(name="wait", default=Duration(1))
    limit_s: Timeout = msgspec.field(name="limit", default=Timeout(1))
    size: Size = Size(1)
    mode: Literal["fast", "safe"] = "fast"
    inner: Inner | None = None
    inners: Annotated[list[Inner], Meta(min_length=1)] = msgspec.field(default_factory=list)
    names: tuple[str, ...] = ()
    headers: dict[str, str] = msgspec.field(default_factory=dict)
    optional: Annotated[Annotated[int, Meta(ge=5)] | None, Meta(description="an inner constraint")] = None


def made(text: str) -> tuple[Any, list[str]]:
    root, syntax = parse(text, "f")
    assert not syntax
    problems: list[Problem] = []
    return build(root, Outer, problems), [str(problem) for problem in problems]


@pytest.mark.parametrize(
    ("text", "attribute", "value"),
    [
        ("on: true", "on", True),
        ("on: Yes", "on", True),
        ("on: off", "on", False),
        ("maybe: false", "maybe", False),
        ("ratio: 2", "ratio", 2.0),
        ("ratio: 1.5e1", "ratio", 15.0),
        ("text: 0123", "text", "0123"),
        ("text: off", "text", "off"),
        ("text: 'null'", "text", "null"),
        ("wait: 0", "wait_s", 0.0),
        ("wait: 1m", "wait_s", 60.0),
        ("limit: 1.5", "limit_s", 1.5),
        ("size: 4k", "size", 4096),
        ("size: 1_000", "size", 1000),
        ("mode: safe", "mode", "safe"),
        ("inner: {name: x}", "inner", Inner("x", 1)),
        ("inners: [{name: x, share: 2}]", "inners", [Inner("x", 2)]),
        ("names: [a, b]", "names", ("a", "b")),
        ("headers: {X-A: 1}", "headers", {"X-A": "1"}),
        ("optional: 5", "optional", 5),
        ("inner:", "inner", None),
        ("ratio: ~", "ratio", 1.0),
    ],
)
def test_values(text: str, attribute: str, value: object) -> None:
    result, problems = made(text)
    assert problems == []
    assert getattr(result, attribute) == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("on: 1", "f:1: on: expected `true` or `false`"),
        ("on: 'true'", "f:1: on: expected `true` or `false`"),
        ("on: [true]", "f:1: on: expected `true` or `false`, got a list"),
        ("ratio: fast", "f:1: ratio: expected a number"),
        ("ratio: .inf", "f:1: ratio: expected a number"),
        ("text: {a: b}", "f:1: text: expected text, got a mapping"),
        ("wait: soon", "f:1: wait: expected a duration such as `500ms`, `10s` or `1m30s`"),
        ("wait: -1", "f:1: wait: expected a duration between 0 and 30 years"),
        ("limit: 0", "f:1: limit: expected a duration above 0: there is always a limit"),
        ("limit: []", "f:1: limit: expected a timeout such as `10s`, got a list"),
        ("size: big", "f:1: size: expected a size such as `1048576` or `32MiB`"),
        ("mode: Fast", "f:1: mode: expected `fast` or `safe`; did you mean `fast`?"),
        ("mode: {}", "f:1: mode: expected `fast` or `safe`, got a mapping"),
        ("inner: x", "f:1: inner: expected a mapping"),
        ("inner: {}", "f:1: inner.name: required, but missing"),
        ("inner: {name: }", "f:1: inner.name: required, but missing"),
        ("inner: {name: x, share: 0}", "f:1: inner.share: expected `int` >= 1"),
        ("inner: {name: x, share: 1.5}", "f:1: inner.share: expected a whole number"),
        ("inner: {name: x, share: 010}", "f:1: inner.share: expected a whole number"),
        ("inner: {name: x, share: '2'}", "f:1: inner.share: expected a whole number"),
        ("inner: {nmae: x, name: y}", "f:1: inner.nmae: unknown key `nmae`; did you mean `name`?"),
        ("inners: []", "f:1: inners: expected at least 1"),
        ("inners: {name: x}", "f:1: inners: expected a list, got a mapping, such as `[a, b]`"),
        ("names: a, b", "f:1: names: expected a list, such as `[a, b]`"),
        ("names: [a, ~]", "f:1: names[1]: expected text, got nothing"),
        ("headers: [a]", "f:1: headers: expected a mapping, got a list"),
        ("headers: {X-A: [b]}", "f:1: headers.X-A: expected text, got a list"),
        ("optional: 4", "f:1: optional: expected `int` >= 5"),
    ],
)
def test_mistakes(text: str, message: str) -> None:
    assert made(text)[1] == [message]


def test_all_mistakes_are_found_at_once() -> None:
    _, problems = made("on: 1\nratio: x\ninners:\n  - share: 0\n    color: red\n  - {name: [y]}\nwait_s: 1s\n")
    assert problems == [
        "f:1: on: expected `true` or `false`",
        "f:2: ratio: expected a number",
        "f:4: inners[0].share: expected `int` >= 1",
        "f:5: inners[0].color: unknown key `color`; known: `name`, `share`",
        "f:4: inners[0].name: required, but missing",
        "f:6: inners[1].name: expected text, got a list",
        "f:7: wait_s: unknown key `wait_s`; did you mean `wait`?",
    ]


def test_place_of_what_is_written_and_of_what_is_not() -> None:
    root, _ = parse("a:\n  - b: 1\n  - c: 2\n", "f")
    assert place_of(root, ("a", 1, "c")).line == 3
    missing = place_of(root, ("a", 0, "x", "y"))
    assert (missing.line, path_text(missing.path)) == (2, "a[0].x.y")


def test_helpers_read_only_what_is_there() -> None:
    root, _ = parse("[yes, 'yes', 7, '7', x, {}]", "f")
    nodes = root.items  # type: ignore[union-attr]
    assert [truth(node) for node in nodes] == [True, None, None, None, None, None]
    assert [number(node) for node in nodes] == [None, None, 7.0, None, None, None]
    assert truth(None) is None
    assert not isinstance(nodes[0], Scalar) or nodes[0].plain
