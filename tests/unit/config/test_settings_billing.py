import msgspec
import pytest

from zuebee.config.settings_billing import ReporterDatabaseSettings, ReporterSettings, UsageSettings


def test_a_reporter_shows_nothing_that_may_be_secret() -> None:
    secret = "s3cr3t-value"
    shown = repr(
        UsageSettings(
            reporters=[
                ReporterSettings(
                    name="a",
                    type="webhook",
                    url=f"http://a/?token={secret}",
                    headers={"Authorization": secret},
                    secrets=[secret],
                ),
                ReporterSettings(
                    name="b",
                    type="database",
                    database=ReporterDatabaseSettings(driver="mysql", dsn=f"u:{secret}@tcp(h)/d"),
                ),
            ]
        )
    )
    assert secret not in shown
    assert "name='a'" in shown


@pytest.mark.requirement("A259", "A261")
def test_defaults_of_a_reporter_are_llmproxys() -> None:
    reporter = ReporterSettings(name="a", type="webhook")
    assert (reporter.enabled, reporter.timeout_s, reporter.retry, reporter.method) == (True, 3.0, 1, "POST")
    assert ReporterDatabaseSettings(driver="mysql", dsn="x").table == "usage_records"


@pytest.mark.parametrize("table", ["usage; DROP TABLE x", 'a"b', "a.b.c", "", "1a", "a b", "x" * 64])
def test_a_table_has_a_plain_name(table: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"driver": "sqlite", "dsn": "x", "table": table}, ReporterDatabaseSettings)
