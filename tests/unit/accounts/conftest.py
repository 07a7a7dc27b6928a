"""A store of its own for each test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.accounts import Store, opened


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with opened(f"sqlite:///{tmp_path}/store.db") as found:
        yield found
