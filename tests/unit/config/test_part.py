"""Commands read what they need of a file, and stumble over nothing else."""

from pathlib import Path

import pytest

from zuebee.config.load import ConfigError, load_part


def write(folder: Path, text: str) -> str:
    (folder / "config.yaml").write_text(text)
    return str(folder / "config.yaml")


SECRETS = """
backends: [{url: os.environ/NOT_SET, api_key: os.environ/NOR_THIS}]
api_keys: [{key: os.environ/KEY, name: x}]
server: {tls: {cert_file: not-there.pem, key_file: os.environ/NO}}
redis: {addr: os.environ/REDIS}
auth: {pipeline: [{name: a, type: jwt, jwt: {issuers: os.environ/NO}}]}
usage: {retention_days: 7, reporters: [{name: hook, type: webhook, url: os.environ/HOOK, secrets: [os.environ/S]}]}
store: {path: z.db, spool_path: os.environ/SPOOL}
billing: {currency: EUR, prices: nonsense}
"""


def test_secrets_of_other_parts_are_not_needed(tmp_path: Path) -> None:
    part = load_part(write(tmp_path, SECRETS), {})
    assert (part.store.path, part.billing.currency) == (f"{tmp_path}/z.db", "EUR")
    assert (part.usage.retention_days, part.usage.reporters[0].name) == (7, "hook")
    assert part.source == f"`store.path` of {tmp_path}/config.yaml"


def test_where_the_store_was_named_is_known(tmp_path: Path) -> None:
    path = write(tmp_path, "usage: {path: old.db}\n")
    assert load_part(path, {}).source == f"`usage.path` of {path}"
    assert load_part(path, {"ZUEBEE_STORE__PATH": "b.db"}).source == "environment variable ZUEBEE_STORE__PATH"
    assert load_part(write(tmp_path, ""), {}).source == f"the default of `store.path`, beside {path}"
    url = {"ZUEBEE_STORE__URL": "postgresql://h/x"}
    assert load_part(path, url).source == "environment variable ZUEBEE_STORE__URL"


@pytest.mark.parametrize(
    ("text", "environ", "said"),
    [
        ("store: {url: os.environ/DATABASE}", {}, "`DATABASE` is not set"),
        ("store: {paht: z.db}", {}, "did you mean `path`"),
        ("stroe: {path: z.db}", {}, "did you mean `store`"),
        ("store: z.db", {}, "expected a mapping"),
        ("store: {path: 'mysql://h/x'}", {}, "not `mysql:...`"),
        ("store: {url: 'mysql://h/x'}", {}, "expected a postgresql:// URL"),
        ("{}", {"ZUEBEE_STROE__PATH": "z.db"}, "no such setting"),
        ("{}", {"ZUEBEE_STORE__PAHT": "z.db"}, "no such setting"),
        ("billing: {currency: euro}", {}, "currency"),
        ("- a list", {}, "expected settings"),
    ],
)
def test_what_may_mean_another_store_is_a_mistake(
    tmp_path: Path, text: str, environ: dict[str, str], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        load_part(write(tmp_path, text), environ)
