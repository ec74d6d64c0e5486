"""Makes `harness` importable from these tests, whatever directory pytest was started in."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
pytest.register_assert_rewrite("harness")


@pytest.fixture(autouse=True)
def _no_policy_files_left() -> Iterator[None]:
    yield
    from harness import remove_policies

    remove_policies()
