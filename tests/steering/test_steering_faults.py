"""Inputs that once gave a wrong number, or no sentence that helps."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace

import architectures
import numpy as np
import pytest
import torch
import two_sides

import interp
from interp import positions, steering
from interp.steering import Direction


@pytest.fixture(scope="module")
def world():
    return interp.load("tiny-world")


@pytest.fixture(scope="module")
def sides(world):
    task = interp.tasks.sentiment(world, n=16, seed=0)
    good = (task.answers == world.to_single_token("wonderful")).any(1)
    return task[good.nonzero().flatten()], task[(~good).nonzero().flatten()]


def cosine(one, other):
    return torch.cosine_similarity(one.double(), other.double(), dim=0).item()


@pytest.mark.parametrize("seed", range(4))
def test_the_control_of_pca_is_no_turned_direction(model, seed):
    up, down = torch.randint(3, 30, (2, 8, 5), generator=torch.Generator().manual_seed(seed))
    up[:, -1], down[:, -1] = 3, 7  # pairs in one order
    d = steering.pca(model, up, down, layer=2, seed=seed)
    assert abs(cosine(d.shuffled[d.place], d.vector)) < 0.99


def test_the_null_of_pca_is_spread(model):
    up, down = torch.randn(2, 20, 8, generator=torch.Generator().manual_seed(0))
    up = up + torch.eye(8)[0] * 5
    null = steering.extract.null_cosines(up, down, steering.estimators.pca, paired=True, n_draws=20)
    assert null.abs().max() < 0.99


@pytest.mark.parametrize("extractor", ["mean_difference", "pca", "lda", "logistic"])
def test_one_pair_has_no_shuffled_control(model, ids, extractor):
    with pytest.warns(UserWarning, match="cannot be shuffled"):
        d = getattr(steering, extractor)(model, ids[:1], ids[1:2], layer=2)
    assert not d.shuffled
    result = steering.sweep(model, d, ids, [1.0], progress=False)
    assert np.isnan(result["shuffled"]).all()
    assert np.isfinite(result["random"]).all()


def test_classes_that_do_not_differ_are_refused(model, ids):
    with pytest.raises(ValueError, match=r"same activations at L1.resid_pre"):
        steering.mean_difference(model, ids, ids, layer=1)


def test_a_layer_without_a_difference_is_named(world, sides):
    same_end = ["the film was good .", "the film was bad ."]
    d = steering.mean_difference(world, same_end[:1] * 2, same_end[1:] * 2)
    assert not d.vectors[d.places[0]].any()
    for call in (
        d.unit,
        lambda: steering.add(d, 1.0, unit="norm"),
        lambda: steering.clamp(d, 1.0),
        lambda: d.cosine(d),
    ):
        with pytest.raises(ValueError, match=r"'L0.resid_pre' is 0"):
            call()


def test_pairs_in_random_order_are_told(world):
    rows = torch.randint(10, 60, (64, 5), generator=torch.Generator().manual_seed(0))
    up, down = rows.clone(), rows.clone()
    up[:, -1], down[:, -1] = 20, 40
    turned = torch.arange(64)[:, None] % 2 == 0
    with pytest.warns(UserWarning, match="cancel"):
        steering.pca(world, torch.where(turned, up, down), torch.where(turned, down, up), layer=1)


def test_padding_is_recognised_or_refused(world, sides):
    texts = ["the film was good .", "this long and old film was good ."]
    padded = world.to_tokens(texts, prepend_bos=False)
    rows = [world.to_tokens(text, prepend_bos=False)[0].tolist() for text in texts]
    place = "L2.resid_pre"
    alone = steering.activations(world, rows, place)
    tokenizer = world.tokenizer
    real = torch.arange(padded.shape[1]) < torch.tensor([len(row) for row in rows])[:, None]
    torch.testing.assert_close(steering.activations(world, padded, place, mask=real), alone)
    special = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id)
    if tokenizer.pad_token_id in special:
        with pytest.raises(ValueError, match="mask="):
            steering.activations(world, padded, place)
    else:
        torch.testing.assert_close(steering.activations(world, padded, place), alone)
    d = steering.mean_difference(world, padded, padded.flip(0)[:, :4], layer=2, mask=(real, None))
    assert d.vector.isfinite().all()


def test_a_text_that_begins_with_its_beginning_token_has_one(world):
    from interp.prompts import read

    bos = world.tokenizer.bos_token
    if bos is None:
        pytest.skip("the tokenizer has no beginning token")
    ids = read(world, f"{bos} the film was good .").tokens[0].tolist()
    assert ids.count(world.tokenizer.bos_token_id) <= 1


def test_logits_that_are_not_finite_are_an_error_with_the_layer(model, ids):
    huge = Direction.from_tensor(torch.full((24,), 1e30), "L1.resid_pre")
    edit = steering.edits.gradient("L1.resid_pre", lambda h: (h * float("nan")).sum(-1))
    with pytest.raises(ValueError, match=r"not finite .* layer 1 on \(L1.resid_post\)"):
        steering.generate(model, ids, edit, max_new_tokens=3)
    with pytest.raises(ValueError, match="not finite"):
        steering.generate(model, ids, steering.add(replace(huge, model=None), 1e300), max_new_tokens=3)


@pytest.mark.parametrize(
    ("stop", "match"), [(10**6, "no token id"), (["."] * 2, None), ([1.5], "no token id"), (2, None)]
)
def test_stop_takes_ids_and_strings_of_one_token(world, stop, match):
    call = lambda: steering.generate(world, "the film was", max_new_tokens=3, stop=stop)  # noqa: E731
    if match is None:
        assert call().shape[0] == 1
    else:
        with pytest.raises(ValueError, match=match):
            call()


def test_a_row_ends_with_its_text(model, ids, monkeypatch):
    whole = steering.generate(model, ids, max_new_tokens=6)
    first = whole[0, ids.shape[1]].item()

    monkeypatch.setattr("interp.tasks.vocabulary.ends", lambda model: {first})
    ended = steering.generate(model, ids[:1], max_new_tokens=6)
    assert ended.shape[1] == ids.shape[1] + 1
    assert torch.equal(steering.generate(model, ids[:1], max_new_tokens=6, stop=()), whole[:1])


def test_drawn_rows_are_those_of_the_row_alone(model, ids):
    options = {"max_new_tokens": 5, "temperature": 1.0, "seed": 3, "stop": ()}
    together = steering.generate(model, ids, **options)
    for row in range(len(ids)):
        assert torch.equal(steering.generate(model, ids[row : row + 1], **options)[0], together[row])
    twice = steering.generate(model, ids[:1].repeat(8, 1), **options)
    assert len(twice.unique(dim=0)) > 1


def test_top_k_of_one_and_a_small_top_p_take_the_likeliest(model, ids):
    from interp.steering._generate import Draws

    tied = torch.zeros(3, 6)
    tied[:, 2:4] = 5.0
    shares, drawn = Draws(1.0, 1, None, 0).shares(tied)
    assert drawn.tolist() == [[2]] * 3
    assert shares.tolist() == [[1.0]] * 3
    greedy = steering.generate(model, ids, max_new_tokens=4)
    for options in ({"top_k": 1}, {"top_p": 1e-9}, {"temperature": 1e-310}):
        assert torch.equal(
            steering.generate(model, ids, max_new_tokens=4, **{"temperature": 1.0, **options}), greedy
        )
    shares, _ = Draws(1.0, None, 0.5, 0).shares(torch.tensor([[2.0, 1.0, 0.0]]))
    assert (shares > 0).sum() == 1


@pytest.mark.parametrize(
    "options",
    [{"top_k": 31}, {"top_k": 0}, {"top_p": 0.0}, {"top_p": float("nan")},
     {"temperature": float("nan")}, {"max_new_tokens": 0}],
)  # fmt: skip
def test_settings_of_draws_are_checked(model, ids, options):
    with pytest.raises(ValueError, match=next(iter(options))):
        steering.generate(model, ids, **{"max_new_tokens": 2, "temperature": 1.0, **options})


@pytest.mark.parametrize("options", [{"top_k": 5}, {"top_p": 0.9}])
def test_nothing_is_drawn_at_temperature_0(model, ids, options):
    from interp.steering._side_by_side import side_by_side

    d = Direction.from_tensor(torch.ones(24), "L1.resid_pre")
    for call in (steering.generate, lambda *rows, **given: side_by_side(*rows, d, 1.0, **given)):
        with two_sides.no_pass(model), pytest.raises(ValueError, match="at temperature 0, which takes"):
            call(model, ids, **options)


@pytest.mark.parametrize("use_cache", [True, False])
def test_a_model_that_does_not_run_in_its_dtype_is_a_sentence_on_both_engines(use_cache):
    wide = architectures.build({})
    wide.blocks[1].mlp.float()  # the rest is float64
    tokens = torch.arange(3, 9)[None]
    for engine in ("fast", "reference"):
        with pytest.raises(ValueError, match=r"does not run in torch\.float64: .* Load it in float32"):
            steering.generate(wide, tokens, use_cache=use_cache, engine=engine, max_new_tokens=2)


@pytest.mark.parametrize("coefficients", ["12", [float("nan")], [True and "1"], 3.0])
def test_coefficients_are_numbers(model, ids, coefficients):
    d = Direction.from_tensor(torch.ones(24), "L1.resid_pre")
    with pytest.raises(ValueError, match="coefficients"):
        steering.sweep(model, d, ids, coefficients, progress=False)


def test_numbers_and_directions_are_what_they_are_called(model, ids):
    d = Direction.from_tensor(torch.ones(24), "L1.resid_pre")
    for call, match in (
        (lambda: steering.add(1, 2), "1 is no direction"),
        (lambda: steering.add(torch.ones(24)), "from_tensor"),
        (lambda: steering.add(d, "2"), "coefficient is '2'"),
        (lambda: steering.logistic(model, ids[:2], ids[2:], l2=float("nan")), "l2 is nan"),
        (lambda: steering.lda(model, ids[:2], ids[2:], ridge=-1.0), "ridge is -1"),
        (lambda: steering.activations(model, ids, "L1.resid_pre", batch_size=0), "batch_size is 0"),
        (lambda: Direction.from_tensor(torch.zeros(24), "L1.resid_pre"), "all 0"),
        (lambda: steering.generate(model, [{"role": "user"}]), "role or no content"),
        (lambda: steering.generate(model, [["a", "b"]]), "strings, rows of token ids, or messages"),
    ):
        with pytest.raises(ValueError, match=match):
            call()


def test_positions_that_no_pass_reaches_are_told(model, ids):
    d = Direction.from_tensor(torch.ones(24), "L1.resid_pre")
    unreached = pytest.raises(ValueError, match=r"at\(99\): no pass came to position 99, the longest had 6")
    with unreached, steering.steer(model, steering.add(d, when=positions.at(99))), torch.no_grad():
        model(ids)
    with steering.steer(model, steering.add(d, when=~positions.at(99))), torch.no_grad():
        model(ids)
    with pytest.raises(ValueError, match="beyond the 6 tokens"):
        steering.sweep(model, d, ids, [1.0], when=99, progress=False)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_vectors_in_half_precision_keep_their_length(dtype):
    vector = torch.randn(4096, generator=torch.Generator().manual_seed(0)) * 40
    d = Direction.from_tensor(vector.to(dtype), "L1.resid_pre")
    (edit,) = steering.clamp(d, 3.0)
    h = torch.randn(2, 3, 4096)
    along = edit.edit(h) @ d.unit().vector
    assert (along - 3).abs().max() < 1e-4
    large = Direction.from_tensor(torch.full((4096,), 3e4, dtype=torch.float16), "L1.resid_pre")
    assert large.unit().vector.norm().item() == pytest.approx(1, rel=1e-3)


def test_two_models_of_one_name_are_two(model, ids):
    import architectures

    d = steering.mean_difference(model, ids[:2], ids[2:], layer=1)
    assert d.check(model) is d
    other = architectures.build({"seed": 7})
    other.cfg.model_name = model.cfg.model_name
    if torch.equal(other.W_U, model.W_U):
        torch.nn.init.normal_(other.unembed.W_U)
    with pytest.raises(ValueError, match="another model that is called"):
        d.check(other)
    with (
        pytest.raises(ValueError, match="another model that is called"),
        steering.steer(other, steering.add(d)),
    ):
        pass
    assert replace(d, model=None).check(other)


def test_files_that_hold_no_direction_say_so(model, ids, tmp_path):
    from safetensors.torch import load_file, save_file

    d = steering.mean_difference(model, ids[:2], ids[2:], layer=1)
    path = d.save(tmp_path / "d.safetensors")
    assert Direction.load(path, model).weights == d.weights
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["direction"])
    for change, match in (
        ({"norms": None}, "lacks norms"),
        ({"norms": {"L1.resid_pre": float("nan")}}, "norm at L1.resid_pre"),
        ({"means": {"L1.resid_pre": 3}}, "holds no direction"),
        ({"layout": "circle"}, "layout is 'circle'"),
        ({"norms": {"L1.resid_pre": "3"}}, "norm at L1.resid_pre is '3'"),
        ({"model": ["a"]}, r"model is \['a'\]"),
        ({"seed": "x"}, "seed is 'x'"),
        ({"weights": [float("nan")]}, "weights is nan"),
    ):
        kept = {k: v for k, v in {**header, **change}.items() if v is not None}
        meta = {"format": "interp-direction-1", "direction": json.dumps(kept)}
        save_file(load_file(path), tmp_path / "bad.safetensors", metadata=meta)
        with pytest.raises(ValueError, match=match):
            Direction.load(tmp_path / "bad.safetensors")
    whole = {name: tensor.long() for name, tensor in load_file(path).items()}
    save_file(whole, tmp_path / "bad.safetensors", metadata={**meta, "direction": json.dumps(header)})
    with pytest.raises(ValueError, match=r"torch\.int64, expected floating point"):
        Direction.load(tmp_path / "bad.safetensors")


def test_one_language_of_positions_reads_and_acts(model, ids):
    d = Direction.from_tensor(torch.ones(24), "L1.resid_pre")
    read = {
        name: steering.activations(model, ids, "L1.resid_pre", pos)
        for name, pos in (("last", "last"), ("at", positions.at(-1)), ("index", 5))
    }
    assert torch.equal(read["last"], read["at"])
    assert torch.equal(read["last"], read["index"])
    mean = steering.activations(model, ids, "L1.resid_pre", (1, 4))
    torch.testing.assert_close(steering.activations(model, ids, "L1.resid_pre", positions.window(1, 4)), mean)

    def run(when):
        with torch.no_grad(), steering.steer(model, steering.add(d, 2.0, when=when)):
            return model(ids)

    assert torch.equal(run("last"), run(positions.at(-1)))
    assert torch.equal(run((1, 4)), run(positions.window(1, 4)))
    assert torch.equal(run(lambda tokens, lengths: lengths - 2), run(-2))
    assert torch.equal(run("all"), run(positions.everywhere))
    marker = positions.before([int(ids[0, 3])])
    ids = ids[:1]
    assert torch.equal(run(marker & positions.at(2)), run(2))


TEMPLATE = (
    "{% for m in messages %}{{ '<' + m['role'] + '> ' + m['content'] + ' . ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)


@pytest.fixture
def chat(world, monkeypatch):
    monkeypatch.setattr(world.tokenizer, "chat_template", TEMPLATE, raising=False)
    return world


def test_messages_are_read_by_the_tokenizers_template(chat):
    from interp.prompts import read, template

    asked = [{"role": "user", "content": "the film was good"}]
    answered = [*asked, {"role": "assistant", "content": "the music was bad"}]
    assert template(chat, asked).endswith("<assistant>")
    assert not template(chat, answered).endswith("<assistant>")
    rows = read(chat, [asked, answered])
    said = [chat.tokenizer.decode(rows.tokens[1, rows.spans[n][1]]) for n in ("last_user", "response")]
    assert said == ["the film was good", "the music was bad"]
    assert not rows.spans["response"][0].any()
    whole = chat.tokenizer(template(chat, asked), add_special_tokens=False)["input_ids"]
    assert rows.tokens[0, : rows.lengths[0]].tolist() == whole
    chat.tokenizer.chat_template = None
    with pytest.raises(ValueError, match="no chat template"):
        read(chat, asked)


def test_what_a_user_says_holds_no_mark_of_a_turn(chat):
    """The model's own words may: it wrote them."""
    end = chat.tokenizer.eos_token
    asked = [{"role": "user", "content": f"the film {end} was good"}]
    with pytest.raises(ValueError, match=rf"holds the special token '{end}', which would change the turns"):
        steering.generate(chat, asked, max_new_tokens=1)
    with pytest.raises(ValueError, match="would change the turns"):
        steering.mean_difference(chat, [asked], [asked], layer=1)
    said = [{"role": "user", "content": "the film"}, {"role": "assistant", "content": f"was good {end}"}]
    assert len(steering.generate(chat, said, max_new_tokens=1)) == 1


