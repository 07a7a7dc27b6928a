import base64

import pytest

from zuebee.config.load import ConfigError, loads

GOOD = "whsec_" + base64.b64encode(bytes(range(65, 89))).decode()
HIDDEN = "(not shown: it could be a secret)"
SHORT = "whsec_" + base64.b64encode(bytes(range(65, 88))).decode()


def problems(reporters: str, more: str = "") -> list[str]:
    text = f"backends: [{{url: 'http://a:1'}}]\n{more}\nusage:\n  reporters: [{reporters}]\n"
    try:
        loads(text, "f", {}, is_file=lambda _: False)
    except ConfigError as error:
        return [problem.removeprefix("f:4: usage.reporters") for problem in error.problems]
    return []


@pytest.mark.requirement("A257", "A258")
@pytest.mark.parametrize(
    ("reporters", "problem"),
    [
        ("{name: a, type: webhook}", "[0].url: required, but missing"),
        ("{name: a, type: database}", "[0].database: required, but missing"),
        ("{name: a, type: builtin}, {name: a, type: builtin}", "[1].name: the same name as `usage.reporters[0]`"),
        ("{name: '', type: builtin}", "[0].name: "),
        ("{name: \"a\\nb\", type: builtin}", "[0].name: "),
        ("{name: a, type: mail}", "[0].type: "),
        ("{name: a, type: webhook, url: 'ftp://x'}", "[0].url: expected a URL that begins with"),
        ("{name: a, type: webhook, url: 'http://'}", "[0].url: not a URL with a host"),
        ("{name: a, type: webhook, url: 'http://u:p@x/'}", "[0].url: a URL with a user or password"),
        ("{name: a, type: webhook, url: 'http://x:99999/'}", "[0].url: not a URL"),
        ("{name: a, type: webhook, url: 'http://x', headers: {'a b': c}}", f"[0].headers.{HIDDEN}: not a header name"),
        ("{name: a, type: webhook, url: 'http://x', headers: {Host: c}}", "[0].headers.Host: the gateway sets"),
        ("{name: a, type: webhook, url: 'http://x', headers: {A: \"b\\nc\"}}", "[0].headers.A: a header cannot"),
        (f"{{name: a, type: webhook, url: 'http://x', secrets: ['{SHORT}']}}", "[0].secrets[0]: expected 24 to 64"),
        ("{name: a, type: webhook, url: 'http://x', secrets: ['hm m, no base64']}", "[0].secrets[0]: expected base64"),
        ("{name: a, type: webhook, url: 'http://x', ca_file: gone.pem}", "[0].ca_file: no such file"),
        ("{name: a, type: webhook, url: 'http://x', retry: 11}", "[0].retry: "),
        ("{name: a, type: database, database: {driver: oracle, dsn: x}}", "[0].database.driver: "),
        ("{name: a, type: database, database: {driver: mysql, dsn: nonsense}}", "[0].database.dsn: expected a URL or"),
        ("{name: a, type: database, database: {driver: mysql, dsn: 'u@/d', table: 'x; DROP'}}", "[0].database.table: "),
        ("{name: a, type: database, database: {driver: sqlite, dsn: data/zuebee.db}}", "[0].database.table: is the st"),
    ],
)  # fmt: skip
def test_a_reporter_that_cannot_work_is_refused(reporters: str, problem: str) -> None:
    found = problems(reporters)
    assert len(found) == 1
    assert found[0].startswith(problem)
    assert "hm m" not in found[0]
    assert SHORT not in found[0]


@pytest.mark.requirement("A256", "A259", "A263", "A264")
@pytest.mark.parametrize(
    "reporters",
    [
        f"{{name: a b.c-d_1, type: webhook, url: 'https://x:1/p?q=1', secrets: ['{GOOD}', '{GOOD[6:]}']}}",
        "{name: a, type: database, database: {driver: mysql, dsn: 'user:pass@tcp(host:3306)/db'}}",
        "{name: a, type: database, database: {driver: mysql, dsn: 'mysql://user:pass@host:3306/db'}}",
        "{name: a, type: database, database: {driver: postgres, dsn: 'host=h user=u dbname=d'}}",
        "{name: a, type: database, database: {driver: postgres, dsn: 'postgres://u@h/d', table: billing.usage}}",
        "{name: a, type: database, database: {driver: sqlite, dsn: ./data/other.db}}",
        "{name: a, type: database, database: {driver: sqlite, dsn: data/zuebee.db, table: told}}",
        "{name: a, type: webhook, enabled: false}",
    ],
)
def test_reporters_that_can_work(reporters: str) -> None:
    assert problems(reporters) == []
