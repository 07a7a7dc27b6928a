import pytest

from zuebee.config.settings import ProxySettings

BOTH = ProxySettings(http="http://p:1", https="http://p:2", no_proxy=["a.example", "b.example:8080", "10.0.0.0/8"])


@pytest.mark.parametrize(
    ("url", "proxy"),
    [
        ("http://c.example/v1", "http://p:1"),
        ("HTTPS://c.example/v1", "http://p:2"),
        ("http://a.example", None),
        ("https://x.a.example:444/", None),
        ("http://b.example:8080", None),
        ("http://b.example", "http://p:1"),
        ("https://10.1.2.3", None),
        ("http://localhost:1", None),
        ("https://[::1]:1", None),
        ("ftp://c.example", None),
        ("", None),
    ],
)
def test_the_proxy_on_the_way_to_a_url(url: str, proxy: str | None) -> None:
    assert BOTH.of(url) == proxy


def test_each_scheme_has_its_own() -> None:
    assert ProxySettings(https="http://p:2").of("http://c.example") is None
    assert ProxySettings(https="http://p:2").of("https://c.example") == "http://p:2"
    assert ProxySettings().of("https://c.example") is None


@pytest.mark.parametrize("url", ["http://[::1", "http://a:port"])
def test_what_is_no_url_is_an_error(url: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        BOTH.of(url)
