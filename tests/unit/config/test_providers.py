from typing import get_args

import pytest

from zuebee.config.load import ConfigError, loads
from zuebee.config.providers import PROVIDERS, ProviderName


@pytest.mark.requirement("A123", "A127", "A128", "A129", "A157")
def test_every_name_of_the_settings_is_a_row() -> None:
    assert set(get_args(ProviderName)) == set(PROVIDERS)
    assert all(row.health_path.startswith("/") and row.models_path.startswith("/") for row in PROVIDERS.values())
    assert all(row.url.startswith("https://") for row in PROVIDERS.values() if row.url)


@pytest.mark.parametrize("name", [name for name, row in PROVIDERS.items() if row.url and name != "openai"])
def test_a_provider_has_an_address_of_its_own(name: str) -> None:
    loaded = loads(f"backends:\n  - type: {name}\n    api_key: k\n", "c.yaml", {}, is_file=lambda _: True)
    assert loaded.settings.backends[0].url == PROVIDERS[name].url  # type: ignore[index]


@pytest.mark.parametrize("name", ["openai", "vllm", "azure"])
def test_a_server_of_ones_own_needs_one(name: str) -> None:
    with pytest.raises(ConfigError, match=r"backends\[0\].url: required"):
        loads(f"backends:\n  - type: {name}\n", "c.yaml", {}, is_file=lambda _: True)
