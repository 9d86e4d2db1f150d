"""The factory of results, and the browser that PNG export needs."""

from __future__ import annotations

import os
import shutil

import pytest
from handmade import make


@pytest.fixture
def result():
    return make


@pytest.fixture
def browser() -> None:
    """Skip without a browser and kaleido."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    if not (os.environ.get("BROWSER_PATH") or any(shutil.which(name) for name in names)):
        pytest.skip("no Chromium on this machine: PNG export is not tested")
    pytest.importorskip("kaleido", reason="kaleido is not installed: PNG export is not tested")
