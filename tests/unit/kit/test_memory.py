"""Freed memory goes back, or nothing happens."""

from unittest import mock

from zuebee.kit import memory


def test_it_may_be_asked_at_any_time() -> None:
    assert memory.give_back() in (True, False)


def test_another_c_library_is_left_alone() -> None:
    with mock.patch.object(memory.ctypes, "CDLL", side_effect=OSError):
        assert memory.give_back() is False
    with mock.patch.object(memory.ctypes, "CDLL", return_value=object()):
        assert memory.give_back() is False
