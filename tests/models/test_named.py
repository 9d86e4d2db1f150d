"""Names of TransformerLens: suggestions without the network, and a clear error where there is none."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
import torch
from model_folders import CLASS

import interp
from interp.models import ModelNotReachable, _load, _release
from interp.models._release import has_hooked_transformer


@pytest.fixture
def no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("transformers.utils.hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.fixture
def no_network(no_cache: None, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """No connection can be made; the addresses that were tried."""
    tried: list[Any] = []

    def refuse(address: Any, **_: Any) -> None:
        tried.append(address)
        raise OSError("no network in this test")

    monkeypatch.setattr("socket.create_connection", refuse)
    monkeypatch.setattr("urllib.request.getproxies", dict)
    return tried


@pytest.mark.parametrize(
    ("name", "near"), [("gpt2-smal", "gpt2-small"), ("tiny-ioj", "tiny-ioi"), ("pythia-70n", "pythia-70m")]
)
def test_an_unknown_name(name: str, near: str, no_network: list[Any]) -> None:
    with pytest.raises(ValueError, match=f"'{name}' is neither a bundled model .*'{near}'"):
        interp.load(name)
    assert no_network == []


@pytest.mark.parametrize("name", ["gpt2", "pythia-70m"])
def test_no_network(name: str, no_network: list[Any]) -> None:
    with pytest.raises(
        ModelNotReachable, match=r"could not be fetched: .*--local-dir FOLDER.*Works offline: tiny-ioi"
    ):
        interp.load(name)
    assert len(no_network) == 1  # tried once, not again and again


def test_an_unknown_model_of_the_hub(no_network: list[Any]) -> None:
    with pytest.raises(
        ModelNotReachable, match=r"no model of that name. The nearest names are 'eleutherai/pythia-70m'"
    ):
        interp.load("EleutherAI/pythia-70mm")


def test_hub_offline_by_the_users_own_wish(no_cache: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(_release, "reachable", lambda: True)
    with pytest.raises(ModelNotReachable, match=r"'gpt2' is not on this machine"):
        interp.load("gpt2")


def test_the_error_is_an_os_error_and_a_value_error() -> None:
    assert issubclass(ModelNotReachable, OSError)
    assert issubclass(ModelNotReachable, ValueError)


def test_offline_mode_ends_with_the_load() -> None:
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    inside = _release.offline()
    with contextlib.suppress(KeyError), inside:
        assert constants.HF_HUB_OFFLINE is True
        raise KeyError
    assert constants.HF_HUB_OFFLINE is before


def test_flags_reach_transformer_lens(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    class Made:
        cfg = type("Cfg", (), {})()

        def eval(self) -> Made:
            return self

        def enable_compatibility_mode(self, **flags: Any) -> None:
            seen.update(flags)

    def make(name: str, **flags: Any) -> Made:
        seen.update(flags, name=name)
        return Made()

    monkeypatch.setattr(_release, "reachable", lambda: True)
    if has_hooked_transformer():
        from transformer_lens import HookedTransformer

        monkeypatch.setattr(HookedTransformer, "from_pretrained", make)
    else:
        from transformer_lens.model_bridge import TransformerBridge

        monkeypatch.setattr(_release, "boot_flags", lambda: _release.FOLDER_FLAGS)
        monkeypatch.setattr(TransformerBridge, "boot_transformers", make)
    interp.load("pythia-70m", dtype="bfloat16", fold_ln=False)
    assert seen["fold_ln"] is False
    assert seen["dtype"] == torch.bfloat16
    assert seen["name"] == ("pythia-70m" if CLASS == "HookedTransformer" else "EleutherAI/pythia-70m")


def test_names_and_aliases_lead_to_the_hubs_name() -> None:
    names = _load.official_names()
    assert names["gpt2-small"] == names["gpt2"] == "gpt2"
    assert names["pythia-70m"] == names["eleutherai/pythia-70m"] == "EleutherAI/pythia-70m"
    assert len(names) > 200
