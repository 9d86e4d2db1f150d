"""Training: the fast forward pass is HookedTransformer's, the loss falls, and the files load again."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from model_folders import SIZES, TOKENS, random_state, write

import interp
from training import __main__ as command
from training import evaluate, ioi_card, network, optimise
from training.batches import Batch
from training.language import Language


def test_the_network_is_the_loaded_model(tmp_path: Path) -> None:
    state = random_state(
        {name: value.shape for name, value in network.initial(SIZES, 0).items()}
        | {"unembed.b_U": torch.Size([SIZES.d_vocab])}
    )
    model = interp.load(write(tmp_path, network.hooked_config(SIZES, "x"), state))
    ours = network.logits(state, TOKENS)
    torch.testing.assert_close(model(TOKENS), ours, atol=1e-5, rtol=0)
    assert ours.std() > 0.1


def test_the_loss_is_a_weighted_mean() -> None:
    logits = torch.zeros(1, 4, 5)
    logits[0, 1, 2] = math.log(4)  # p(token 2) is a half after the second token
    batch = Batch(torch.tensor([[1, 0, 2, 3]]), torch.tensor([[0.0, 1.0, 5.0, 0.0]]))
    assert optimise.loss(logits, batch).item() == pytest.approx((math.log(5) + 5 * math.log(2)) / 6)


def test_the_schedule_warms_up_and_decays() -> None:
    schedule = optimise.Schedule(steps=1000, warmup=100, learning_rate=1.0)
    rates = [schedule.rate(step) for step in range(1000)]
    assert max(range(1000), key=rates.__getitem__) in (99, 100)
    assert rates[0] == pytest.approx(0.01)
    assert rates[-1] < 0.03
    assert schedule.copying_rows(0) > schedule.copying_rows(999) > 0


def short_run(seed: int = 0) -> tuple[list[str], optimise.Trained]:
    language, lines = Language(0), []
    sizes = network.Sizes(d_vocab=len(language.vocabulary()), n_layers=1, d_model=32, n_heads=2, d_mlp=32)
    schedule = optimise.Schedule(steps=60, rows=24, warmup=10, learning_rate=1e-2)
    return lines, optimise.train(language, sizes, schedule, seed, log=lines.append, every=59)


def test_the_loss_falls_and_the_run_repeats() -> None:
    state = torch.get_rng_state()
    lines, trained = short_run()
    first, last = (float(line.split()[3]) for line in lines)
    assert first > 5 > 4 > last
    assert torch.equal(torch.get_rng_state(), state)
    again = short_run()[1]
    assert all(torch.equal(value, again.parameters[name]) for name, value in trained.parameters.items())
    other = short_run(seed=1)[1]
    assert not torch.equal(other.parameters["embed.W_E"], trained.parameters["embed.W_E"])


def test_the_command_writes_a_folder_that_loads(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    threads = torch.get_num_threads()
    command.main(["tiny-ioi", "--steps", "2", "--out", str(tmp_path), "--threads", str(threads)])
    card = json.loads((tmp_path / "card.json").read_text())
    assert card["training"]["steps"] == 2
    model = interp.load(tmp_path)
    assert (
        sum(parameter.numel() for parameter in model.parameters()) >= card["parameters"] - model.cfg.d_vocab
    )
    found = evaluate.figures(model, Language(0))
    assert found["text_loss"] == pytest.approx(card["figures"]["text_loss"], abs=1e-5)
    assert "step     1" in capsys.readouterr().out
    assert set(card["tasks"]) == {"ioi", "induction", "greater_than"}
    assert all(0 < share < 1 for share in card["tasks"].values())
    assert f"{card['figures']['text_loss']:.4f}" in (tmp_path / "README.md").read_text()


def test_the_card_counts_the_parameters() -> None:
    language = Language(0)
    sizes = network.Sizes(d_vocab=len(language.vocabulary()))
    card = ioi_card.card("x", sizes, network.initial(sizes, 0), {}, {})
    assert (
        card["parameters"]
        == 12 * 3 * 64**2 + 3 * (9 + 4) * 64 + 2 * 64 + (2 * 64 + 1) * sizes.d_vocab + 48 * 64
    )
