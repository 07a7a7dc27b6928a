import time

import pytest

from zuebee.config.yaml import (
    MAX_TEXT_BYTES,
    Mapping,
    Node,
    Scalar,
    Sequence,
    parse,
    path_text,
    shown,
    unknown,
)


def places(node: Node) -> dict[str, int]:
    """Line by path, of everything in the tree."""
    children: list[Node] = []
    if isinstance(node, Mapping):
        children = list(node.items.values())
    elif isinstance(node, Sequence):
        children = node.items
    found = {path_text(node.place.path): node.place.line}
    for child in children:
        found |= places(child)
    return found


def messages(text: str) -> list[str]:
    return [str(problem) for problem in parse(text, "f")[1]]


def test_every_node_knows_its_line_and_path() -> None:
    root, problems = parse("a: 1\n\nb:\n  - c: x\n    d:\n      'y'\n  - [1,\n     2]\n", "f")
    assert not problems
    assert places(root) == {
        "": 1, "a": 1, "b": 3, "b[0]": 4, "b[0].c": 4, "b[0].d": 5, "b[1]": 7, "b[1][0]": 7, "b[1][1]": 8,
    }  # fmt: skip


def test_scalars_stay_text_and_know_whether_they_were_quoted() -> None:
    root, _ = parse("{a: 0123, b: 'off', c: off, d: ~, e: '', f: 1:30, g: 2027-01-31, h: |-\n  x\n}", "f")
    assert not isinstance(root, Mapping), "a block scalar inside of a flow mapping is an error: a positive control"
    root, _ = parse("a: 0123\nb: 'off'\nc: off\nd: ~\ne: ''\nf: 1:30\ng: 2027-01-31\nh: |-\n  x\ni:\n", "f")
    assert isinstance(root, Mapping)
    scalars = {key: node for key, node in root.items.items() if isinstance(node, Scalar)}
    assert {key: (node.text, node.plain) for key, node in scalars.items()} == {
        "a": ("0123", True),
        "b": ("off", False),
        "c": ("off", True),
        "d": ("~", True),
        "e": ("", False),
        "f": ("1:30", True),
        "g": ("2027-01-31", True),
        "h": ("x", False),
        "i": ("", True),
    }
    assert [key for key, node in scalars.items() if node.is_null] == ["d", "i"]


def test_anchors_and_merge_keys() -> None:
    text = "base: &base\n  x: 1\n  y: 2\none:\n  <<: *base\n  y: 3\ntwo:\n  <<: [{y: 4}, *base]\nthree: *base\n"
    root, problems = parse(text, "f")
    assert not problems
    assert isinstance(root, Mapping)

    def values(key: str) -> dict[str, str]:
        node = root.items[key]  # type: ignore[union-attr]
        assert isinstance(node, Mapping)
        return {name: child.text for name, child in node.items.items() if isinstance(child, Scalar)}

    assert values("one") == {"x": "1", "y": "3"}
    assert values("two") == {"x": "1", "y": "4"}
    assert values("three") == {"x": "1", "y": "2"}
    assert places(root)["one.x"] == 2, "a merged value is where it is written, under the path where it is used"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", "f:3: a: repeated key `a` (first on line 1)"),
        ("a:\n  b: 1\n  c: {d: 1, d: 2}\n", "f:3: a.c.d: repeated key `d` (first on line 3)"),
        ("a: [1\nb: 2\n", "f:2: YAML: while parsing a flow sequence: did not find expected ',' or ']'"),
        (
            "a: 1\n\tb: 2\n",
            "f:2: YAML: a tab, which YAML does not take before a setting: write spaces",
        ),
        ("a: *nothing\n", "f:1: YAML: found undefined alias"),
        (
            "a: 1\n--- \nb: 2\n",
            "f:2: YAML: expected a single document in the stream: but found another document",
        ),
        ("a: 1\nb: \x01\n", "f:2: YAML: a control character, which YAML does not allow"),
        ("a: 1\nb: !!python/object:os.system ls\n", "f:2: b: YAML tags are not supported"),
        ("a: 1\nb: !secret ls\n", "f:2: b: YAML tags are not supported"),
        ("? [a]\n: 1\n", "f:1: a key must be a plain name"),
        ("a: 1\n<<: 5\n", "f:2: `<<` needs a mapping or a list of mappings"),
    ],
)
def test_problems(text: str, message: str) -> None:
    assert messages(text) == [message]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[" * 200_000, "nested deeper than 32 levels"),
        ("- " * 200_000, "nested deeper than 32 levels"),
        ("a: &a [*a]", "nested deeper than 32 levels"),
        ("a: &a {b: 1, <<: [*a, *a, *a]}", "nested deeper than 32 levels"),
        (
            "\n".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9) if i else 'x'}]" for i in range(20)),
            "more than 100000",
        ),
        ("a: " + "x" * MAX_TEXT_BYTES, "larger than 1048576 bytes"),
    ],
)
def test_bombs_are_refused_quickly(text: str, expected: str) -> None:
    begun_s = time.process_time()  # whatever else the machine has to do
    assert any(expected in message for message in messages(text))
    assert time.process_time() - begun_s < 5


@pytest.mark.parametrize("name", ["weight", "key_sha256", "X-API-Key", "requests_per_minute", "User-Agent"])
def test_names_are_shown(name: str) -> None:
    assert shown(name) == name


@pytest.mark.parametrize(
    "name", ["sk-proj-a8Kd92Jx01", "hunter2!", "AKIAIOSFODNN7EXAMPLEXX", "a b", "", "sk_live_4eC39HqLyjW"]
)
def test_what_could_be_a_secret_is_not_shown(name: str) -> None:
    assert shown(name) == "(not shown: it could be a secret)"
    assert not name or name not in unknown("key", name, ["weight"])


def test_the_nearest_known_name_is_offered() -> None:
    assert unknown("key", "wieght", ["weight", "url"]) == "unknown key `wieght`; did you mean `weight`?"
    assert unknown("key", "zzz", ["weight", "url"]) == "unknown key `zzz`; known: `url`, `weight`"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a:\n\t- b: c\n", 2),
        ("a:\n  - b: c\n  \td: e\n", 3),
        ("a:\n  b:\n\tc: d\n", 3),
        ("a:\n  -\tb: c\n    d: e\n", 2),
        ("a:\n  - b: [c,\n\t d]\n\te: f\n", 4),
    ],
)
def test_a_tab_in_the_place_of_spaces_is_called_one(text: str, line: int) -> None:
    _, [problem] = parse(text, "f")
    assert str(problem) == f"f:{line}: YAML: a tab, which YAML does not take before a setting: write spaces"


@pytest.mark.parametrize("text", ["a: 'b\tc\n", "a: {b\tc\n", "a: b\tc: d: e\n", "a: # \tx\n  - }\n"])
def test_a_tab_elsewhere_is_not_blamed(text: str) -> None:
    _, [problem] = parse(text, "f")
    assert "a tab" not in str(problem)
