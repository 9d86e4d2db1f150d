"""The trust check: the model's weights only where they give its logits, and saying so where they do not."""

from __future__ import annotations

import dataclasses
import warnings

import architectures
import pytest
import small
import torch
from sides import PLAIN, all_cells, make_runs

import interp
from interp import steering
from interp.engine import compare, trust, wavefront
from interp.models import weights
from interp.models.parts import Weights


@pytest.fixture
def model():
    return architectures.build(dict(architectures.grid())[PLAIN])


def pick(model, engine="auto", site="z"):
    cells = all_cells(model, site, ("layer", "head"))
    with torch.inference_mode():
        return trust.choose(model, make_runs(), cells.sites, len(cells), engine)


def wrong_scale(model):
    """Weights as they would be read from a model whose attention scale was misunderstood."""
    good = weights(model)
    blocks = tuple(dataclasses.replace(b, attn=dataclasses.replace(b.attn, scale=1.7)) for b in good.blocks)
    return dataclasses.replace(good, blocks=blocks)


def test_fast_is_chosen_and_checked_once(model, monkeypatch):
    calls = []
    check = trust.difference
    monkeypatch.setattr(trust, "difference", lambda *a: (calls.append(1), check(*a))[1])
    assert [pick(model) for _ in range(3)] == ["fast"] * 3
    assert len(calls) == 1
    assert pick(model, site="q") == "fast"
    assert len(calls) == 2


def test_what_a_first_call_runs(model, monkeypatch):
    """The model once, on one prompt, and our pass beside it; the runs of a sweep once. Then these alone."""
    passes = []

    def counted(name, owner):
        run = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *a: (passes.append((name, len(a[1]))), run(*a))[1])

    for name, owner in (("logits", compare), ("_own_logits", compare), ("capture", wavefront)):
        counted(name, owner)
    given = task(model)
    interp.patch(model, given, "z", progress=False)
    assert passes == [("logits", 1), ("_own_logits", 1), ("capture", len(given))]
    passes.clear()
    interp.patch(model, given, "z", progress=False)
    assert passes == [("capture", len(given))]


def test_misread_weights_fall_back(model, monkeypatch):
    monkeypatch.setattr(trust, "weights", wrong_scale)
    with pytest.warns(UserWarning, match=r"using the reference engine, 12 forward passes .* its logits"):
        assert pick(model) == "reference"
    with pytest.raises(ValueError, match=r"fast engine cannot run this model: its weights do not give"):
        pick(model, "fast")


def test_missing_parts_fall_back(model, monkeypatch):
    def broken(model):
        raise AttributeError("no such part")

    monkeypatch.setattr(trust, "weights", broken)
    with pytest.warns(UserWarning, match=r"not laid out as expected .*no such part"):
        assert pick(model) == "reference"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"attention_dir": "bidirectional"}, "attention is not causal"),
        ({"use_logn_attn": True}, "log n"),
        ({"act_fn": "solu_ln"}, "activation 'solu_ln'"),
        ({"positional_embedding_type": "shortformer"}, "position embedding 'shortformer'"),
    ],
)
def test_architectures_left_to_the_reference(change, reason):
    model = architectures.build(change)
    with pytest.warns(UserWarning, match=reason):
        assert pick(model) == "reference"


def test_reference_needs_no_check(model, monkeypatch):
    monkeypatch.setattr(trust, "difference", None)
    assert pick(model, "reference") == "reference"


def test_verdicts_do_not_keep_a_model_alive():
    import gc
    import weakref

    model = architectures.build({})
    pick(model)
    watch = weakref.ref(model)
    del model
    gc.collect()
    assert watch() is None


def task(model, n_pos=9, lengths=None, n=2, **options):
    generator = torch.Generator().manual_seed(n_pos)
    lengths = [n_pos] * n if lengths is None else lengths
    clean = [torch.randint(3, 20, (length,), generator=generator).tolist() for length in lengths]
    corrupt = [[row[0], 20 + row[1] % 9, *row[2:]] for row in clean]
    return interp.Task.from_tokens(
        clean=clean, corrupt=corrupt, answer=[5] * len(clean), wrong=[6] * len(clean), **options
    )