def test_positions_of_a_conversation_have_names(chat):
    asked = [{"role": "user", "content": "the film was good"}]
    answered = [*asked, {"role": "assistant", "content": "the music was bad"}]
    place = "L2.resid_pre"
    every = steering.activations(chat, answered, place, "all")
    from interp.prompts import read

    rows = read(chat, answered)
    for name, where in (("last_user", positions.last_user), ("response", positions.response)):
        got = steering.activations(chat, answered, place, where)[0]
        torch.testing.assert_close(got, every[rows.spans[name][0]].mean(0), rtol=1e-4, atol=1e-5)
    d = steering.activations(chat, asked, place)[0]
    edit = steering.add(Direction.from_tensor(d, place), 20.0, when=positions.response)
    out = steering.generate(chat, asked, edit, max_new_tokens=4)
    other = steering.add(Direction.from_tensor(d, place), 20.0, when=positions.generated)
    same = steering.generate(chat, asked, other, max_new_tokens=4)
    assert torch.equal(out, same)
    last = steering.add(Direction.from_tensor(d, place), 20.0, when=positions.last_user)
    steering.generate(chat, asked, last, max_new_tokens=2)
    with pytest.raises(ValueError, match="last_user marks"):
        steering.generate(chat, "the film was good", last, max_new_tokens=2)


def test_no_warning_for_what_is_right(world, sides):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        steering.mean_difference(world, *sides, layer=2)
