from typing import get_args, get_type_hints

import pytest

from zuebee.config.settings import BackendSettings
from zuebee.models.catalogue import KINDS


@pytest.mark.requirement("A123", "A128", "A129")
def test_every_kind_of_the_settings_is_known() -> None:
    hints = get_type_hints(BackendSettings)
    assert set(get_args(hints["type"])) == set(KINDS)
    assert all(kind.health_path.startswith("/") for kind in KINDS.values())