def patched(model, given, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return interp.patch(model, given, options.pop("site", "z"), progress=False, **options)


def zeroed(model):
    model.blocks[1].mlp.register_forward_hook(lambda module, inputs, output: output * 0)


def replaced_forward(model):
    mlp = model.blocks[1].mlp
    mlp.forward = lambda x, forward=mlp.forward: 2 * forward(x)


def another_activation(model):
    model.blocks[1].mlp.act_fn = torch.sin


class Lora(torch.nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x) + 0.3 * x


def wrapped(model):
    model.blocks[1].mlp = Lora(model.blocks[1].mlp).eval()


@pytest.mark.parametrize("change", [zeroed, replaced_forward, another_activation, wrapped])
def test_a_verdict_does_not_outlive_the_model_that_it_was_taken_on(model, change):
    given = task(model)
    before = patched(model, given)
    assert before.attrs["engine"] == "fast"
    change(model)
    after, slow = patched(model, given), patched(model, given, engine="reference")
    assert after.attrs["engine"] == "reference"
    assert abs(after["value"] - slow["value"]).max() <= 1e-9
    assert abs(after["value"] - before["value"]).max() > 1e-3


def buffer_through_data(model):
    """What hides a later token hides nothing any more."""
    model.blocks[1].attn.IGNORE.data.fill_(0.0)


def field_that_is_a_tensor(model):
    norm = model.blocks[1].ln2
    norm.scale_of_mine = torch.tensor(1.0, dtype=torch.float64)
    norm.forward = lambda x, forward=norm.forward: norm.scale_of_mine * forward(x)
    patched(model, task(model))
    norm.scale_of_mine.data.mul_(2)


def state_outside(model):
    """A function whose numbers change without a trace in the model."""
    mlp, factor = model.blocks[1].mlp, [1.0]
    mlp.forward = lambda x, forward=mlp.forward: factor[0] * forward(x)
    patched(model, task(model))
    factor[0] = 2.0


class Adapter(torch.nn.Module):
    """An MLP with something beside it that starts at 0, as LoRA does."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.B = inner, torch.nn.Parameter(torch.zeros(24, 24, dtype=torch.float64))

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("inner"), name)

    def forward(self, x):
        return self.inner(x) + x @ self.B


def adapter_that_grows(model):
    model.blocks[1].mlp = adapter = Adapter(model.blocks[1].mlp).eval()
    assert patched(model, task(model)).attrs["engine"] == "fast"
    adapter.B.data.copy_(0.2 * torch.eye(24))


def pre_hook(model):
    model.blocks[1].mlp.register_forward_pre_hook(lambda module, args: (2 * args[0],))


def on_all_modules(model):
    mlp = model.blocks[1].mlp

    def hook(module, args, output):
        return output * 0 if module is mlp else None

    every.append(torch.nn.modules.module.register_module_forward_hook(hook))


every = []


@pytest.fixture
def no_hooks_left():
    yield
    while every:
        every.pop().remove()


def class_of_the_mlp(model):
    class Other(type(model.blocks[1].mlp)):
        def forward(self, x):
            return 2 * super().forward(x)

    model.blocks[1].mlp.__class__ = Other


def parametrized(model):
    class Half(torch.nn.Module):
        def forward(self, W):
            return W / 2

    torch.nn.utils.parametrize.register_parametrization(model.blocks[1].mlp, "W_in", Half())
    model.eval()


def flag_of_the_config(model):
    model.cfg.output_logits_soft_cap = 1.0


def weights_in_place(model):
    model.blocks[1].mlp.W_in.data.mul_(2)


CHANGES = (
    buffer_through_data, field_that_is_a_tensor, state_outside, adapter_that_grows, pre_hook, on_all_modules,
    class_of_the_mlp, parametrized, flag_of_the_config, weights_in_place,
)  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_no_change_of_a_model_is_missed(model, change, no_hooks_left):
    """Patches, activations and text are those of the model under hooks, whatever was done to it since."""
    given = task(model)
    before = patched(model, given)
    assert before.attrs["engine"] == "fast"
    change(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        after, slow = (patched(model, given, engine=engine) for engine in ("auto", "reference"))
        rows = [
            interp.activations(model, given.clean, "L2.resid_post", engine=engine)
            for engine in ("auto", "reference")
        ]
        texts = [
            steering.generate(model, given.clean, max_new_tokens=4, stop=(), engine=engine)
            for engine in ("auto", "reference")
        ]
    assert abs(after["value"] - slow["value"]).max() <= 1e-9
    assert abs(after["value"] - before["value"]).max() > 1e-3
    torch.testing.assert_close(rows[0], rows[1], rtol=0, atol=1e-9)
    assert torch.equal(*texts)


def test_a_shorter_prompt_is_checked_too(model, monkeypatch):
    """What depends on the whole prompt's length shows in shorter ones alone."""
    good = trust.difference

    def differs(model, parts, prompt, sites):
        return ("", "it is short") if prompt.shape[1] < 5 else good(model, parts, prompt, sites)

    monkeypatch.setattr(trust, "difference", differs)
    assert isinstance(trust.weights_of(model, task(model, 9).clean), Weights)
    assert isinstance(trust.weights_of(model, task(model, 7).clean), Weights)
    assert trust.weights_of(model, task(model, 3).clean) == "it is short"


def test_a_hook_of_torch_on_a_bridge_is_seen_for_as_long_as_it_is_there():
    model = small.bridge("gpt2")
    given = task(model)
    before = patched(model, given)
    assert before.attrs["engine"] == "fast"
    handle = model.blocks[1].mlp.register_forward_hook(lambda module, inputs, output: output * 0)
    after, slow = patched(model, given), patched(model, given, engine="reference")
    handle.remove()
    assert abs(after["value"] - slow["value"]).max() <= 1e-9
    assert abs(after["value"] - before["value"]).max() > 1e-3
    assert abs(patched(model, given)["value"] - before["value"]).max() == 0


def forwards_of(model, monkeypatch):
    """The forward passes of the model itself from here on, counted as they come."""
    passes, kind = [], type(model)
    forward = kind.forward
    monkeypatch.setattr(kind, "forward", lambda *args, **more: (passes.append(1), forward(*args, **more))[1])
    return passes


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_bridge_is_compared_once_and_what_it_records_of_a_pass_is_no_change(family, monkeypatch):
    """A bridge's attention keeps its last pattern: another tensor after every pass, which nothing reads."""
    model = small.new_bridge(family)  # its weights are changed below
    passes, given = forwards_of(model, monkeypatch), task(model)
    model(given.clean)  # the first of all passes makes its hook points
    passes.clear()
    before = patched(model, given)
    assert (before.attrs["engine"], len(passes)) == ("fast", 1)
    model(given.clean)
    model(given.clean[:1, :4])
    assert abs(patched(model, given)["value"] - before["value"]).max() == 0
    assert len(passes) == 3, "the two of this test and no more"
    for block in model.blocks:
        block.attn._pattern = torch.rand(1, 4, 9, 9, dtype=torch.float64)
    assert patched(model, given).attrs["engine"] == "fast"
    assert len(passes) == 3
    with torch.no_grad():
        model.unembed.W_U.mul_(0.5)
    after, slow = patched(model, given), patched(model, given, engine="reference")
    assert len(passes) > 3
    assert abs(after["value"] - slow["value"]).max() <= 1e-5
    assert abs(after["value"] - before["value"]).max() > 1e-3


def test_a_metric_of_small_numbers_does_not_fool_it(model, monkeypatch):
    """Probabilities below 3e-4 differ by less than any absolute tolerance."""
    monkeypatch.setattr(trust, "weights", wrong_scale)
    for metric in ("prob", "logit_diff"):
        assert patched(model, task(model), metric=metric).attrs["engine"] == "reference"


class Discarding(torch.nn.Module):
    """A hook point whose edits go nowhere, as where transformers computes attention."""

    def __init__(self, point):
        super().__init__()
        self.point = point

    def forward(self, x):
        self.point(x)
        return x


def test_a_hook_point_outside_the_path_is_refused(model):
    attn = model.blocks[1].attn
    attn.hook_pattern = Discarding(attn.hook_pattern).eval()
    assert patched(model, task(model), site="z", engine="reference").attrs["engine"] == "reference"
    with pytest.raises(ValueError, match=r"'pattern' cannot be changed here.*blocks\.1\.attn\.hook_pattern"):
        patched(model, task(model), site="pattern", engine="reference")


def test_a_site_of_another_shape_is_refused(model):
    class Flat(torch.nn.Module):
        def __init__(self, point):
            super().__init__()
            self.point = point

        def forward(self, x):
            return self.point(x.flatten(2)).view(x.shape)

    attn = model.blocks[1].attn
    attn.hook_z = Flat(attn.hook_z).eval()
    with pytest.raises(ValueError, match=r"site 'z' .*blocks\.1\.attn\.hook_z .*\[1, 9, 24\]"):
        patched(model, task(model), engine="reference")


def test_a_part_in_train_mode_is_refused(model):
    model.blocks[1].mlp.train()
    with pytest.raises(ValueError, match=r"blocks\.1\.mlp.* train mode"):
        patched(model, task(model))


def test_metrics_and_logits_that_are_not_finite_are_errors(model):
    nan = interp.tasks.Custom(lambda reading: reading.logits[:, 0] * torch.nan, name="mine")
    with pytest.raises(ValueError, match=r"metric 'mine' is nan for run 0 of 2"):
        patched(model, task(model), metric=nan)
    with torch.no_grad():
        model.unembed.W_U *= 1e308
        model.unembed.W_U *= 1e10
    for engine in ("auto", "reference"):
        with pytest.raises(ValueError, match="logits are not finite"):
            patched(model, task(model), engine=engine)


def test_a_model_made_double_afterwards_is_fast():
    """Its configuration still says float32."""
    model = architectures.build(dict(architectures.grid())[PLAIN] | {"dtype": torch.float32}).double()
    given = task(model)
    fast, slow = patched(model, given), patched(model, given, engine="reference")
    assert fast.attrs["engine"] == "fast"
    assert abs(fast["value"] - slow["value"]).max() <= 1e-4


def test_under_autocast_the_model_itself_runs():
    model = architectures.build(dict(architectures.grid())[PLAIN] | {"dtype": torch.float32})
    with torch.autocast("cpu", torch.bfloat16):
        with pytest.warns(UserWarning, match="autocast is on"):
            value = interp.patch(model, task(model), "z", progress=False)
        slow = patched(model, task(model), engine="reference")
    assert abs(value["value"] - slow["value"]).max() == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_judged_by_its_own_rounding(model, dtype, monkeypatch):
    given = task(model)
    half = model.to(dtype)
    half.cfg.dtype = dtype
    assert isinstance(trust.weights_of(half, given.clean), Weights)
    monkeypatch.setattr(trust, "weights", wrong_scale)
    trust._known.pop(half)
    assert isinstance(trust.weights_of(half, given.clean), str)


def test_a_model_made_in_inference_mode():
    with torch.inference_mode():
        model = architectures.build(dict(architectures.grid())[PLAIN])
    given = task(model)
    fast, slow = patched(model, given), patched(model, given, engine="reference")
    assert fast.attrs["engine"] == "fast"
    assert abs(fast["value"] - slow["value"]).max() <= 1e-12
    zeroed(model)
    assert patched(model, given).attrs["engine"] == "reference"
