"""A store is named by a postgresql:// URL or a path."""

from zuebee.config.settings_billing import StoreSettings
from zuebee.config.validate import store_findings


def test_what_is_not_used_is_not_looked_at() -> None:
    assert not list(store_findings(StoreSettings(url="postgresql://h/x", path="mysql://h/x")))
    assert not list(store_findings(StoreSettings()))


def test_other_schemes_are_mistakes() -> None:
    [(where, said, fatal)] = store_findings(StoreSettings(url="sqlite:///z.db"))
    assert (where, fatal) == (("store", "url"), True)
    assert "`store.path`" in said
    [(where, said, _)] = store_findings(StoreSettings(path="postgresql://u:s3cret@h/x"))
    assert where == ("store", "path")
    assert "`store.url`" in said
    assert "s3cret" not in said
