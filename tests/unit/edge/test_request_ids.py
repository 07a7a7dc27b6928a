from zuebee.edge.request_ids import MAX_HEADER_CHARS, MAX_MESSAGE_CHARS, RequestIds, callers_id, id_in_message


def test_no_id_is_given_twice() -> None:
    some, others = RequestIds(), RequestIds()
    given = [ids.next() for _ in range(300) for ids in (some, others)]
    assert len(set(given)) == 600
    assert all(each.startswith("req_") and len(each) == len("req_") + 16 + 8 for each in given)


def test_a_prefix_may_be_said() -> None:
    ids = RequestIds("req_waiting_")
    assert [ids.next() for _ in range(11)][::10] == ["req_waiting_00000001", "req_waiting_0000000b"]


def test_a_callers_id_is_kept_as_it_is_up_to_a_bound() -> None:
    assert callers_id({}) == callers_id({b"x-request-id": b""}) == ""
    assert callers_id({b"x-request-id": b"a \xe4"}) == "a \xe4"
    assert callers_id({b"x-request-id": b"a" * 1000}) == "a" * MAX_HEADER_CHARS


def test_one_in_a_message_must_be_fit_for_a_log() -> None:
    assert id_in_message("a b") == "a b"
    assert [id_in_message(each) for each in ("", "\xe4", "a\nb", "a\x00")] == [""] * 4
    assert id_in_message("a" * 1000) == id_in_message("a" * MAX_MESSAGE_CHARS + "\n") == "a" * MAX_MESSAGE_CHARS
