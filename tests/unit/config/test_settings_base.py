import os

import msgspec
import pytest

from zuebee.config.settings_base import Section, environment, seconds
from zuebee.lib.units import Timeout


class Inner(Section, frozen=True, kw_only=True):
    password: str = ""
    db: int = 0


class Outer(Section, frozen=True, kw_only=True):
    name: str = ""
    token: str | None = None
    headers: tuple[str, ...] = ()
    inner: Inner = Inner()
    wait_s: Timeout = msgspec.field(name="wait", default=seconds(1.5))


def test_what_may_be_secret_is_not_shown_but_that_it_is_there() -> None:
    shown = repr(Outer(name="a", token="t0p", headers=("s3cret",), inner=Inner(password="hush", db=3)))
    assert shown == "Outer(name='a', token=..., headers=..., inner=Inner(password=..., db=3), wait_s=1.5)"


def test_what_is_empty_is_shown() -> None:
    assert repr(Inner()) == "Inner(password='', db=0)"
    assert "token=None" in repr(Outer())


def test_an_unknown_key_is_an_error_and_a_known_one_has_its_name_in_the_file() -> None:
    assert msgspec.convert({"name": "a"}, Outer).name == "a"
    with pytest.raises(msgspec.ValidationError, match="wait_s"):
        msgspec.convert({"wait_s": 2.0}, Outer)


def test_a_section_cannot_be_changed() -> None:
    section = Inner()
    with pytest.raises(AttributeError):
        section.db = 1  # type: ignore[misc]


def test_a_default_time_is_of_the_type_that_messages_render() -> None:
    assert isinstance(Outer().wait_s, Timeout)
    assert float(Outer().wait_s) == 1.5


def test_the_environment_is_the_one_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZUEBEE_TEST_BASE", "here")
    assert environment()["ZUEBEE_TEST_BASE"] == "here"
    assert environment() is os.environ
