"""Names of TransformerLens: suggestions without the network, a clear error where there is none; models out of
the hub's cache, compared with transformers."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
import torch
from model_folders import CLASS, TOKENS, WORDS, save_random

import interp
from interp.models import ModelNotReachable, _load, _release
from interp.models._folder import write_tokenizer
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


CACHED = {
    "gpt2": ("GPT2", {"n_layer": 2, "n_embd": 32, "n_head": 4, "n_positions": 64, "n_ctx": 64}),
    "pythia-70m": (
        "GPTNeoX",
        {
            **{"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 48},
            **{"max_position_embeddings": 64, "rotary_pct": 0.5},
        },
    ),
}
LINEAR = {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0, "partial_rotary_factor": 0.5}


@pytest.fixture
def cached(no_cache: None, no_network: list[Any], tmp_path: Path) -> Any:
    """Puts a small random model of transformers into the hub's cache, laid out as a download leaves it."""
    import transformers

    def put(name: str, **changes: Any) -> Path:
        kind, sizes = CACHED[name]
        repository = tmp_path / "hub" / ("models--" + _load.official_names()[name].replace("/", "--"))
        folder = repository / "snapshots" / ("0" * 40)
        config = getattr(transformers, f"{kind}Config")(vocab_size=len(WORDS), **(sizes | changes))
        save_random(getattr(transformers, CLASSES[kind]), config, folder)
        write_tokenizer(WORDS, folder, 64)
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text("0" * 40)
        return folder

    return put


CLASSES = {"GPT2": "GPT2LMHeadModel", "GPTNeoX": "GPTNeoXForCausalLM"}


def theirs(folder: Path) -> torch.Tensor:
    from transformers import AutoModelForCausalLM

    with torch.no_grad():
        return AutoModelForCausalLM.from_pretrained(folder).eval()(TOKENS).logits.log_softmax(-1)


@pytest.mark.parametrize("name", CACHED)
def test_a_model_out_of_the_cache(name: str, cached: Any) -> None:
    folder = cached(name)
    model = interp.load(name)
    assert type(model).__name__ == CLASS
    torch.testing.assert_close(model(TOKENS).log_softmax(-1), theirs(folder), atol=1e-4, rtol=1e-3)


def test_a_name_whose_conversion_drops_a_field_is_bridged(cached: Any) -> None:
    folder = cached("pythia-70m", rope_parameters=LINEAR)
    model = interp.load("pythia-70m")
    assert type(model).__name__ == "TransformerBridge"
    torch.testing.assert_close(model(TOKENS).log_softmax(-1), theirs(folder), atol=1e-4, rtol=1e-3)


def test_a_name_that_is_not_the_model_is_refused(cached: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cached("gpt2")
    for maker in ("_hooked", "_bridge"):
        make = getattr(_load, maker)

        def wrong(*args: Any, make: Any = make) -> Any:
            model = make(*args)
            model.pos_embed.state_dict()[next(iter(model.pos_embed.state_dict()))].mul_(0.9)
            return model

        monkeypatch.setattr(_load, maker, wrong)
    with pytest.raises(ValueError, match=r"'gpt2': .* is not the model. Its logits differ .* spread"):
        interp.load("gpt2")
