from zuebee.auth.state import Handles
from zuebee.contracts.admission import Caller

CALLER = Caller("POST", "/v1/x", {b"authorization": b"Bearer k"}, "10.0.0.1", query=b"a=1")


def test_the_oldest_is_forgotten_and_one_in_use_is_not() -> None:
    handles = Handles(2)
    for name in ("a", "b"):
        handles.keep(name, name.encode(), CALLER, whole=False)
    assert handles.renew("a") is not None
    handles.keep("c", b"c", CALLER, whole=False)
    assert list(handles.kept) == ["a", "c"]
    assert handles.renew("b") is None


def test_header_fields_are_kept_only_for_scripts() -> None:
    handles = Handles()
    handles.keep("a", b"a", CALLER, whole=False)
    handles.keep("b", b"b", CALLER, whole=True)
    assert handles.kept["a"].caller.fields == {}
    assert handles.kept["a"].caller.address == "10.0.0.1"
    assert handles.kept["b"].caller == CALLER
