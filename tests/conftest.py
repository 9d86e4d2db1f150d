"""Offline by default: no test may reach a network. One thread, set before torch is imported."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the models are tiny: threads would only wait for one another
os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
sys.path.insert(0, str(Path(__file__).parent))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """What is drawn without a generator is the same whichever tests ran before, and on whichever worker."""
    import numpy as np
    import torch

    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def shared_models_are_left_as_found() -> Iterator[None]:
    """Else the next test's result is an accident of the order."""
    yield
    if "small" in sys.modules:
        assert not (changed := sys.modules["small"].changed()), (
            f"the test changed a shared model: {changed[:6]}"
        )
