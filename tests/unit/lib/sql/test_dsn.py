import pytest

from zuebee.lib.sql.dsn import database_url


@pytest.mark.requirement("A264")
@pytest.mark.parametrize(
    ("driver", "dsn", "url"),
    [
        ("mysql", "user:p@ss:w@tcp(host:3306)/db", "mysql+pymysql://user:p%40ss%3Aw@host:3306/db"),
        ("mysql", "user:pass@tcp(host:3306)/db?parseTime=true&loc=Local", "mysql+pymysql://user:pass@host:3306/db"),
        ("mysql", "root@/db", "mysql+pymysql://root@127.0.0.1:3306/db"),
        ("mysql", "u@unix(/run/mysqld.sock)/db", "mysql+pymysql://u@/db?unix_socket=%2Frun%2Fmysqld.sock"),
        ("mysql", "mysql://u:p@h/db?parseTime=true&charset=utf8mb4", "mysql+pymysql://u:p@h/db?charset=utf8mb4"),
        ("mysql", "mariadb://u:p@h/db", "mysql+pymysql://u:p@h/db"),
        ("postgres", "postgres://u:p@h:5/db?sslmode=disable", "postgresql+psycopg://u:p@h:5/db?sslmode=disable"),
        ("postgres", "postgresql://h/db?TimeZone=UTC", "postgresql+psycopg://h/db"),
        ("postgres", "host=h password='a b' dbname=d", "postgresql+psycopg:///?host=h&password=a%20b&dbname=d"),
        ("sqlite", "./data/x.db", "sqlite:///./data/x.db"),
        ("sqlite", "/data/x.db", "sqlite:////data/x.db"),
        ("sqlite", "sqlite:///x.db", "sqlite:///x.db"),
        ("sqlite", "sqlite:////data/x.db", "sqlite:////data/x.db"),
        ("sqlite", "file:x.db?cache=shared", "sqlite:///x.db"),
        ("sqlite", "file:///data/x.db", "sqlite:////data/x.db"),
    ],
)
def test_names_as_people_write_them(driver: str, dsn: str, url: str) -> None:
    assert database_url(driver, dsn) == url


@pytest.mark.parametrize(("driver", "dsn"), [("mysql", "nonsense"), ("postgres", "nonsense"), ("mysql", "http://h/db")])
def test_names_that_are_none(driver: str, dsn: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        database_url(driver, dsn)
