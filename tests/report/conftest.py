"""The factory of results."""

from __future__ import annotations

import pytest
from handmade import make


@pytest.fixture
def result():
    return make
