# SPDX-License-Identifier: Apache-2.0
"""What the tests of the report share.  Also makes the helpers beside them importable (--import-mode=importlib)."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.report.browser import Browser, driver

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One for all tests of a module."""
    yield from driver()
