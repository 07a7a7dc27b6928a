"""Freed memory goes back, or nothing happens."""

from unittest import mock

from zuebee.http import server


def test_it_may_be_asked_at_any_time() -> None:
    assert server.give_back() in (True, False)


def test_another_c_library_is_left_alone() -> None:
    with mock.patch.object(server.ctypes, "CDLL", side_effect=OSError):
        assert server.give_back() is False
    with mock.patch.object(server.ctypes, "CDLL", return_value=object()):
        assert server.give_back() is False
