import psycopg
import pytest

from zuebee.schema import reach
from zuebee.schema.version import StoreRefused, StoreUnreachable

SECRET = "sesame-opens"
URL = f"postgresql://someone:{SECRET}@127.0.0.1/zuebee"


@pytest.mark.parametrize("end", ["/1@127.0.0.1/zuebee", "@127.0.0.1/zuebee?x", "%@127.0.0.1/zuebee"])
def test_an_address_that_makes_no_sense_is_a_mistake_and_is_not_repeated(end: str) -> None:
    with pytest.raises(StoreRefused, match=r"store\.url cannot be understood") as failure:
        reach.reach(f"postgresql://someone:{SECRET}{end}", 2)
    assert SECRET not in str(failure.value)


def test_where_it_is_does_not_say_who_we_are() -> None:
    url = f"postgresql://me:{SECRET}#?@db.internal:6432/zuebee?sslmode=prefer"
    assert reach.place(url) == "db.internal:6432/zuebee"
    assert reach.place("postgresql://db.internal/zuebee") == "db.internal:5432/zuebee"


@pytest.mark.parametrize(
    ("said", "kind", "told"),
    [
        ("connection to server at \"::1\", port 1 failed: Connection refused\n\tIs the server running on that host",
         StoreUnreachable, "it does not answer (Connection refused)"),
        ("failed to resolve host 'db': Name or service not known", StoreUnreachable, "it does not answer (failed to"),
        ("connection to server at \"::1\", port 1 failed: server does not support SSL, but SSL was required",
         StoreRefused, "does not let us in: server does not support SSL"),
        ("port 1 failed: FATAL:  the database system is not yet accepting connections",
         StoreUnreachable, "it takes no connections yet"),
        ("port 1 failed: FATAL:  role \"someone\" does not exist", StoreRefused, "role \"someone\" does not exist"),
        (f"what we do not know {SECRET}", StoreUnreachable, "it does not answer (what we do not know ***)"),
        ("", StoreUnreachable, "it does not answer (OperationalError)"),
    ],
)  # fmt: skip
def test_what_is_worth_waiting_for(
    monkeypatch: pytest.MonkeyPatch, said: str, kind: type[Exception], told: str
) -> None:
    def connect(*_: object, **__: object) -> None:
        raise psycopg.OperationalError(said)

    monkeypatch.setattr(reach, "connect", connect)
    with pytest.raises(kind) as failure:
        reach.reach(URL, 2)
    assert told in str(failure.value)
    assert SECRET not in str(failure.value)
