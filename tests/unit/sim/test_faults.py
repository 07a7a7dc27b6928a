import re
from pathlib import Path

import msgspec
import pytest

from zuebee.sim.wire import FAULTS, Armed, FaultBook, FaultError, Wish, asked, parse_header

PAGE = (Path(__file__).parents[3] / "docs" / "sim.md").read_text(encoding="utf-8")


def test_a_header_names_a_fault_and_its_parameters() -> None:
    assert parse_header("reset;after=3") == Wish(fault="reset", after_events=3)
    assert parse_header(" usage ; kind=huge") == Wish(fault="usage", kind="huge")
    assert parse_header("429;retry_after_s=2").status == 429


@pytest.mark.parametrize(
    "value", ["", "earthquake", "200", "600", "reset;after=-1", "reset;after=x", "reset;color=red", "usage;kind=x"]
)
def test_nonsense_in_a_header_is_refused(value: str) -> None:
    if value:
        with pytest.raises(FaultError):
            parse_header(value)
    else:
        assert parse_header(value).name == ""


@pytest.mark.parametrize(
    "body",
    [
        b'{"fault":"x"}',
        b'{"fault":true}',
        b'{"after_events":-1}',
        b'{"size_bytes":99999999999}',
        b'{"for_s":-1}',
        b'{"colour":1}',
        b'{"location":"a\\r\\nb"}',
    ],
)
def test_nonsense_in_a_body_is_refused(body: bytes) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(body, type=Wish)


def test_the_body_comes_before_the_header_and_that_before_the_model() -> None:
    header, model = [(b"x-sim-fault", b"html")], "sim-fault-gzip"
    assert (asked(Wish(fault="hang"), header, model) or Wish()).name == "hang"
    assert (asked(Wish(tokens=3), header, model) or Wish()).name == "html"
    assert (asked(None, [], model) or Wish()).name == "gzip"
    assert asked(None, [], "sim-small") is None


def test_armed_faults_are_used_up_in_order() -> None:
    book = FaultBook()
    book.arm(Armed(fault=500, times=2))
    book.arm(Armed(fault=503, times=1))
    struck = [book.strike("/v1/completions", inference=True) for _ in range(4)]
    assert [armed and armed.status for armed in struck] == [500, 500, 503, None]
    assert book.list() == []


def test_a_fault_strikes_its_path_only() -> None:
    book = FaultBook()
    book.arm(Armed(fault=500, path="/health"))
    assert book.strike("/v1/completions", inference=True) is None
    assert book.strike("/health", inference=False) is not None
    book.clear()
    book.arm(Armed(fault=500))
    assert book.strike("/health", inference=False) is None
    book.arm(Armed(fault=503, path="*"))
    assert (book.strike("/health", inference=False) or Wish()).status == 503


def test_the_book_has_a_bound() -> None:
    book = FaultBook()
    for _ in range(FaultBook.LIMIT):
        book.arm(Armed(fault=500))
    with pytest.raises(FaultError, match="100"):
        book.arm(Armed(fault=500))


def test_every_fault_and_every_parameter_is_documented() -> None:
    fields = [field.name for field in msgspec.structs.fields(Armed)]
    assert [name for name in [*FAULTS, *fields] if not re.search(rf"`{name}`", PAGE)] == []
