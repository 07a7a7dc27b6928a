import pytest

from zuebee.config.load import ConfigError, Loaded, loads
from zuebee.config.settings_billing import ReporterDatabaseSettings

TEXT = """\
backends: [{url: 'http://a:1'}]
storage:
  databases:
    - {name: main, enabled: true, driver: mysql, host: db, user: "u@x", password: "p:w", database: llm}
    - {name: pg, driver: postgres, dsn: "host=h dbname=d"}
    - {name: file, driver: sqlite, path: /data/x.db}
    - {name: off, enabled: false, driver: sqlite}
usage:
  reporters: [{name: r, type: database, database: {storage: NAME, table: told}}]
"""


def load(name: str) -> Loaded:
    return loads(TEXT.replace("NAME", name), "f", {}, is_file=lambda _: False)


@pytest.mark.parametrize(
    ("name", "driver", "dsn"),
    [
        ("main", "mysql", "mysql://u%40x:p%3Aw@db:3306/llm"),
        ("pg", "postgres", "host=h dbname=d"),
        ("file", "sqlite", "/data/x.db"),
    ],
)
@pytest.mark.requirement("A258")
def test_a_named_database_is_put_where_it_is_used(name: str, driver: str, dsn: str) -> None:
    loaded = load(name)
    (reporter,) = loaded.settings.usage.reporters
    assert reporter.database == ReporterDatabaseSettings(driver=driver, dsn=dsn, table="told")  # type: ignore[arg-type]
    assert any("storage" in warning for warning in loaded.warnings), "the others are used by nobody"


@pytest.mark.parametrize(("name", "problem"), [("none", "not the name of an entry"), ("off", "is switched off")])
def test_a_database_that_is_not_there(name: str, problem: str) -> None:
    with pytest.raises(ConfigError) as error:
        load(name)
    assert any(problem in each for each in error.value.problems)
